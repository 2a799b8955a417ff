// The real page through its life, with a service whose every reply is scripted.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { test } from 'node:test'
import { quiet, read, until } from './support/project.mjs'
import { CONFIRMED, DECLINED, INTERRUPTED, OTHER_SCENE, SCENE, ScriptedPhone, json, ok, problem, scanReply } from './support/scripted.mjs'

const JPEG = Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), Buffer.alloc(2000)])

test('a scan: a new code, the entry value, the menu hidden, and the facts to judge', async () => {
  const phone = new ScriptedPhone()
  const scan = await phone.opened(ok(scanReply({ warning: 'A warning of the service.' })))
  assert.equal(scan.path, `/scenes/${SCENE}/scan`)
  assert.equal(scan.method, 'POST')
  assert.deepEqual(json(scan), { code: 'code-1', entry_scene: 1047 })
  assert.deepEqual(phone.calls, ['hideShareMenu', 'setNavigationBarTitle 扫码登录', 'login'])
  for (const fact of ['我的博客', 'blog.example', 'Firefox 143', 'Windows', '203.0.113.7', 'Hangzhou', '12 秒前', 'A warning of the service.']) {
    assert.ok(phone.text().includes(fact), fact)
  }
  phone.clock.advance(5000)
  assert.ok(phone.text().includes('17 秒前'))
})

test('what the service does not know is not shown', async () => {
  const phone = new ScriptedPhone()
  phone.language = 'en'
  await phone.opened(ok(scanReply({ browser: { name: 'Chrome', os: 'macOS' }, client: { client_id: 'x', name: 'X' } })))
  assert.ok(phone.text().includes('Log in to this site on the computer?'))
  assert.doesNotMatch(phone.text(), /undefined|null|Place|IP address/)
  assert.deepEqual(phone.nodes(({ attributes }) => ['domain', 'logo', 'alert'].includes(attributes.class)), [])
})

test('nothing but colour tells confirm from decline', () => {
  const rules = [...`${read('app.wxss')}${read('pages/confirm/confirm.wxss')}`.matchAll(/([^{}]+)\{([^{}]*)\}/g)]
  const own = rules.filter(([, selector]) => /\.(decline|confirm)\b/.test(selector))
  assert.ok(own.length >= 2, 'both are styled')
  for (const [rule, , body] of own) {
    for (const declaration of body.split(';').map((each) => each.trim()).filter(Boolean)) {
      assert.match(declaration, /^(background|background-color|color|border-color):/, rule)
    }
  }
})

test('whatever somebody else worded is shown as it is, and as nothing but text', async () => {
  const payloads = Object.values(JSON.parse(fs.readFileSync(new URL('../../tests/payloads.json', import.meta.url)))).flat()
  assert.ok(payloads.length >= 200)
  const plain = new ScriptedPhone()
  await plain.opened(ok(scanReply({ warning: 'x' })))
  const shape = (phone) => phone.nodes(() => true).map(({ tag, attributes }) => `${tag} ${Object.keys(attributes)}`)
  for (const words of payloads) {
    const phone = new ScriptedPhone()
    await phone.opened(ok(scanReply({
      client: { client_id: 'x', name: words, domain: words },
      browser: { name: words, os: words, ip: words, place: words },
      warning: words,
    })))
    const shown = (name) => phone.nodes(({ attributes }) => attributes.class === name).map(({ children }) => children)
    assert.deepEqual(shown('title'), [[words]], JSON.stringify(words))
    assert.deepEqual(shown('domain'), [[words]])
    assert.deepEqual(shown('alert'), [[words]])
    assert.deepEqual(shown('fact-value').slice(0, 3), [[`${words} 上的 ${words}`], [words], [words]])
    assert.deepEqual(shape(phone), shape(plain), 'it makes no element and no attribute')
    phone.close()
  }
})

test('decline comes first and is as large as confirm; a broken logo goes away', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(ok(scanReply({ client: { client_id: 'x', name: 'X', logo_url: 'https://x.example/l.png' } })))
  const buttons = phone.nodes(({ tag }) => tag === 'button').map(({ attributes }) => attributes.class)
  assert.deepEqual(buttons, ['action decline', 'action confirm', 'action not-me'])
  const logo = () => phone.nodes(({ attributes }) => attributes.class === 'logo')
  assert.equal(logo().length, 1)
  phone.page[logo()[0].attributes.binderror]()
  assert.equal(logo().length, 0)
})

test('confirm sends nothing but the token, and points to the computer', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.tap('确认登录')
  const confirm = await phone.next('/confirm')
  assert.equal(confirm.header.Authorization, 'Bearer token-1')
  assert.deepEqual(json(confirm), {})
  assert.ok(phone.button('确认登录').attributes.loading)
  confirm.reply(ok(CONFIRMED))
  await phone.shows('请查看电脑')
  phone.tap('关闭')
  assert.equal(phone.calls.at(-1), 'exitMiniProgram')
})

for (const [label, body, text] of [
  ['拒绝', {}, '电脑上不会登录'],
  ['不是我本人的操作', { reason: 'not_me' }, '不要扫描别人发来的登录码'],
]) {
  test(`decline: ${label}`, async () => {
    const phone = new ScriptedPhone()
    await phone.opened()
    phone.tap(label)
    const decline = await phone.next('/decline')
    assert.deepEqual(json(decline), body)
    assert.equal(decline.header.Authorization, 'Bearer token-1')
    decline.reply(ok(DECLINED))
    await phone.shows(text)
  })
}

test('a second tap does nothing, also before the screen is drawn', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  const detail = { detail: { value: {} } }
  phone.page.confirmSubmitted(detail)
  phone.page.confirmSubmitted(detail)
  phone.page.declineTapped()
  phone.page.notMeTapped()
  phone.page.scanAgainTapped()
  const confirm = await phone.next('/confirm')
  for (const label of ['拒绝', '确认登录', '不是我本人的操作']) assert.ok(phone.button(label).attributes.disabled, label)
  await quiet()
  assert.equal(phone.requests.length, 2)
  confirm.reply(ok(CONFIRMED))
  await phone.shows('已确认登录')
  phone.page.declineTapped()
  phone.page.confirmSubmitted(detail)
  await quiet()
  assert.equal(phone.requests.length, 2)
})

test('opened without a scene: says how to get one, asks nobody, and leads to where a code is typed', async () => {
  for (const query of [{}, { scene: '' }, { scene: '%' }, { scene: 'undefined' }, { q: 'https%3A%2F%2Flogin.example' }, { short_code: 'K7WMP3XQ' }]) {
    const phone = new ScriptedPhone()
    phone.open(SCENE, query)
    await phone.shows('没有登录请求')
    phone.background()
    phone.foreground()
    await quiet()
    assert.deepEqual(phone.requests, [])
    phone.tap('输入短码')
    await phone.shows('输入电脑上显示的短码')
    phone.close()
  }
})

test('the link of an ordinary QR: the scene is in it, and when it was scanned is told', async () => {
  const phone = new ScriptedPhone()
  phone.entryScene = 1011
  phone.open(SCENE, { q: encodeURIComponent(`https://login.example/s/${SCENE}`), scancode_time: '1795000000' })
  const scan = await phone.next('/scan')
  assert.equal(scan.path, `/scenes/${SCENE}/scan`)
  assert.deepEqual(json(scan), { code: 'code-1', entry_scene: 1011, scancode_time: 1795000000 })
})

test('numbers: choose before confirm; wrong once chooses again, wrong twice is declined', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(ok(scanReply({ match_choices: ['12', '34', '56'] })))
  assert.equal(phone.nodes(({ attributes }) => String(attributes.class).startsWith('number ')).length, 3)
  assert.ok(phone.button('确认登录').attributes.disabled)
  phone.submit()
  await quiet()
  assert.equal(phone.requests.length, 1)

  phone.page.numberTapped({ currentTarget: { dataset: { number: '12' } } })
  phone.page.numberTapped({ currentTarget: { dataset: { number: '99' } } })
  phone.tap('确认登录')
  const first = await phone.next('/confirm')
  assert.deepEqual(json(first), { match_number: '12' })
  first.reply(problem(403, 'wrong_match_number'))
  await phone.shows('数字不对')
  assert.ok(phone.button('确认登录').attributes.disabled, 'choose again')
  assert.ok(phone.text().includes('如果电脑上没有这些数字，请拒绝'))
  for (const label of ['拒绝', '不是我本人的操作']) assert.ok(!phone.button(label).attributes.disabled, label)
  const parts = ['profile-title', 'sheet', 'match-title', 'hint match-hint', 'numbers', 'alert', 'pair']
  const shown = phone.nodes(({ attributes }) => parts.includes(attributes.class)).map(({ attributes }) => attributes.class)
  assert.deepEqual(shown, parts, 'all there is to answer with stands together')
  assert.ok(phone.button('12 不对').attributes.disabled, 'the wrong one is gone')

  phone.page.numberTapped({ currentTarget: { dataset: { number: '34' } } })
  phone.tap('确认登录')
  const second = await phone.next('/confirm')
  assert.deepEqual(json(second), { match_number: '34' })
  second.reply(problem(403, 'wrong_match_number', { state: 'declined' }))
  await phone.shows('数字选错了两次')
})

test('numbers: who scans again has one try fewer, and is told so when it is over', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(ok(scanReply({ match_choices: ['12', '34', '56'] })))
  phone.page.numberTapped({ currentTarget: { dataset: { number: '12' } } })
  phone.tap('确认登录')
  const only = await phone.next('/confirm')
  only.reply(problem(403, 'wrong_match_number', { state: 'declined' }))
  await phone.shows('数字选错了两次')
})

test('what no further try can cure offers none: only to close', async () => {
  for (const [status, code] of [
    [403, 'entry_scene_refused'], [403, 'wechat_blocked_user'], [404, 'unknown_scene'],
    [409, 'scanned_by_another'], [409, 'already_finished'], [410, 'expired'],
  ]) {
    const phone = new ScriptedPhone()
    phone.open(SCENE)
    const scan = await phone.next('/scan')
    scan.reply(problem(status, code))
    await until(`${code} is told`, () => phone.page.data.screen === 'ended')
    const buttons = phone.nodes(({ tag }) => tag === 'button').map(({ attributes }) => attributes.class)
    assert.deepEqual(buttons, ['action other'], code)
    assert.ok(phone.button('关闭'))
    phone.close()
  }
})

test('numbers: the second wrong one may also be told as already declined', async () => {
  const phone = new ScriptedPhone()
  await phone.opened(ok(scanReply({ match_choices: ['12', '34', '56'] })))
  for (const [number, reply] of [['12', problem(403, 'wrong_match_number')], ['34', problem(409, 'already_finished', { state: 'declined' })]]) {
    phone.page.numberTapped({ currentTarget: { dataset: { number } } })
    phone.tap('确认登录')
    const confirm = await phone.next('/confirm')
    confirm.reply(reply)
    await until('it is answered', () => phone.page.login.state.act === null)
  }
  await phone.shows('数字选错了两次')
})

for (const way of ['open', 'openAgain']) {
  test(`hot start (${way}): nothing of the old scene is left, and its late answer is dropped`, async () => {
    const phone = new ScriptedPhone()
    await phone.opened(ok(scanReply({ match_choices: ['12', '34', '56'], warning: 'OLD' })))
    phone.page.numberTapped({ currentTarget: { dataset: { number: '12' } } })
    phone.switchProfile(true)
    phone.files.old = JPEG
    await phone.pickAvatar('old')
    phone.tap('确认登录')
    const avatar = await phone.next('/avatar')
    const old = phone.page

    phone.background()
    phone.entryScene = 1048
    phone[way](OTHER_SCENE)
    const scan = await phone.next('/scan')
    assert.equal(scan.path, `/scenes/${OTHER_SCENE}/scan`)
    assert.deepEqual(json(scan), { code: 'code-2', entry_scene: 1048 })
    avatar.reply(ok({ avatar_url: 'https://login.example/avatars/x' }))
    await quiet()
    assert.equal(phone.requests.length, 3, 'the old confirm is not sent')
    assert.doesNotMatch(phone.text(), /OLD|12|我的博客/)

    scan.reply(ok(scanReply({ confirm_token: 'token-new', client: { client_id: 'n', name: '新网站' } })))
    await phone.shows('新网站')
    assert.doesNotMatch(phone.text(), /OLD|我的博客/)
    assert.deepEqual([phone.page.data.profileOpen, phone.page.data.avatarPath, phone.page.avatar], [false, '', null])
    if (way === 'open') assert.equal(old.login, null)
    phone.tap('确认登录')
    const confirm = await phone.next('/confirm')
    assert.equal(confirm.header.Authorization, 'Bearer token-new')
    assert.deepEqual(json(confirm), {})
  })
}

test('hot start while a code is being fetched: the old scene is never scanned', async () => {
  const phone = new ScriptedPhone()
  let give
  phone.login = () => new Promise((resolve) => (give = resolve))
  phone.open(SCENE)
  await until('wx.login is asked', () => give)
  const old = give
  phone.openAgain(OTHER_SCENE)
  await until('wx.login is asked again', () => give !== old)
  old({ code: 'old' })
  give({ code: 'new' })
  const scan = await phone.next('/scan')
  assert.deepEqual([scan.path, json(scan).code], [`/scenes/${OTHER_SCENE}/scan`, 'new'])
  await quiet()
  assert.equal(phone.requests.length, 1)
})

test('closed in plain view: the clock stops', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  assert.equal(phone.clock.timers.size, 1)
  phone.close()
  assert.equal(phone.clock.timers.size, 0)
})

test('leaving the page stops everything, the clock too', async () => {
  const phone = new ScriptedPhone()
  await phone.opened()
  phone.tap('确认登录')
  const confirm = await phone.next('/confirm')
  phone.background()
  confirm.fail(INTERRUPTED)
  await quiet()
  phone.close()
  await quiet()
  assert.equal(phone.requests.length, 2)
  assert.equal(phone.clock.timers.size, 0)
})
