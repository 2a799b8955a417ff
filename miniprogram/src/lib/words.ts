// The words on the screens, in Chinese and English. Problems have their own file.

export type Language = 'zh' | 'en'

interface AppBaseInfoSource {
  getAppBaseInfo(): { language?: string }
}

/** WeChat's own language: Chinese for zh_* and whenever it cannot be told, else English. */
export function languageOf(wx: AppBaseInfoSource): Language {
  try {
    const { language } = wx.getAppBaseInfo()
    return language === undefined || /^zh/i.test(language) ? 'zh' : 'en'
  } catch {
    return 'zh'
  }
}

const zh = {
  navigationTitle: '扫码登录',
  scanning: '正在读取登录请求…',
  question: '要在电脑上登录这个网站吗？',
  browser: '浏览器',
  unknown: '无法识别',
  address: 'IP 地址',
  place: '地点',
  requested: '发起时间',
  check: '请确认是你自己刚刚在电脑上打开了这个网站。',
  chooseNumber: '请选择电脑屏幕上显示的数字',
  numberHint: '只看你面前的电脑。如果数字是别人告诉你的，或来自聊天、其他网页，请拒绝：选对数字不能证明这是你自己的登录。',
  wrongNumber: '不对',
  profile: '提供昵称和头像（可选）',
  profileHint: '不提供也能登录。确认登录后才会发送给这个网站。',
  profileSent: '头像已发送给登录服务。如果不想提供，请拒绝本次登录，再刷新电脑上的码重新扫描。',
  avatar: '头像',
  avatarChoose: '选择头像',
  avatarRemove: '移除',
  avatarLeftOut: '头像没有保存成功，网站可能看不到它。',
  nickname: '昵称',
  nicknameHint: '填写昵称',
  decline: '拒绝',
  confirm: '确认登录',
  notMe: '不是我本人的操作',
  close: '关闭',
  scanAgain: '重试',
  typeCode: '输入短码',
  reference: '问题编号',
  confirmedTitle: '已确认登录',
  confirmedText: '请查看电脑，网站会自动完成登录。',
  declinedTitle: '已拒绝登录',
  declinedText: '电脑上不会登录。',
  notMeText: '电脑上不会登录。不要扫描别人发来的登录码，也不要替别人确认登录。',
  wrongNumbersText: '数字选错了两次，为了安全，本次登录已拒绝。如果是你自己发起的，请在你面前的电脑上换一个新的码再扫描；如果不是，不要扫描别人发来的登录码。',
  indexTitle: '扫码登录',
  indexText: '用微信登录电脑上的网站，不需要密码。',
  indexSteps: ['在电脑上打开要登录的网站', '用微信扫描屏幕上的小程序码', '核对网站和浏览器，再确认登录'],
  codeTitle: '输入电脑上显示的短码',
  codePlaceholder: 'XXXX-XXXX',
  codeHint: '只输入你面前的电脑上显示的码，不要输入别人发来的码。',
  codeGo: '继续',
  scanTitle: '能扫码时',
  indexNote: '网站默认只会得到用来识别你的微信编号，不会得到昵称、头像或手机号。',
}

export type Words = typeof zh

const en: Words = {
  navigationTitle: 'Scan to log in',
  scanning: 'Reading the login request…',
  question: 'Log in to this site on the computer?',
  browser: 'Browser',
  unknown: 'Not recognised',
  address: 'IP address',
  place: 'Place',
  requested: 'Requested',
  check: 'Make sure that it was you who just opened this site on the computer.',
  chooseNumber: 'Choose the number shown on the computer',
  numberHint: 'Look only at the computer before you. If somebody told you the number, or a chat or another page shows it, decline: the right number does not prove that this login is yours.',
  wrongNumber: 'wrong',
  profile: 'Give a nickname and avatar (optional)',
  profileHint: 'You can log in without. They are sent to the site only once you confirm.',
  profileSent: 'The avatar has been sent to the login service. To withhold it, decline this login, then refresh the code on the computer and scan again.',
  avatar: 'Avatar',
  avatarChoose: 'Choose',
  avatarRemove: 'Remove',
  avatarLeftOut: ' The avatar could not be saved, so the site may not see it.',
  nickname: 'Nickname',
  nicknameHint: 'Enter a nickname',
  decline: 'Decline',
  confirm: 'Log in',
  notMe: 'This was not me',
  close: 'Close',
  scanAgain: 'Try again',
  typeCode: 'Enter a code',
  reference: 'Reference',
  confirmedTitle: 'Login confirmed',
  confirmedText: 'Look at your computer: the site finishes the login by itself.',
  declinedTitle: 'Login declined',
  declinedText: 'The computer will not be logged in.',
  notMeText: 'The computer will not be logged in. Do not scan login codes that others send you, and do not confirm logins for them.',
  wrongNumbersText: 'Neither number was the one on the computer’s screen, so this login was declined to be safe. If you started it, get a new code on the computer before you and scan that. If not, do not scan codes that others send you.',
  indexTitle: 'Scan to log in',
  indexText: 'Log in to sites on your computer with WeChat, without a password.',
  indexSteps: ['Open the site on your computer', 'Scan the code on its screen with WeChat', 'Check the site and the browser, then confirm'],
  codeTitle: 'Enter the code shown on your computer',
  codePlaceholder: 'XXXX-XXXX',
  codeHint: 'Only a code on the computer before you, never one that somebody sends you.',
  codeGo: 'Continue',
  scanTitle: 'If you can scan',
  indexNote: 'By default a site gets only the WeChat identifier that tells you apart: no nickname, no avatar, no phone number.',
}

export const WORDS: Record<Language, Words> = { zh, en }

/** The service says "?" of what it does not know. */
export function browserOn({ name, os }: { name: string; os: string }, language: Language): string {
  if (name === '?' && os === '?') return WORDS[language].unknown
  if (name === '?' || os === '?') return name === '?' ? os : name
  return language === 'zh' ? `${os} 上的 ${name}` : `${name} on ${os}`
}

export function ago(seconds: number, language: Language): string {
  const whole = Math.max(0, Math.floor(seconds))
  if (whole < 60) return language === 'zh' ? `${whole} 秒前` : `${whole} ${whole === 1 ? 'second' : 'seconds'} ago`
  const minutes = Math.floor(whole / 60)
  return language === 'zh' ? `${minutes} 分钟前` : `${minutes} ${minutes === 1 ? 'minute' : 'minutes'} ago`
}
