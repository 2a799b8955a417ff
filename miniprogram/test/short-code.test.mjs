// Without a camera: the Mini Program opened by itself, and the code on the computer typed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { quiet } from './support/project.mjs'
import { CONFIRMED, INTERRUPTED, OTHER_SCENE, SCENE, ScriptedPhone, json, ok, problem, scanReply } from './support/scripted.mjs'

const CODE = 'K7WMP3XQ'

/** A phone on which somebody typed a code and went on. */
async function typed(code = CODE) {
  const phone = new ScriptedPhone().launch()
  phone.type('code', code)
  phone.tap('继续')
  await quiet()
  return phone
}

test('opened by itself: says what it is for, sends nothing, and takes a code', async () => {
  const phone = new ScriptedPhone().launch()
  for (const text of ['用微信登录电脑上的网站', '输入电脑上显示的短码', '不要输入别人发来的码']) assert.ok(phone.text().includes(text), text)
  assert.ok(phone.button('继续').attributes.disabled)
  await quiet()
  assert.deepEqual([phone.requests, phone.calls], [[], ['setNavigationBarTitle 扫码登录']], 'not even wx.login')
})

test('typing: left alone until it is complete, then shown as the computer does, and mended in the middle', () => {
  const phone = new ScriptedPhone().launch()
  assert.deepEqual(['k7w', 'k7wm', 'k7wmp', 'K7WM-', 'k7wm p3xq', 'K7WM-P3XQ2'].map((text) => phone.type('code', text)), ['k7w', 'k7wm', 'k7wmp', 'K7WM-', 'K7WM-P3XQ', 'K7WM-P3XQ2'])
  assert.ok(phone.button('继续').attributes.disabled, 'nine are no code')
  assert.equal(phone.type('code', 'K7-P3XQ', 2), 'K7-P3XQ', 'the cursor stays where it is')
  assert.ok(phone.button('继续').attributes.disabled)
  assert.equal(phone.type('code', 'k7w-mp3xq', 3), 'k7w-mp3xq')
  assert.ok(!phone.button('继续').attributes.disabled)
})

test('a code that is typed asks as a scan does, and is confirmed by its scene', async () => {
  const phone = await typed('k7wm p3xq')
  assert.equal(phone.calls.filter((call) => call === 'hideShareMenu').length, 1)
  const scan = await phone.next('/short-codes/scan')
  assert.equal(scan.method, 'POST')
  assert.equal(scan.path, '/short-codes/scan')
  assert.deepEqual(json(scan), { short_code: CODE, code: 'code-1' })
  scan.reply(ok(scanReply({ scene: SCENE, match_choices: ['12', '34', '56'] })))
  await phone.shows('要在电脑上登录这个网站吗')
  phone.page.numberTapped({ currentTarget: { dataset: { number: '34' } } })
  phone.tap('确认登录')
  const confirm = await phone.next('/confirm')
  assert.equal(confirm.path, `/scenes/${SCENE}/confirm`)
  assert.equal(confirm.header.Authorization, 'Bearer token-1')
  confirm.reply(ok(CONFIRMED))
  await phone.shows('已确认登录')
})

test('once it is a login, it is scanned again by its scene', async () => {
  const phone = await typed()
  const first = await phone.next('/short-codes/scan')
  first.reply(ok(scanReply({ scene: SCENE })))
  await phone.shows('要在电脑上登录这个网站吗')
  phone.tap('拒绝')
  const decline = await phone.next('/decline')
  assert.equal(decline.path, `/scenes/${SCENE}/decline`)
  decline.reply(problem(401, 'confirm_token_required'))
  await phone.shows('这个页面已经失效')
  phone.tap('重试')
  const second = await phone.next('/scan')
  assert.equal(second.path, `/scenes/${SCENE}/scan`)
  assert.deepEqual(json(second), { code: 'code-2', entry_scene: 1047 })
})

for (const [status, code] of [[404, 'unknown_short_code'], [400, 'invalid_request']]) {
  test(`${code}: says so, and comes back to what was typed, to mend it`, async () => {
    const phone = await typed()
    const scan = await phone.next('/short-codes/scan')
    scan.reply(problem(status, code))
    await phone.shows('没有这个码')
    phone.tap('输入短码')
    await phone.shows('输入电脑上显示的短码')
    assert.equal(phone.page.read, CODE)
    phone.type('code', 'K7WM-P3XR')
    phone.tap('继续')
    await quiet()
    assert.deepEqual(json(await phone.next('/short-codes/scan')), { short_code: 'K7WMP3XR', code: 'code-2' })
  })
}

test('too many tries: waits as it is told to, then tries with a new code of wx.login', async () => {
  const phone = await typed()
  const scan = await phone.next('/short-codes/scan')
  scan.reply(problem(429, 'rate_limited', {}, { 'Retry-After': '30' }))
  await phone.shows('30 秒后可以再试')
  assert.ok(phone.button('重试').attributes.disabled)
  phone.clock.advance(30_000)
  await quiet()
  phone.tap('重试')
  assert.deepEqual(json(await phone.next('/short-codes/scan')), { short_code: CODE, code: 'code-2' })
})

test('interrupted by the background: made again on return', async () => {
  const phone = await typed()
  const scan = await phone.next('/short-codes/scan')
  phone.background()
  scan.fail(INTERRUPTED)
  await quiet()
  assert.equal(phone.requests.length, 1)
  phone.foreground()
  assert.deepEqual(json(await phone.next('/short-codes/scan')), { short_code: CODE, code: 'code-2' })
})

test('a reply that names no scene is none', async () => {
  for (const scene of [undefined, '', 'x', '../x']) {
    const phone = await typed()
    const scan = await phone.next('/short-codes/scan')
    scan.reply(ok(scanReply(scene === undefined ? {} : { scene })))
    await phone.shows('回应无法识别')
    phone.close()
  }
})

test('two taps open one page', async () => {
  const phone = new ScriptedPhone().launch()
  phone.type('code', CODE)
  phone.tap('继续')
  phone.tap('继续')
  await quiet()
  assert.equal(phone.stack.length, 2)
  assert.equal(phone.requests.length, 1)
})

test('a code scanned afterwards has nothing of the one that was typed', async () => {
  const phone = await typed()
  await phone.next('/short-codes/scan')
  phone.openAgain(OTHER_SCENE)
  const scan = await phone.next('/scan')
  assert.equal(scan.path, `/scenes/${OTHER_SCENE}/scan`)
  scan.reply(problem(410, 'expired'))
  await phone.shows('再扫描一次')
})
