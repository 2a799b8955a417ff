// What the page of /authorize says. {name} is the site's.

export const strings = {
  en: {
    headline: 'Log in to {name}',
    simulatorTitle: 'WeChat is simulated',
    simulatorText: 'No real WeChat account is used; anybody can log in as anybody.',
    openPhone: 'Open the simulated phone',
    leave: 'Cancel and go back to the site',
    elsewhere: 'Another tab goes on with this login',
    goOnHere: 'It does not? Go on in this tab',
    // In the place of what <scan-login> says by itself; here {name} is the person's.
    login: {
      confirmed: ['Confirmed', 'Taking you back to the site…'],
      confirmedName: 'Taking {name} back to the site…',
      declined: ['Declined on the phone', 'Nobody was logged in. Taking you back to the site…'],
      cancelled: ['Cancelled', 'Taking you back to the site…'],
      phone: ['Open the site on a computer', 'A phone cannot scan its own screen. Open the site on a computer and scan the code there.'],
    },
  },
  'zh-CN': {
    headline: '登录“{name}”',
    simulatorTitle: '微信是模拟的',
    simulatorText: '这里没有使用任何真实的微信账号，任何人都能以任何身份登录。',
    openPhone: '打开模拟手机',
    leave: '取消并返回网站',
    elsewhere: '已在另一个标签页中继续登录',
    goOnHere: '没有继续？在此标签页继续',
    login: {
      confirmed: ['已确认', '正在返回网站…'],
      confirmedName: '正在以“{name}”的身份返回网站…',
      declined: ['已在手机上拒绝', '没有任何人登录，正在返回网站…'],
      cancelled: ['已取消', '正在返回网站…'],
      phone: ['请在电脑上打开该网站', '手机无法扫描自己的屏幕。请在电脑上打开该网站再扫码。'],
    },
  },
};
