// What a person reads when something goes wrong: what it is, and what to do about it.
// Only what the service or WeChat really said is told; nothing is guessed.

import type { Problem, ProblemCode } from './problem'
import type { Language } from './words'

export interface Message {
  title: string
  text: string
}

type Texts = Record<Language, readonly [title: string, text: string]>

const rescan: Texts = {
  zh: ['登录请求不可用', '请刷新电脑上的码，再扫描一次。'],
  en: ['This request cannot be used', 'Refresh the code on the computer and scan it again.'],
}
const busy: Texts = {
  zh: ['服务暂时不可用', '请稍等片刻再试。'],
  en: ['The service is not available right now', 'Wait a moment and try again.'],
}
const tooMany: Texts = {
  zh: ['操作太频繁', '请稍等片刻再试。'],
  en: ['Too many tries', 'Wait a moment and try again.'],
}
const wechatAway: Texts = {
  zh: ['微信暂时没有正常回应', '请稍等片刻再试。'],
  en: ['WeChat did not answer properly', 'Wait a moment and try again.'],
}
const setup: Texts = {
  zh: ['登录服务的设置有误', '请联系这个网站的管理员，并告知下面的问题编号。'],
  en: ['The login service is not set up properly', 'Please tell the site, with the reference below if there is one.'],
}
const notThisPage: Texts = {
  zh: ['登录服务没有接受这个请求', '请刷新电脑上的码，再扫描一次。如果仍然这样，请联系这个网站。'],
  en: ['The login service did not accept this', 'Refresh the code on the computer and scan it again. If it stays like this, tell the site.'],
}
const offline: Texts = {
  zh: ['网络连接失败', '请检查手机的网络，再试一次。'],
  en: ['No connection', 'Check the network of your phone and try again.'],
}

const TEXTS: Record<ProblemCode, Texts> = {
  invalid_request: notThisPage,
  unknown_client: notThisPage,
  origin_not_allowed: notThisPage,
  not_waiting: rescan,
  browser_secret_required: notThisPage,
  method_not_allowed: notThisPage,
  not_found: setup,
  wechat_error: setup,
  wechat_unavailable: wechatAway,
  wechat_timeout: wechatAway,
  wechat_quota: busy,
  rate_limited: tooMany,
  store_unavailable: busy,
  shutting_down: busy,
  request_timeout: busy,
  internal: {
    zh: ['登录服务出错了', '请再试一次。如果仍然这样，请联系这个网站，并告知下面的问题编号。'],
    en: ['The login service failed', 'Try again. If it stays like this, tell the site, with the reference below if there is one.'],
  },
  unknown_scene: {
    zh: ['找不到这个登录请求', '这个码可能早已失效。请刷新电脑上的码，再扫描一次。'],
    en: ['Login request not found', 'The code may be long out of date. Refresh the code on the computer and scan it again.'],
  },
  unknown_short_code: {
    zh: ['没有这个码', '请对照电脑屏幕，看看有没有输错。码只在短时间内有效，也可以在电脑上换一个新的码再输入。'],
    en: ['No login has this code', 'Compare it with the computer’s screen. A code works only for a short time: if it is right, get a new one on the computer and type that.'],
  },
  expired: {
    zh: ['登录码已过期', '请刷新电脑上的码，再扫描一次。'],
    en: ['The code has expired', 'Refresh the code on the computer and scan it again.'],
  },
  scanned_by_another: {
    zh: ['已被另一个微信号扫描', '一个码只能由第一个扫描的人使用。请刷新电脑上的码，再扫描一次。'],
    en: ['Already scanned by someone else', 'A code belongs to the first person who scans it. Refresh the code on the computer and scan it again.'],
  },
  already_finished: {
    zh: ['这次登录已经结束', '如果还要登录，请刷新电脑上的码，再扫描一次。'],
    en: ['This login has already ended', 'To log in, refresh the code on the computer and scan it again.'],
  },
  confirm_token_required: {
    zh: ['这个页面已经失效', '同一个码可能又被你扫描过一次。请在最新打开的页面上操作，或点“重试”。'],
    en: ['This page is out of date', 'You may have scanned the same code again. Go on with the newest page, or try again here.'],
  },
  invalid_wx_code: {
    zh: ['微信登录凭证无效', '请再试一次。如果仍然这样，请关闭小程序后重新扫描。'],
    en: ['WeChat’s login code was not accepted', 'Try again. If it stays like this, close the Mini Program and scan again.'],
  },
  entry_scene_refused: {
    zh: ['请直接扫描电脑屏幕', '这个网站不接受从聊天卡片或图片打开的登录。请用微信“扫一扫”扫描电脑上的码。如果码是别人发给你的，请不要继续。'],
    en: ['Scan the code on the computer', 'This site does not accept a login opened this way. Scan the code on the computer’s screen with WeChat. If someone sent you the code, stop here.'],
  },
  wechat_blocked_user: {
    zh: ['微信限制了这个账号', '微信认为这个账号有风险，暂时不能用它登录。请换一种方式登录网站，或在微信里查看账号状态。'],
    en: ['WeChat has restricted this account', 'WeChat regards it as a risk, so it cannot be used to log in. Use another way to log in, or look at your account’s state in WeChat.'],
  },
  wrong_match_number: {
    zh: ['数字不对', '请看清你面前电脑上的数字，再选一次。再选错就会拒绝本次登录。如果电脑上没有这些数字，请拒绝。'],
    en: ['That was not the number', 'Look at the computer before you and choose again. Another wrong one declines this login. If it shows none of these numbers, decline.'],
  },
  body_too_large: {
    zh: ['头像太大', '请换一张小一点的图片，或者不提供头像。'],
    en: ['The avatar is too large', 'Choose a smaller picture, or go on without one.'],
  },
  unsupported_media_type: {
    zh: ['不支持这种图片', '头像只能是 JPEG、PNG 或 WebP 图片。请换一张，或者不提供头像。'],
    en: ['This kind of picture is not supported', 'An avatar is a JPEG, PNG or WebP picture. Choose another, or go on without one.'],
  },
  avatar_unreadable: {
    zh: ['读不到这张图片', '请换一张，或者不提供头像。'],
    en: ['The picture could not be read', 'Choose another, or go on without one.'],
  },
  no_scene: {
    zh: ['没有登录请求', '请在电脑上打开网站，用微信扫描屏幕上的码，或者输入屏幕上的短码。'],
    en: ['No login request', 'Open the site on your computer and scan the code on its screen with WeChat, or type the short code shown there.'],
  },
  wx_login_failed: {
    zh: ['微信没有给出登录凭证', '请检查手机的网络，再试一次。'],
    en: ['WeChat gave no login code', 'Check the network of your phone and try again.'],
  },
  interrupted: {
    zh: ['连接被中断', '请停留在这个页面，再试一次。重复操作不会登录两次。'],
    en: ['The connection was interrupted', 'Stay on this page and try again. Trying twice does not log in twice.'],
  },
  network_timeout: {
    zh: ['没有等到回应', '请检查手机的网络，再试一次。重复操作不会登录两次。'],
    en: ['No answer came', 'Check the network of your phone and try again. Trying twice does not log in twice.'],
  },
  network_failed: offline,
  domain_not_listed: {
    zh: ['小程序没有配置登录服务的域名', '请联系这个网站的管理员：在微信公众平台的 request 合法域名里加上登录服务的域名。'],
    en: ['The login service’s domain is not listed', 'Please tell the site: its domain must be added to the request domains of this Mini Program in WeChat’s console.'],
  },
  unreadable_reply: {
    zh: ['回应无法识别', '网络中可能有需要登录的 Wi-Fi。请检查手机的网络，再试一次。'],
    en: ['The answer made no sense', 'Perhaps a Wi-Fi that wants a login of its own is in between. Check the network of your phone and try again.'],
  },
  unknown: {
    zh: ['没有成功', '请再试一次。如果仍然这样，请联系这个网站，并告知下面的问题编号。'],
    en: ['That did not work', 'Try again. If it stays like this, tell the site, with the reference below if there is one.'],
  },
}

/** What `already_finished` says once the state is known. */
const FINISHED: Record<string, Texts> = {
  confirmed: {
    zh: ['这次登录已经确认过', '请查看电脑。如果不是你确认的，请在网站上退出登录。'],
    en: ['This login was already confirmed', 'Look at your computer. If that was not you, log out on the site.'],
  },
  declined: {
    zh: ['这次登录已经被拒绝', '如果还要登录，请刷新电脑上的码，再扫描一次。'],
    en: ['This login was already declined', 'To log in, refresh the code on the computer and scan it again.'],
  },
  cancelled: {
    zh: ['电脑上已取消登录', '如果还要登录，请刷新电脑上的码，再扫描一次。'],
    en: ['The login was cancelled on the computer', 'To log in, refresh the code on the computer and scan it again.'],
  },
}

/** What most problems advise, and what it is to who typed a short code instead of scanning. */
const RESCAN: Record<Language, readonly (readonly [scan: string, type: string])[]> = {
  zh: [['请刷新电脑上的码，再扫描一次。', '请在电脑上换一个新的码，再输入一次。']],
  en: [
    ['Refresh the code on the computer and scan it again.', 'Get a new code on the computer and type that.'],
    ['refresh the code on the computer and scan it again.', 'get a new code on the computer and type that.'],
  ],
}

/** `typed`: the person came with a short code. */
export function messageFor(problem: Problem, language: Language, typed = false): Message {
  const finished = problem.code === 'already_finished' && problem.state ? FINISHED[problem.state] : undefined
  const [title, worded] = (finished ?? TEXTS[problem.code])[language]
  const text = typed ? RESCAN[language].reduce((words, [scan, type]) => words.replace(scan, type), worded) : worded
  return { title, text: problem.retryAfter ? `${text}${waitHint(problem.retryAfter, language)}` : text }
}

function waitHint(seconds: number, language: Language): string {
  return language === 'zh' ? `（${seconds} 秒后可以再试）` : ` (Possible again in ${seconds} s.)`
}
