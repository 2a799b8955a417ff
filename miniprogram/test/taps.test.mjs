// Fingers on the drawn screens, and the real service behind them.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { until } from './support/project.mjs'
import { DEVICES, Renderer } from './support/renderer.mjs'
import { CONFIRMED, SCENE, ScriptedPhone, json, ok, problem, scanReply } from './support/scripted.mjs'
import { JPEG, Server, openid } from './support/server.mjs'

const CLIENTS = `
[[client]]
client_id = "numbers"
name = "My Bank"
redirect_uris = ["https://bank.example/callback"]
number_matching = "on"
`

let server
let renderer
before(async () => ([server, renderer] = await Promise.all([Server.start({}, CLIENTS), Renderer.launch()])))
after(() => Promise.all([server?.stop(), renderer?.close()]))

/** A browser that shows a code, and the screen of a phone that has scanned it. */
async function scanned(clientId) {
  const browser = await server.browser(clientId)
  const phone = server.phone(openid())
  const screen = await renderer.screen({ device: DEVICES['390x844'] })
  phone.open(browser.scene)
  await screen.hold(phone)
  await screen.shows('要在电脑上登录这个网站吗')
  return { browser, phone, screen }
}

test('a finger picks the number and confirms: the browser is logged in', async () => {
  const { browser, phone, screen } = await scanned('numbers')
  const { match_number: right } = await browser.sees('scanned')
  const wrong = phone.numbers().find((number) => number !== right)
  assert.ok(await screen.button('确认登录').isDisabled())
  await screen.frame.locator('.number', { hasText: wrong }).click()
  await screen.button('确认登录').click()
  await screen.shows('数字不对')
  await until('the phone is idle', () => phone.page.data.idle)
  await screen.drawn()
  await screen.frame.locator('.number', { hasText: right }).click()
  await screen.button('确认登录').click()
  await screen.shows('已确认登录')
  assert.ok((await browser.sees('confirmed')).code)
  await screen.button('关闭').click()
  await until('it is closed', () => phone.calls.includes('exitMiniProgram'))
  await screen.close()
})

for (const [label, text] of [['拒绝', '电脑上不会登录'], ['不是我本人的操作', '不要扫描别人发来的登录码']]) {
  test(`a finger on ${label}: the browser sees it`, async () => {
    const { browser, screen } = await scanned('numbers')
    await screen.button(label).click()
    await screen.shows(text)
    await browser.sees('declined')
    await screen.close()
  })
}

test('a nickname that is typed and a picture that is chosen go to the browser', async () => {
  const browser = await server.browser('numbers')
  const phone = server.phone(openid())
  const screen = await renderer.screen()
  phone.open(browser.scene)
  await screen.hold(phone)
  await screen.shows('要在电脑上登录这个网站吗')
  const { match_number: right } = await browser.sees('scanned')
  await screen.frame.getByRole('switch').click()
  phone.files['https://tmp.example/a.jpg'] = JPEG
  screen.avatar = 'https://tmp.example/a.jpg'
  await screen.button('选择头像').click()
  await screen.shows('移除')
  await screen.frame.getByLabel('昵称', { exact: true }).fill('小明')
  await screen.frame.locator('.number', { hasText: right }).click()
  await screen.button('确认登录').click()
  await screen.shows('已确认登录')
  const { profile } = await browser.sees('confirmed')
  assert.equal(profile.nickname, '小明')
  assert.ok(profile.avatar_url)
  await screen.close()
})

test('a short code is typed key by key, mended after a mistake, and confirmed', async () => {
  const phone = new ScriptedPhone().launch()
  const screen = await renderer.screen()
  await screen.hold(phone)
  const input = screen.frame.getByLabel('输入电脑上显示的短码')
  await input.pressSequentially('k7wm p3xr')
  await until('it stands as on the computer', async () => (await input.inputValue()) === 'K7WM-P3XR')
  await screen.button('继续').click()
  const wrong = await phone.next('/short-codes/scan')
  wrong.reply(problem(404, 'unknown_short_code'))
  await screen.shows('没有这个码')
  await screen.button('输入短码').click()
  await screen.shows('输入电脑上显示的短码')
  await input.fill('K7WM-P3XQ')
  await input.press('Enter')
  const scan = await phone.next('/short-codes/scan')
  assert.equal(json(scan).short_code, 'K7WMP3XQ')
  scan.reply(ok(scanReply({ scene: SCENE })))
  await screen.shows('我的博客')
  await screen.button('确认登录').click()
  const confirm = await phone.next('/confirm')
  assert.equal(confirm.path, `/scenes/${SCENE}/confirm`)
  confirm.reply(ok(CONFIRMED))
  await screen.shows('已确认登录')
  await screen.close()
})
