// What goes wrong on the way: repeated by itself where that is safe, else told with what to do.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { quiet, until } from './support/project.mjs'
import { CONFIRMED, DECLINED, INTERRUPTED, SCENE, ScriptedPhone, json, ok, problem, scanReply } from './support/scripted.mjs'

test('a scan taken away by the background is made again on return, with a new code and the entry of then', async () => {
  const phone = new ScriptedPhone()
  phone.open(SCENE)
  const first = await phone.next('/scan')
  phone.background()
  first.fail(INTERRUPTED)
  await quiet()
  assert.equal(phone.requests.length, 1, 'nothing is sent from the background')
  phone.entryScene = 1089
  phone.foreground()
  const second = await phone.next('/scan')
  assert.deepEqual([json(first), json(second)], [{ code: 'code-1', entry_scene: 1047 }, { code: 'code-2', entry_scene: 1089 }])
  second.reply(ok(scanReply({ confirm_token: 'token-2' })))
  await phone.shows('我的博客')
})

for (const [label, path, reply, end] of [
  ['确认登录', '/confirm', CONFIRMED, '已确认登录'],
  ['拒绝', '/decline', DECLINED, '已拒绝登录'],
  ['不是我本人的操作', '/decline', DECLINED, '已拒绝登录'],
]) {
  for (const told of ['before', 'after']) {
    test(`${label}: interrupted, told ${told} onShow, is the same act again`, async () => {
      const phone = new ScriptedPhone()
      await phone.opened()
      phone.tap(label)
      const first = await phone.next(path)
      phone.background()
      if (told === 'before') first.fail(INTERRUPTED)
      await quiet()
      phone.foreground()
      if (told === 'after') first.fail(INTERRUPTED)
      const second = await phone.next(path)
      assert.equal(second.body, first.body)
      assert.deepEqual(second.header, first.header)
      second.reply(ok(reply))
      await phone.shows(end)
      assert.equal(phone.requests.length, 3)
    })
  }
}

test('interrupted again and again: one request per return, never two', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.tap('确认登录')
  for (let time = 0; time < 3; time++) {
    const confirm = await phone.next('/confirm')
    phone.background()
    confirm.fail(INTERRUPTED)
    phone.foreground()
    phone.background()
    phone.foreground()
  }
  const last = await phone.next('/confirm')
  last.reply(ok(CONFIRMED))
  await phone.shows('已确认登录')
  assert.equal(phone.requests.length, 5)
})

test('a failure with the page in view is told, and the same buttons try again', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  for (const [errMsg, title] of [['request:fail timeout', '没有等到回应'], ['request:fail net::ERR', '网络连接失败'], [INTERRUPTED, '连接被中断']]) {
    phone.tap('确认登录')
    const confirm = await phone.next('/confirm')
    confirm.fail(errMsg)
    await phone.shows(title)
  }
  await quiet()
  assert.equal(phone.requests.length, 4)
  phone.tap('拒绝')
  const decline = await phone.next('/decline')
  decline.reply(problem(409, 'already_finished', { state: 'confirmed' }))
  await phone.shows('这次登录已经确认过')
})

test('invalid_wx_code: one new try by itself, then a button', async () => {
  const phone = new ScriptedPhone()
  phone.open(SCENE)
  const refused = async () => (await phone.next('/scan')).reply(problem(400, 'invalid_wx_code'))
  await refused()
  await refused()
  await phone.shows('微信登录凭证无效')
  await quiet()
  assert.equal(phone.requests.length, 2)
  phone.tap('重试')
  await refused()
  const fourth = await phone.next('/scan')
  fourth.reply(ok(scanReply()))
  await phone.shows('我的博客')
  assert.deepEqual(phone.requests.map((request) => json(request).code), ['code-1', 'code-2', 'code-3', 'code-4'])
})

test('wx.login fails: a button, and a new code at its tap', async () => {
  const phone = new ScriptedPhone()
  const login = phone.login
  phone.login = async () => Promise.reject(new Error('no network'))
  phone.open(SCENE)
  await phone.shows('微信没有给出登录凭证')
  assert.equal(phone.requests.length, 0)
  phone.login = login
  phone.tap('重试')
  assert.equal(json(await phone.next('/scan')).code, 'code-1')
})

for (const [status, code] of [[503, 'store_unavailable'], [429, 'rate_limited']]) {
  test(`${status} with Retry-After: one try by itself after that time, then a button after that time`, async () => {
    const phone = new ScriptedPhone()
    await phone.opened()
    phone.tap('确认登录')
    const away = () => problem(status, code, {}, { 'retry-after': '3' })
    const first = await phone.next('/confirm')
    first.reply(away())
    await until('the wait began', () => phone.clock.timers.size > 1)
    phone.clock.advance(2999)
    await quiet()
    assert.equal(phone.requests.length, 2, 'not before its time')
    phone.clock.advance(1)
    const second = await phone.next('/confirm')
    assert.equal(second.body, first.body)
    second.reply(away())
    await phone.shows('3 秒后可以再试')
    assert.ok(phone.button('确认登录').attributes.disabled)
    phone.page.declineTapped()
    await quiet()
    assert.equal(phone.requests.length, 3)
    phone.clock.advance(3000)
    await until('the button is free', () => !phone.button('确认登录').attributes.disabled)
    phone.tap('确认登录')
    const third = await phone.next('/confirm')
    third.reply(ok(CONFIRMED))
    await phone.shows('已确认登录')
  })
}

test('a wait that ends in the background: sent on return, not before', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.tap('拒绝')
  const first = await phone.next('/decline')
  phone.background()
  first.reply(problem(503, 'shutting_down', {}, { 'Retry-After': '1' }))
  await until('the wait began', () => phone.clock.timers.size > 0)
  phone.clock.advance(1000)
  await quiet()
  assert.equal(phone.requests.length, 2)
  phone.foreground()
  const second = await phone.next('/decline')
  second.reply(ok(DECLINED))
  await phone.shows('已拒绝登录')
})

test('a long Retry-After is not waited for behind the person’s back', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(problem(429, 'wechat_quota', {}, { 'Retry-After': '60' }))
  await phone.shows('60 秒后可以再试')
  assert.ok(phone.button('重试').attributes.disabled)
  phone.clock.advance(60_000)
  await until('the button is free', () => !phone.button('重试').attributes.disabled)
  phone.tap('重试')
  await phone.next('/scan')
})

for (const [status, code, more, title] of [
  [404, 'unknown_scene', {}, '找不到这个登录请求'],
  [409, 'scanned_by_another', {}, '已被另一个微信号扫描'],
  [409, 'already_finished', { state: 'confirmed' }, '这次登录已经确认过'],
  [409, 'already_finished', { state: 'cancelled' }, '电脑上已取消登录'],
  [410, 'expired', { state: 'expired' }, '登录码已过期'],
  [403, 'entry_scene_refused', {}, '请直接扫描电脑屏幕'],
  [403, 'wechat_blocked_user', { errcode: 40226 }, '微信限制了这个账号'],
]) {
  test(`scan: ${code} ${more.state ?? ''} ends with what to do and no button that cannot help`, async () => {
    const phone = new ScriptedPhone()
    await phone.opened(problem(status, code, more))
    assert.ok(phone.text().includes(title))
    assert.ok(phone.text().includes('req-1'))
    assert.equal(phone.nodes(({ tag }) => tag === 'button').length, 1)
  })
}

for (const [status, body, title] of [
  [502, '<html>Bad Gateway</html>', '回应无法识别'],
  [200, '<html>Hotel Wi-Fi</html>', '回应无法识别'],
  [200, '{"state":"ok"}', '回应无法识别'],
  [400, '{"code":"of_tomorrow"}', '没有成功'],
  [502, '{"code":"wechat_error","errcode":40013}', '登录服务的设置有误'],
  [504, '{"code":"wechat_timeout"}', '微信暂时没有正常回应'],
]) {
  test(`scan: ${status} ${body} can be tried again`, async () => {
    const phone = new ScriptedPhone()
    await phone.opened({ status, body })
    assert.ok(phone.text().includes(title), phone.text())
    phone.tap('重试')
    await phone.next('/scan')
  })
}

test('a dead confirm token: this page can scan again, and asks again', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.tap('确认登录')
  const confirm = await phone.next('/confirm')
  confirm.reply(problem(401, 'confirm_token_required'))
  await phone.shows('这个页面已经失效')
  phone.tap('重试')
  const scan = await phone.next('/scan')
  assert.equal(json(scan).code, 'code-2')
  scan.reply(ok(scanReply({ confirm_token: 'token-2' })))
  await phone.shows('我的博客')
  phone.tap('确认登录')
  assert.equal((await phone.next('/confirm')).header.Authorization, 'Bearer token-2')
})
