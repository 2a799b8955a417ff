// What the login page says. {name} is filled in; a function words a number.

export const strings = {
  en: {
    pageTitle: 'Log in · scanlogin demo',
    headline: 'Log in with a scan',
    lead: 'No password to make up, none to remember. Your phone says who you are.',
    headlineIn: 'That was all',
    leadIn: 'The site knows this account by its OpenID, and whatever name and picture the phone chose to give.',
    step1: 'Open WeChat on your phone and scan the code.',
    step2: 'Check that the site, the browser and the address it names are yours.',
    step3: 'Confirm. This page goes on by itself.',
    cardTitle: 'Scan with WeChat',

    profileTitle: 'Hello, {name}',
    profileText: 'You are logged in.',
    withWechat: 'logged in with WeChat',
    simulated: 'simulated',
    openid: 'OpenID',
    since: 'Logged in',
    anonymous: 'WeChat user {id}',

    logout: 'Log out',

    simulatorTitle: 'WeChat is simulated',
    simulatorText: 'No real WeChat account is used; anybody can log in as anybody.',
    openPhone: 'Open the simulated phone',
    openPhoneHint: 'The code is a plain QR of that page: any phone that reaches this machine may scan it too.',
    openPhoneHintLocal: 'The code is a plain QR of that page, which only this machine reaches.',

    refused: 'This login can no longer be finished',
    refusedText: 'Start over to get a new code.',
  },

  zh: {
    pageTitle: '登录 · scanlogin demo',
    headline: '扫一扫，即登录',
    lead: '不用想密码，也不用记密码，手机就能证明你是谁。',
    headlineIn: '就这么简单',
    leadIn: '网站只知道这个账号的 OpenID，以及手机愿意提供的昵称和头像。',
    step1: '打开手机微信，扫描二维码。',
    step2: '核对手机上显示的网站、浏览器和 IP 地址是否属实。',
    step3: '点“确认登录”，本页会自动继续。',
    cardTitle: '微信扫码登录',

    profileTitle: '你好，{name}',
    profileText: '你已登录。',
    withWechat: '通过微信登录',
    simulated: '模拟',
    openid: 'OpenID',
    since: '登录时间',
    anonymous: '微信用户 {id}',

    logout: '退出登录',

    simulatorTitle: '微信是模拟的',
    simulatorText: '这里没有使用任何真实的微信账号，任何人都能以任何身份登录。',
    openPhone: '打开模拟手机',
    openPhoneHint: '此码就是该页面网址的普通二维码：能访问这台机器的手机都可以扫。',
    openPhoneHintLocal: '此码就是该页面网址的普通二维码，只有这台机器能打开。',

    refused: '这次登录已无法完成',
    refusedText: '请重新开始，换一个新的登录码。',
  },
};
