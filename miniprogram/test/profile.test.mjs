// Nickname and avatar: closed at first, on the phone until the login is confirmed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { quiet, until } from './support/project.mjs'
import { CONFIRMED, SCENE, ScriptedPhone, json, ok, problem, scanReply } from './support/scripted.mjs'

const jpeg = (size) => Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), Buffer.alloc(size - 4)])
const LIMIT = 64 * 1024
const AVATAR = { avatar_url: 'https://login.example/avatars/x.y' }

async function withProfile() {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.switchProfile(true)
  return phone
}

test('closed by default: neither is asked for', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  assert.equal(phone.nodes(({ tag }) => tag === 'input').length, 0)
  assert.equal(phone.nodes(({ attributes }) => attributes['open-type']).length, 0)
  phone.config.PROFILE.offered = false
  await phone.opened()
  assert.equal(phone.nodes(({ tag }) => tag === 'switch').length, 0, 'an operator can do without')
})

test('both are sent at confirm, the avatar first, in its true type', async () => {
  const phone = await withProfile()
  phone.files['wxfile://tmp/a.png'] = jpeg(LIMIT)
  await phone.pickAvatar('wxfile://tmp/a.png')
  phone.typed.nickname = '  小明 '
  await quiet()
  assert.equal(phone.requests.length, 1, 'nothing leaves the phone before')
  phone.tap('确认登录')
  const avatar = await phone.next('/avatar')
  assert.equal(avatar.method, 'PUT')
  assert.equal(avatar.path, `/scenes/${SCENE}/avatar`)
  assert.equal(avatar.header['Content-Type'], 'image/jpeg')
  assert.equal(avatar.header.Authorization, 'Bearer token-1')
  assert.deepEqual(avatar.body, jpeg(LIMIT))
  avatar.reply(ok(AVATAR))
  const confirm = await phone.next('/confirm')
  assert.deepEqual(json(confirm), { profile: { nickname: '小明' } })
  confirm.reply(ok({ state: 'confirmed', version: 3 }))
  await phone.shows('已确认登录')
})

test('switched off again, or removed, or declined: nothing is sent', async () => {
  for (const change of [(phone) => phone.switchProfile(false), (phone) => phone.tap('移除')]) {
    const phone = await withProfile()
    phone.files.a = jpeg(100)
    await phone.pickAvatar('a')
    change(phone)
    phone.tap('确认登录')
    assert.deepEqual(json(await phone.next('/confirm')), {})
  }
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.typed.nickname = '小明'
  phone.tap('拒绝')
  assert.deepEqual(json(await phone.next('/decline')), {})
})

test('a file too large is made smaller once, else told', async () => {
  const phone = await withProfile()
  phone.files.big = jpeg(LIMIT + 1)
  await phone.pickAvatar('big')
  assert.ok(phone.text().includes('请换一张，或者不提供头像'), 'compressImage failed')
  phone.compressed = jpeg(LIMIT + 1)
  await phone.pickAvatar('big')
  assert.ok(phone.text().includes('请换一张小一点的图片'))
  phone.compressed = jpeg(500)
  await phone.pickAvatar('big')
  assert.doesNotMatch(phone.text(), /请换一张/)
  phone.tap('确认登录')
  assert.equal((await phone.next('/avatar')).body.length, 500)
})

test('what is no picture is told, and replaces the picture before', async () => {
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.files.gif = Buffer.from('GIF89a...')
  await phone.pickAvatar('gif')
  assert.ok(phone.text().includes('头像只能是 JPEG、PNG 或 WebP 图片'))
  await phone.pickAvatar('nowhere')
  assert.ok(phone.text().includes('请换一张'))
  phone.tap('确认登录')
  await phone.next('/confirm')
})

test('a picture that is read after the switch went off is forgotten', async () => {
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  const picked = phone.pickAvatar('a')
  phone.switchProfile(false)
  phone.switchProfile(true)
  phone.switchProfile(false)
  await picked
  assert.equal(phone.page.avatar, null)
})

test('the service refuses the avatar: said, and the login goes on without', async () => {
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.tap('确认登录')
  const avatar = await phone.next('/avatar')
  avatar.reply(problem(415, 'unsupported_media_type'))
  await phone.shows('不支持这种图片')
  phone.tap('移除')
  phone.tap('确认登录')
  await phone.next('/confirm')
})

for (const [status, code, retryAfter, sent] of [
  [503, 'store_unavailable', '10', 2],
  [429, 'rate_limited', '60', 1],
  [500, 'internal', '', 1],
]) {
  test(`the service can't take the avatar (${status}): the login goes on without, and that is said`, async () => {
    const phone = await withProfile()
    phone.files.a = jpeg(100)
    await phone.pickAvatar('a')
    phone.typed.nickname = '小明'
    phone.tap('确认登录')
    const full = problem(status, code, {}, retryAfter === '' ? {} : { 'Retry-After': retryAfter })
    const first = await phone.next('/avatar')
    first.reply(full)
    if (sent === 2) {
      await until('the wait began', () => phone.clock.timers.size > 1)
      phone.clock.advance(Number(retryAfter) * 1000)
      const second = await phone.next('/avatar')
      second.reply(full)
    }
    const confirm = await phone.next('/confirm')
    assert.deepEqual(json(confirm), { profile: { nickname: '小明' } })
    confirm.reply(ok(CONFIRMED))
    await phone.shows('已确认登录')
    assert.ok(phone.text().includes('头像没有保存成功'))
  })
}

test('the login goes on without the avatar, but not to its end: the next try sends both again', async () => {
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.tap('确认登录')
  const lost = await phone.next('/avatar')
  lost.reply(problem(500, 'internal'))
  const first = await phone.next('/confirm')
  first.reply(problem(500, 'internal'))
  await phone.shows('登录服务出错了')
  phone.tap('确认登录')
  const avatar = await phone.next('/avatar')
  avatar.reply(ok(AVATAR))
  const second = await phone.next('/confirm')
  second.reply(ok(CONFIRMED))
  await phone.shows('已确认登录')
  assert.ok(!phone.text().includes('头像没有保存成功'))
})

test('interrupted between avatar and confirm: the avatar is sent once, the confirm again', async () => {
  const phone = await withProfile()
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.tap('确认登录')
  const avatar = await phone.next('/avatar')
  avatar.reply(ok(AVATAR))
  const first = await phone.next('/confirm')
  phone.background()
  first.fail('request:fail interrupted')
  phone.foreground()
  const second = await phone.next('/confirm')
  assert.equal(second.body, first.body)
})

test('an avatar that was sent cannot be taken back, and that is said', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(ok(scanReply({ match_choices: ['12', '34', '56'] })))
  phone.switchProfile(true)
  phone.files.a = jpeg(100)
  await phone.pickAvatar('a')
  phone.page.numberTapped({ currentTarget: { dataset: { number: '12' } } })
  phone.tap('确认登录')
  const avatar = await phone.next('/avatar')
  avatar.reply(ok(AVATAR))
  const confirm = await phone.next('/confirm')
  confirm.reply(problem(403, 'wrong_match_number'))
  await until('the buttons are free', () => phone.page.data.idle)
  assert.ok(phone.text().includes('头像已发送给登录服务'))
  assert.ok(phone.nodes(({ tag }) => tag === 'switch')[0].attributes.disabled)
  assert.ok(phone.nodes(({ attributes }) => attributes['open-type'] === 'chooseAvatar')[0].attributes.disabled)
})
