// The real page against the real service, with requests and replies lost on the way and a
// WeChat that refuses.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { quiet, until } from './support/project.mjs'
import { JPEG, Server, openid, scanned, sent, shows } from './support/server.mjs'
import { loseReply } from './support/wechat.mjs'

const INTERRUPTED = 'request:fail interrupted'

let server
before(async () => (server = await Server.start()))
after(() => server?.stop())

/** The background takes the request away: before the service got it, or only its reply. */
const taken = { 'the request': async () => { throw INTERRUPTED }, 'the reply': loseReply(INTERRUPTED) }

for (const [what, take] of Object.entries(taken)) {
  test(`${what} of a scan is lost: scanned again on return, with a code never sent before`, async () => {
    const browser = await server.browser()
    const phone = server.phone(openid())
    const callsBefore = await server.code2sessionCalls()
    phone.onNextRequest.push(take)
    phone.open(browser.scene)
    phone.background()
    await until('the scan was sent', () => sent(phone, '/scan') === 1)
    if (take === taken['the reply']) assert.equal((await browser.sees('scanned')).version, 2)
    await quiet()
    phone.foreground()
    await shows(phone, '要在电脑上登录这个网站吗')
    const codes = phone.requests.map(({ body }) => JSON.parse(body).code)
    assert.equal(codes.length, 2)
    assert.notEqual(codes[0], codes[1])
    assert.equal(await server.code2sessionCalls(), callsBefore + (take === taken['the reply'] ? 2 : 1), 'each code goes to WeChat once')
    assert.equal((await browser.status()).version, 2, 'nothing visible happened twice')
    phone.tap('确认登录')
    await shows(phone, '请查看电脑')
  })

  for (const [label, act, state, title] of [
    ['确认登录', '/confirm', 'confirmed', '已确认登录'],
    ['拒绝', '/decline', 'declined', '已拒绝登录'],
    ['不是我本人的操作', '/decline', 'declined', '已拒绝登录'],
  ]) {
    test(`${what} of ${label} is lost: the same act again, with the same result`, async () => {
      const { browser, phone } = await scanned(server)
      phone.onNextRequest.push(take)
      phone.tap(label)
      phone.background()
      if (take === taken['the reply']) assert.equal((await browser.sees(state)).version, 3)
      await until('it was sent', () => sent(phone, act) === 1)
      await quiet()
      assert.equal(sent(phone, act), 1, 'nothing from the background')
      phone.foreground()
      await shows(phone, title)
      assert.equal(sent(phone, act), 2)
      const end = await browser.sees(state)
      assert.equal(end.version, 3, 'nothing visible happened twice')
    })
  }

  test(`${what} of an avatar is lost: sent again, then confirmed`, async () => {
    const { browser, phone } = await scanned(server)
    phone.switchProfile(true)
    phone.files.a = JPEG
    await phone.pickAvatar('a')
    phone.onNextRequest.push(take)
    phone.tap('确认登录')
    phone.background()
    await until('it was sent', () => sent(phone, '/avatar') === 1)
    phone.foreground()
    await shows(phone, '已确认登录')
    assert.equal(sent(phone, '/avatar'), 2)
    assert.ok((await browser.sees('confirmed')).profile.avatar_url)
  })
}

test('the reply of a confirm times out in view: the person taps again, and it is one login', async () => {
  const { browser, phone } = await scanned(server)
  phone.onNextRequest.push(loseReply('request:fail timeout'))
  phone.tap('确认登录')
  await shows(phone, '没有等到回应')
  phone.tap('确认登录')
  await shows(phone, '已确认登录')
  assert.equal((await browser.sees('confirmed')).version, 3)
})

test('confirmed, but the reply was lost, and then declined: the truth is told', async () => {
  const { browser, phone } = await scanned(server)
  phone.onNextRequest.push(loseReply('request:fail timeout'))
  phone.tap('确认登录')
  await shows(phone, '没有等到回应')
  phone.tap('拒绝')
  await shows(phone, '这次登录已经确认过')
  await browser.sees('confirmed')
})

test('WeChat refuses one code: a new one, unasked', async () => {
  await server.fault({ errcode: 40029, times: 1 })
  const { phone } = await scanned(server)
  assert.equal(sent(phone, '/scan'), 2)
})

test('WeChat refuses two codes: a button', async () => {
  await server.fault({ errcode: 40029, times: 2 })
  const browser = await server.browser()
  const phone = server.phone(openid()).open(browser.scene)
  await shows(phone, '微信登录凭证无效')
  assert.equal(sent(phone, '/scan'), 2)
  assert.equal((await browser.status()).state, 'waiting')
  phone.tap('重试')
  await shows(phone, '要在电脑上登录这个网站吗')
})

test('WeChat has blocked the person', async () => {
  await server.fault({ errcode: 40226, times: 1 })
  const browser = await server.browser()
  const phone = server.phone(openid()).open(browser.scene)
  await shows(phone, '微信限制了这个账号')
  assert.equal((await browser.status()).state, 'waiting')
})

test('WeChat is busy for a moment: tried once more by itself with a new code', async () => {
  await server.fault({ errcode: -1, times: 1 })
  const browser = await server.browser()
  const phone = server.phone(openid()).open(browser.scene)
  await until('the first answer is there', () => phone.clock.timers.size > 1 || phone.page.login.state.act === null)
  phone.clock.advance(10_000)
  await shows(phone, '要在电脑上登录这个网站吗')
  assert.equal(sent(phone, '/scan'), 2)
})
