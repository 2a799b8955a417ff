// Every screen, drawn in Chromium: in both languages and schemes, on a small phone and on a
// large one. With SCREENSHOTS set to a directory, each is photographed there.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { quiet } from './support/project.mjs'
import { DEVICES, Renderer, SCREENSHOTS } from './support/renderer.mjs'
import { CONFIRMED, DECLINED, INTERRUPTED, SCENE, ScriptedPhone, WARNING, ok, problem, scanReply } from './support/scripted.mjs'

const LANGUAGES = { zh: 'zh_CN', en: 'en' }
const LOGO = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="#243b8f"/><path d="M14 44V20h8l10 14 10-14h8v24" fill="none" stroke="#fff" stroke-width="6"/></svg>'
const PHOTO = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="#e9b872"/><circle cx="32" cy="26" r="12" fill="#7a4419"/><circle cx="32" cy="64" r="24" fill="#7a4419"/></svg>'

const words = (phone, zh, en) => (phone.language === 'en' ? en : zh)
const site = (phone, more) => ({ client_id: 'shop', name: words(phone, '青禾商店', 'Meadow Store'), domain: 'shop.example.com', logo_url: 'https://shop.example.com/logo.svg', ...more })
const browser = (phone) => ({ name: 'Firefox 143', os: 'Windows', ip: '203.0.113.7', place: words(phone, '中国 杭州', 'Hangzhou, China') })
const asked = (phone, more = {}) => ok(scanReply({ client: site(phone), browser: browser(phone), ...more }))
const warned = (phone) => ({ warning: WARNING[words(phone, 'zh', 'en')] })
const choices = { match_choices: ['27', '64', '91'] }
const long = (phone) => ({
  client: site(phone, {
    name: words(phone, '国家自然科学数据共享与开放服务平台统一身份认证中心（测试环境，仅供内部使用）', 'The International Consortium of Unreasonably Long Names and Donaudampfschifffahrtsgesellschaften'),
    domain: 'single-sign-on.identity-and-access-management.research.university.example.com',
    logo_url: undefined,
  }),
  browser: { name: 'Samsung Internet 28.0', os: 'Android 15', ip: '2001:db8:85a3:8d3:1319:8a2e:370:7348', place: words(phone, '新疆维吾尔自治区 克孜勒苏柯尔克孜自治州', 'Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch, Wales, United Kingdom') },
})

const tap = (phone, zh, en) => phone.tap(words(phone, zh, en))
const confirm = (phone) => tap(phone, '确认登录', 'Log in')
const pick = (phone, number) => phone.page.numberTapped({ currentTarget: { dataset: { number } } })
const answered = async (phone, path, reply) => {
  (await phone.next(path))[typeof reply === 'string' ? 'fail' : 'reply'](reply)
  await quiet()
}
const typeCode = async (phone, code = 'k7wm p3xq') => {
  phone.launch()
  phone.type('code', code)
  phone.submit()
  await quiet()
}

const picksAWrongNumber = async (phone, more) => {
  await phone.opened(asked(phone, { ...choices, ...more }))
  pick(phone, '27')
  confirm(phone)
  await answered(phone, '/confirm', problem(403, 'wrong_match_number'))
}

/** Each brings a phone to its screen. */
const ASKING = {
  'asked': (phone) => phone.opened(asked(phone)),
  'asked-plain': (phone) => phone.opened(ok(scanReply({ client: { client_id: 'x', name: 'X' }, browser: { name: 'Chrome', os: 'macOS' } }))),
  'asked-warned': (phone) => phone.opened(asked(phone, warned(phone))),
  'asked-number': (phone) => phone.opened(asked(phone, choices)),
  'asked-number-chosen': async (phone) => (await phone.opened(asked(phone, choices)), pick(phone, '64')),
  'asked-number-warned': (phone) => phone.opened(asked(phone, { ...choices, ...warned(phone) })),
  'asked-all': (phone) => phone.opened(asked(phone, { ...choices, ...long(phone), ...warned(phone) })),
  'asked-long': (phone) => phone.opened(asked(phone, long(phone))),
  'asked-profile': async (phone) => {
    await phone.opened(asked(phone))
    phone.switchProfile(true)
  },
  'asked-avatar': async (phone) => {
    await phone.opened(asked(phone))
    phone.switchProfile(true)
    phone.files['https://tmp.example/photo.svg'] = Buffer.from([0xff, 0xd8, 0xff, 0xe0, 1])
    await phone.pickAvatar('https://tmp.example/photo.svg')
  },
  'confirming': async (phone) => (await phone.opened(asked(phone)), confirm(phone), await quiet()),
  'wrong-number': (phone) => picksAWrongNumber(phone),
  'wrong-number-warned': (phone) => picksAWrongNumber(phone, warned(phone)),
  'offline-answer': async (phone) => (await phone.opened(asked(phone)), confirm(phone), await answered(phone, '/confirm', 'request:fail net::ERR')),
  'interrupted-answer': async (phone) => (await phone.opened(asked(phone)), confirm(phone), await answered(phone, '/confirm', INTERRUPTED)),
}
const scanFails = (reply) => (phone) => phone.opened(reply)
const OTHERS = {
  'index': (phone) => phone.launch(),
  'index-typed': (phone) => (phone.launch(), phone.type('code', 'k7wm p3xq')),
  'scanning': async (phone) => (phone.open(SCENE), await quiet()),
  'confirmed': async (phone) => (await phone.opened(), confirm(phone), await answered(phone, '/confirm', ok(CONFIRMED))),
  'declined': async (phone) => (await phone.opened(), tap(phone, '拒绝', 'Decline'), await answered(phone, '/decline', ok(DECLINED))),
  'not-me': async (phone) => (await phone.opened(), tap(phone, '不是我本人的操作', 'This was not me'), await answered(phone, '/decline', ok(DECLINED))),
  'wrong-numbers': async (phone) => {
    await phone.opened(asked(phone, choices))
    pick(phone, '27')
    confirm(phone)
    await answered(phone, '/confirm', problem(403, 'wrong_match_number', { state: 'declined' }))
  },
}
const TROUBLES = {
  'expired': scanFails(problem(410, 'expired', { state: 'expired' })),
  'scanned-by-another': scanFails(problem(409, 'scanned_by_another')),
  'already-confirmed': scanFails(problem(409, 'already_finished', { state: 'confirmed' })),
  'already-declined': scanFails(problem(409, 'already_finished', { state: 'declined' })),
  'cancelled': scanFails(problem(409, 'already_finished', { state: 'cancelled' })),
  'card-refused': scanFails(problem(403, 'entry_scene_refused')),
  'blocked': scanFails(problem(403, 'wechat_blocked_user', { errcode: 40226 })),
  'rate-limited': scanFails(problem(429, 'rate_limited', {}, { 'Retry-After': '60' })),
  'quota': scanFails(problem(429, 'wechat_quota', {}, { 'Retry-After': '60' })),
  'unknown-scene': scanFails(problem(404, 'unknown_scene')),
  'no-scene': (phone) => phone.open(SCENE, {}),
  'offline': async (phone) => (phone.open(SCENE), await answered(phone, '/scan', 'request:fail net::ERR')),
  'interrupted': async (phone) => (phone.open(SCENE), await answered(phone, '/scan', INTERRUPTED)),
  'timeout': async (phone) => (phone.open(SCENE), await answered(phone, '/scan', 'request:fail timeout')),
  'domain-not-listed': async (phone) => (phone.open(SCENE), await answered(phone, '/scan', 'request:fail url not in domain list')),
  'wechat-error': scanFails(problem(502, 'wechat_error', { errcode: 40013, request_id: '0f3b9c52d17e48aab1c6' })),
  'newer-scan': async (phone) => (await phone.opened(), confirm(phone), await answered(phone, '/confirm', problem(401, 'confirm_token_required'))),
  'unknown-short-code': async (phone) => (await typeCode(phone), await answered(phone, '/short-codes/scan', problem(404, 'unknown_short_code'))),
}

/** Words are as long on every scheme and colours the same in every language: not each needs each. */
const KINDS = [
  { language: 'zh', size: '320x568', dark: false },
  { language: 'en', size: '320x568', dark: true },
  { language: 'zh', size: '375x667', dark: false, judged: true },
  { language: 'zh', size: '390x844', dark: true },
  { language: 'en', size: '375x667', dark: true, judged: true },
  { language: 'en', size: '390x844', dark: false },
  ...SCREENSHOTS ? [
    { language: 'zh', size: '320x568', dark: true },
    { language: 'en', size: '320x568', dark: false },
    { language: 'zh', size: '375x667', dark: true },
    { language: 'zh', size: '390x844', dark: false },
    { language: 'en', size: '375x667', dark: false },
    { language: 'en', size: '390x844', dark: true },
  ] : [],
]

/** Which of what is asked, at each size, needs no scrolling to be judged and answered. */
const ON_ONE_SCREEN = {
  '320x568': /^(asked|asked-plain|asked-profile|asked-avatar|confirming)-(zh|en)/,
  '375x667': /^(asked|asked-plain|asked-warned|asked-number|asked-number-chosen|asked-profile|asked-avatar|confirming|offline-answer|interrupted-answer)-(zh|en)/,
  '390x844': /^(?!asked-all|wrong-number-warned)/,
}

let renderer
before(async () => {
  renderer = await Renderer.launch()
  for (const kind of KINDS) {
    kind.screen = await renderer.screen({ device: DEVICES[kind.size], dark: kind.dark })
    kind.screen.pictures = (url) => ({ contentType: 'image/svg+xml', body: url.endsWith('photo.svg') ? PHOTO : LOGO })
  }
})
after(async () => {
  for (const { screen } of KINDS) await screen?.close()
  await renderer?.close()
})

/** Shows the state on every kind of phone. */
async function everywhere(name, reach, check) {
  for (const [language, wechats] of Object.entries(LANGUAGES)) {
    const phone = new ScriptedPhone()
    phone.language = wechats
    await reach(phone)
    for (const { screen, size, dark, judged } of KINDS.filter((kind) => kind.language === language)) {
      await screen.hold(phone)
      const where = `${name}-${language}-${size}-${dark ? 'dark' : 'light'}`
      await screen.photograph(where)
      assert.deepEqual(await screen.layoutFaults(), [], where)
      await check?.(screen, where)
      if (judged) assert.deepEqual(await screen.accessibilityFaults(), [], where)
      assert.deepEqual(screen.complaints, [], where)
    }
    phone.changed = () => {}
  }
}

/** Where an element is and how it is written, in whole pixels. */
const boxOf = (locator) => locator.evaluate((element) => {
  const { x, y, width, height } = element.getBoundingClientRect()
  const { fontSize, fontWeight, borderRadius } = getComputedStyle(element)
  return { x, y, width, height, letters: `${fontSize} ${fontWeight} ${borderRadius}` }
})

/** Where the page stands, all of it is on the screen and nothing lies over it. */
const isInSight = (locator) => locator.evaluate((element) => {
  const { left, right, top, bottom } = element.getBoundingClientRect()
  const points = [[(left + right) / 2, (top + bottom) / 2], [left + 20, bottom - 2], [right - 20, top + 2]]
  return top >= 0 && bottom <= innerHeight && points.every(([x, y]) => element.contains(document.elementFromPoint(x, y)))
})

/** What a person judges by: of what they are warned, which site it is, and every fact about the browser that asks. */
const CONTEXT = '.question, .alert, .client .title, .domain, .fact, .check'

/** Nothing can be answered before it can be judged: all that is to be judged stands above the answers, or they come after it. */
async function canBeJudged({ phone, frame }, where) {
  const { clientName, clientDomain, facts, warning } = phone.page.data
  const { all, text, sheet, height } = await frame.evaluate((selector) => {
    const boxOf = (element) => { const { top, bottom } = element.getBoundingClientRect(); return { what: element.textContent, top, bottom } }
    const elements = [...document.querySelectorAll(selector)].filter((element) => !element.closest('.sheet'))
    return { all: elements.map(boxOf), text: elements.map((element) => element.textContent), sheet: boxOf(document.querySelector('.sheet')), height: innerHeight }
  }, CONTEXT)
  for (const words of [clientName, clientDomain, warning]) assert.ok(!words || text.includes(words), `${where}: ${words}`)
  for (const { label, value } of facts) assert.ok(text.some((words) => words.includes(label) && words.includes(value)), `${where}: ${label}`)
  for (const { what, top, bottom } of all) {
    assert.ok(top >= 0 && bottom <= sheet.top + 0.5, `${where}: "${what}" ends at ${bottom}, the answers begin at ${sheet.top} of ${height}`)
  }
  const fits = Math.max(...all.map(({ bottom }) => bottom)) + sheet.bottom - sheet.top <= height
  assert.equal(sheet.bottom <= height + 0.5, fits, `${where}: all is on the screen at once if it fits there`)
  assert.ok(fits || !ON_ONE_SCREEN[where.match(/\d+x\d+/)].test(where), `${where} fits`)
}

async function canBeAnswered(screen, where) {
  await canBeJudged(screen, where)
  await screen.frame.locator('.sheet').evaluate((sheet) => sheet.getBoundingClientRect().bottom > innerHeight && sheet.scrollIntoView({ block: 'end' }))
  const [decline, yes, notMe] = ['.decline', '.confirm', '.not-me'].map((each) => screen.frame.locator(each))
  const [left, right] = [await boxOf(decline), await boxOf(yes)]
  assert.ok(left.x < right.x, `${where}: decline comes first`)
  for (const what of ['y', 'height', 'letters']) assert.equal(left[what], right[what], `${where}: ${what}`)
  assert.ok(Math.abs(left.width - right.width) < 1, `${where}: ${left.width} and ${right.width} wide`)
  for (const button of [decline, yes, notMe, ...await screen.frame.locator('.number').all()]) {
    assert.ok(await isInSight(button), `${where}: ${await button.innerText()} is in sight`)
  }
  await screen.photograph(`${where}-answers`)
  await screen.frame.evaluate(() => scrollTo(0, 0))
}

describe('every screen fits, is accessible, and can be read', () => {
  for (const [name, reach] of Object.entries(ASKING)) test(name, () => everywhere(name, reach, canBeAnswered))
  for (const [name, reach] of Object.entries(OTHERS)) test(name, () => everywhere(name, reach))
  for (const [name, reach] of Object.entries(TROUBLES)) {
    test(name, () => everywhere(name, reach, async ({ phone, frame }, where) => {
      const { title, text } = phone.page.data
      assert.deepEqual(await frame.locator('.title, .text').allInnerTexts(), [title, text], where)
      assert.match(text, words(phone, /请/, /\b(scan|try|use|look|tell|type|check|wait|compare|log out|go on)\b/i), `${where} says what to do`)
      for (const button of await frame.locator('button').all()) assert.ok(await isInSight(button), where)
    }))
  }
})
