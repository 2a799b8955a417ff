// The real page against the real service, over real HTTP. Every login has a person and a
// scene of its own, so nothing here depends on what came before it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { until } from './support/project.mjs'
import { WARNING } from './support/scripted.mjs'
import { JPEG, Server, openid, scanned, shows } from './support/server.mjs'

const CLIENTS = `
[[client]]
client_id = "shop"
name = "My Shop"
redirect_uris = ["https://shop.example/callback"]

[[client]]
client_id = "bank"
name = "My Bank"
redirect_uris = ["https://bank.example/callback"]

[[client]]
client_id = "numbers"
number_matching = "on"
`

let server
let shops
before(async () => ([server, shops] = await Promise.all([Server.start(), Server.start({}, CLIENTS)])))
after(() => Promise.all([server?.stop(), shops?.stop()]))

test('scan and confirm: the browser sees both, and gets no profile that nobody gave', async () => {
  const { browser, phone } = await scanned(server)
  assert.equal((await browser.sees('scanned')).version, 2)
  assert.match(phone.text(), /127\.0\.0\.1/)
  assert.match(phone.text(), /\d 秒前/)
  phone.tap('确认登录')
  await shows(phone, '请查看电脑')
  const confirmed = await browser.sees('confirmed')
  assert.equal(confirmed.version, 3)
  assert.ok(confirmed.code)
  assert.equal(confirmed.profile, undefined)
})

test('the login is the login of the person who confirmed', async () => {
  const { browser, phone, person } = await scanned(shops, 'shop')
  assert.ok(phone.text().includes('My Shop') && phone.text().includes('shop.example'))
  phone.tap('确认登录')
  const { code } = await browser.sees('confirmed')
  const claims = await browser.redeem('shop', code)
  assert.equal(claims.sub, person)
  assert.deepEqual([claims.nickname, claims.picture], [undefined, undefined])
})

/** The number on the browser's screen, and those that are not. */
async function numbersOf({ browser, phone }) {
  const { match_number: right } = await browser.sees('scanned')
  assert.match(right, /^\d\d$/)
  const offered = phone.numbers()
  assert.equal(new Set(offered).size, 3, offered.join())
  assert.ok(offered.includes(right), `${right} of ${offered}`)
  return { right, wrong: offered.filter((number) => number !== right) }
}

function pick(phone, number) {
  const [button] = phone.nodes(({ attributes }) => attributes['data-number'] === number)
  assert.ok(!button.attributes.disabled, `${number} can be picked`)
  phone.page[button.attributes.bindtap]({ currentTarget: { dataset: { number } } })
  phone.tap('确认登录')
}

test('numbers: the one on the screen logs in, after a wrong one too, and is honest about what it shows', async () => {
  const { browser, phone } = await scanned(shops, 'numbers')
  const { right, wrong } = await numbersOf({ browser, phone })
  assert.match(phone.text(), /选对数字不能证明这是你自己的登录/)
  assert.ok(phone.button('确认登录').attributes.disabled, 'nothing is confirmed without one')
  pick(phone, wrong[0])
  await shows(phone, '数字不对')
  assert.equal((await browser.status()).state, 'scanned')
  await until('the phone is idle', () => phone.page.data.idle)
  pick(phone, right)
  await shows(phone, '已确认登录')
  const confirmed = await browser.sees('confirmed')
  assert.ok(confirmed.code)
  assert.equal(confirmed.match_number, undefined)
})

test('who came by a picture is warned in their own language', async () => {
  for (const [language, warning] of [['zh_CN', WARNING.zh], ['en', WARNING.en]]) {
    const { scene } = await shops.browser('shop')
    const phone = shops.phone(openid())
    Object.assign(phone, { language, entryScene: 1048 })
    await shows(phone.open(scene), warning)
    assert.equal(phone.page.data.warning, warning, 'the service\'s words, and no others')
  }
})

test('who came by a card is refused, and may still scan the screen', async () => {
  const browser = await shops.browser('shop')
  const person = openid()
  const phone = shops.phone(person)
  phone.entryScene = 1007
  phone.open(browser.scene)
  await shows(phone, '请直接扫描电脑屏幕')
  const again = shops.phone(person).open(browser.scene)
  await shows(again, '要在电脑上登录这个网站吗')
  again.tap('确认登录')
  await browser.sees('confirmed')
})

for (const [label, title] of [['拒绝', '电脑上不会登录'], ['不是我本人的操作', '不要扫描别人发来的登录码']]) {
  test(`decline: ${label}`, async () => {
    const { browser, phone } = await scanned(server)
    phone.tap(label)
    await shows(phone, title)
    assert.equal((await browser.sees('declined')).version, 3)
  })
}

test('nickname and avatar reach the browser, the picture byte by byte', async () => {
  const { browser, phone } = await scanned(server)
  phone.switchProfile(true)
  phone.files.a = JPEG
  await phone.pickAvatar('a')
  phone.typed.nickname = '<b>小明</b>'
  phone.tap('确认登录')
  await shows(phone, '已确认登录')
  const { profile } = await browser.sees('confirmed')
  assert.equal(profile.nickname, '<b>小明</b>')
  const picture = await fetch(new URL(profile.avatar_url, server.url))
  assert.equal(picture.headers.get('content-type'), 'image/jpeg')
  assert.deepEqual(Buffer.from(await picture.arrayBuffer()), JPEG)
})

test('someone else was first', async () => {
  const { browser, phone } = await scanned(server)
  const other = server.phone(openid()).open(browser.scene)
  await shows(other, '已被另一个微信号扫描')
  phone.tap('确认登录')
  await shows(phone, '已确认登录')
})

test('the same person scans on a second phone: the first one’s page says so and can scan again', async () => {
  const { browser, phone, person } = await scanned(server)
  const second = server.phone(person).open(browser.scene)
  await shows(second, '要在电脑上登录这个网站吗')
  phone.tap('确认登录')
  await shows(phone, '这个页面已经失效')
  phone.tap('重试')
  await shows(phone, '要在电脑上登录这个网站吗')
  phone.tap('确认登录')
  await shows(phone, '已确认登录')
  assert.equal((await browser.sees('confirmed')).version, 3)
})

test('cancelled, finished, unknown: each in its own words', async () => {
  const cancelled = await server.browser()
  await cancelled.cancel()
  await shows(server.phone(openid()).open(cancelled.scene), '电脑上已取消登录')

  const { browser, phone } = await scanned(server)
  await browser.cancel()
  phone.tap('确认登录')
  await shows(phone, '电脑上已取消登录')

  const done = await scanned(server)
  done.phone.tap('确认登录')
  await shows(done.phone, '已确认登录')
  await shows(server.phone(openid()).open(done.browser.scene), '这次登录已经确认过')

  await shows(server.phone(openid()).open('0'.repeat(32)), '找不到这个登录请求')
})

test('a hot start with another code: the first login stays as it was', async () => {
  const { browser, phone } = await scanned(server)
  const next = await server.browser()
  phone.openAgain(next.scene)
  await next.sees('scanned')
  await until('the question is there', () => phone.page.data.idle)
  phone.tap('确认登录')
  await next.sees('confirmed')
  assert.equal((await browser.status()).state, 'scanned')
})

test('too late: expired, on the way in and on the way out', async () => {
  const brief = await Server.start({ SCENE_TTL: '2' })
  try {
    const { browser, phone } = await scanned(brief)
    await browser.sees('expired')
    phone.tap('确认登录')
    await shows(phone, '登录码已过期')
    await shows(brief.phone(openid()).open(browser.scene), '登录码已过期')
  } finally {
    await brief.stop()
  }
})

test('T22: the log tells none of the secrets of a login, each of which would be found', async () => {
  const { browser, phone } = await scanned(server)
  phone.tap('确认登录')
  const { code } = await browser.sees('confirmed')
  await browser.redeem('demo', code)

  const { found, secrets } = server.leaks()
  assert.deepEqual(found, [])
  assert.deepEqual(Object.keys(secrets).sort(), [
    'a browser secret', 'a code of wx.login', 'a confirm token', "a verifier of PKCE's", 'an access token', 'an authorization code', 'an id_token',
  ])
  assert.match(server.log, /route="?\/scenes\/\{scene\}\/confirm/, 'the log that is searched is of such logins')
  const { Authorization: proof } = phone.requests.at(-1).header
  for (const words of [proof, encodeURIComponent(code), btoa(`site:${code}`), browser.verifier]) {
    assert.equal(server.leaks(words).found.length, 1, words)
  }
})
