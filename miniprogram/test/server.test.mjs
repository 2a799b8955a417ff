// The real page against the real service, over real HTTP. Every login has a person and a
// scene of its own, so nothing here depends on what came before it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { until } from './support/project.mjs'
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
