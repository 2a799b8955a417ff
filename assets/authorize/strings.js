// What the page of /authorize says. {name} is the site's.

export const strings = {
  en: {
    headline: 'Log in to {name}',
    simulatorTitle: 'WeChat is simulated',
    simulatorText: 'No real WeChat account is used; anybody can log in as anybody.',
    openPhone: 'Open the simulated phone',
    // In the place of what <scan-login> says by itself.
    login: {
      confirmed: ['Confirmed', 'Taking you back to {name}…'],
      confirmedName: 'Taking {person} back to {name}…',
      declined: ['Declined on the phone', 'Nobody was logged in. Taking you back to {name}…'],
      cancelled: ['Cancelled', 'Taking you back to {name}…'],
      phone: ['Open {name} on a computer', 'A phone cannot scan its own screen. Open the site on a computer, then scan the code there with this phone.'],
    },
  },
  'zh-CN': {
    headline: '登录“{name}”',
    simulatorTitle: '微信是模拟的',
    simulatorText: '这里没有使用任何真实的微信账号，任何人都能以任何身份登录。',
    openPhone: '打开模拟手机',
    login: {
      confirmed: ['已确认', '正在返回“{name}”…'],
      confirmedName: '正在以“{person}”的身份返回“{name}”…',
      declined: ['已在手机上拒绝', '没有任何人登录，正在返回“{name}”…'],
      cancelled: ['已取消', '正在返回“{name}”…'],
      phone: ['请在电脑上打开“{name}”', '手机无法扫描自己的屏幕。请在电脑上打开该网站，再用这部手机扫码。'],
    },
  },
};
