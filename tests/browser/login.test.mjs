// One login from the code to the profile, and the other ways it can end.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import {
  CHINESE, ENGLISH, MOBILE_PHONE, MOVING, isInSight, part, reaches, sceneOf, shows, tabTo,
} from './support/chromium.mjs'
import { confirms, gives, isAsked } from './support/phone.mjs'
import { Service } from './support/service.mjs'
import { withService } from './support/stage.mjs'

const it = withService()

describe('a login', { concurrency: 3, timeout: 600_000 }, () => {
  it('is confirmed on the phone, shows who it is, survives a reload and ends with a log-out', async (stage, service) => {
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    const scene = await sceneOf(computer)
    const phone = await stage.phone(computer, MOBILE_PHONE)
    assert.equal(phone.url(), `${service.url}/simulator/phone?scene=${scene}`, 'the code says where and which')

    await isAsked(phone)
    await shows(phone, '[data-testid=site]', 'scanlogin demo')
    await shows(phone, '[data-testid=browser]', /^Chrome( \d+)? on Linux$/)
    await shows(phone, '[data-testid=ip]', '127.0.0.1')
    await shows(phone, '[data-testid=asked]', /just now|seconds? ago/)
    await reaches(computer, 'scanned')
    await shows(computer, '#status-text', 'Now confirm on your phone.')

    await gives(phone, '阿明 🐼')
    await phone.getByTestId('confirm').click()
    await reaches(phone, 'confirmed')
    await reaches(computer, 'profile')
    assert.deepEqual(computer.passed.slice(-4), ['waiting', 'scanned', 'confirmed', 'profile'])
    await shows(computer, '#profile-title', 'Hello, 阿明 🐼')
    await shows(computer, '[data-testid=simulated]', 'simulated')
    await shows(computer, '#openid', 'o-simulated-xiaoming')

    await computer.reload()
    await reaches(computer, 'profile')
    await shows(computer, '#profile-title', 'Hello, 阿明 🐼')

    await computer.getByTestId('logout').click()
    await reaches(computer, 'waiting')
    assert.notEqual(await sceneOf(computer), scene, 'a new login has a new scene')
    await computer.reload()
    await reaches(computer, 'waiting')
  })

  it('offers the simulated phone, and says who else may scan the code', async (stage, service) => {
    const computer = await stage.computer(service.url)
    await shows(computer, '#open-phone-hint', 'which only this machine reaches')

    const context = await stage.person()
    await context.route('**/demo/start', async (route) => {
      const response = await route.fetch()
      const elsewhere = { simulated_phone_url: 'https://login.example/simulator/phone' }
      await route.fulfill({ response, json: { ...await response.json(), ...elsewhere } })
    })
    const reachable = await context.newPage()
    await reachable.goto(service.url)
    await shows(reachable, '#open-phone-hint', 'any phone that reaches this machine')
    await reaches(reachable, 'waiting')
  })

  it('T17: says beside the code that WeChat is simulated, and that anybody can log in as anybody', async (stage, service) => {
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    await shows(computer, '#simulator', 'WeChat is simulated')
    await shows(computer, '#simulator', 'anybody can log in as anybody')

    const context = await stage.person()
    await context.route('**/demo/profile', async (route) => {
      const response = await route.fetch()
      await route.fulfill({ response, json: { ...await response.json(), simulator: false } })
    })
    const real = await context.newPage()
    await real.goto(service.url)
    await reaches(real, 'waiting')
    assert.equal(await real.locator('#simulator').isVisible(), false)
  })

  it('is at the public URL, wherever on this machine the visitor looked for it', async (stage, service) => {
    const computer = await stage.computer(service.url.replace('127.0.0.1', 'localhost'))
    await confirms(await stage.phone(computer), 'Local')
    await reaches(computer, 'profile')
    assert.equal(new URL(computer.url()).origin, service.url)
  })

  it('needs no nickname, and may show a picture that the phone gave', async (stage, service) => {
    const computer = await stage.computer(service.url, MOVING)
    const phone = await stage.phone(computer, MOVING)
    await isAsked(phone)
    await gives(phone)
    await phone.getByTestId('avatar').setInputFiles({ name: 'me.png', mimeType: 'image/png', buffer: await picture(phone) })
    await shows(phone, '#avatar-status', 'The picture goes with it.')
    await phone.getByTestId('clear').click()
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
    await shows(computer, '#profile-title', /^Hello, WeChat user o-simu…ming$/)
    await computer.locator('#avatar img').waitFor()
    assert.match(await computer.locator('#avatar img').getAttribute('src'), /\/avatars\//)
  })

  it('gives the site nothing but who it is, unless the person switches it on, and leaves it on', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const uploads = []
    for (const [when, gone] of [
      ['as it comes', () => {}],
      ['switched on and off', async (phone) => {
        await gives(phone)
        await phone.getByTestId('avatar').setInputFiles({ name: 'me.png', mimeType: 'image/png', buffer: await picture(phone) })
        await shows(phone, '#avatar-status', 'The picture goes with it.')
        assert.equal(await phone.getByTestId('nickname').inputValue(), '小明', 'it offers a name')
        await phone.getByTestId('give').uncheck()
      }],
    ]) {
      const phone = await stage.phone(computer, MOBILE_PHONE)
      phone.on('request', (request) => request.method() === 'PUT' && uploads.push(request.url()))
      await isAsked(phone)
      assert.equal(await phone.getByTestId('give').isChecked(), false, when)
      assert.equal(await phone.getByTestId('nickname').isVisible(), false, when)
      await gone(phone)
      assert.equal(await phone.getByTestId('nickname').isVisible(), false, when)
      await phone.getByTestId('confirm').click()
      await reaches(computer, 'profile')
      const { profile } = await computer.evaluate(async () => (await fetch('/demo/profile')).json())
      assert.deepEqual([profile.nickname, profile.picture, uploads], [undefined, undefined, []], when)
      await computer.getByTestId('logout').click()
      await reaches(computer, 'waiting')
    }
  })

  it('goes on without a picture that the service refuses', async (stage, service) => {
    stage.tolerate(/status of 415/)
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer, MOBILE_PHONE)
    await isAsked(phone)
    await gives(phone, 'Plain')
    await phone.getByTestId('avatar').setInputFiles({ name: 'me.gif', mimeType: 'image/gif', buffer: Buffer.from('no picture') })
    await shows(phone, '#avatar-status', 'The picture goes with it.')
    await phone.getByTestId('confirm').click()
    await shows(phone, '#avatar-status', 'This is not a JPEG, PNG or WebP picture.')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
    await shows(computer, '#profile-title', 'Hello, Plain')
  })

  it('is declined on the phone, and started anew by one click', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await reaches(phone, 'declined')
    await shows(phone, '#text', 'The computer will not be logged in.')
    await reaches(computer, 'declined')
    await shows(computer, '[part~=refresh]', 'Get a new code')
    await part(computer, 'refresh').click()

    const stranger = await stage.phone(computer)
    await isAsked(stranger)
    await stranger.getByTestId('not-me').click()
    await reaches(stranger, 'declined')
    await shows(stranger, '#text', 'Do not scan login codes that others send you')
    await reaches(computer, 'declined')
  })

  it('is cancelled in the browser, and the phone hears of it', async (stage, service) => {
    stage.tolerate(/status of 409/)
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    await part(computer, 'cancel').click()
    await reaches(computer, 'cancelled')
    await phone.getByTestId('confirm').click()
    await reaches(phone, 'error')
    await shows(phone, 'h1', 'The login was cancelled on the computer')
    await part(computer, 'refresh').click()
    await reaches(computer, 'waiting')
  })

  it('belongs to the phone that scanned first', async (stage, service) => {
    stage.tolerate(/status of 409/)
    const computer = await stage.computer(service.url)
    const [first, second] = await Promise.all([stage.phone(computer), stage.phone(computer)])
    await isAsked(first)
    await second.getByLabel('Bob').check()
    await second.getByTestId('scan').click()
    await reaches(second, 'error')
    await shows(second, 'h1', 'Already scanned by someone else')
    await first.getByTestId('confirm').click()
    await reaches(computer, 'profile')
    await shows(computer, '#openid', 'o-simulated-xiaoming')
  })

  it('goes on after a reload, waiting or scanned', async (stage, service) => {
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    const scene = await sceneOf(computer)
    await computer.reload()
    await reaches(computer, 'waiting')
    assert.equal(await sceneOf(computer), scene, 'the same after a reload while waiting')

    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    await computer.reload()
    await reaches(computer, 'scanned')
    assert.equal(await sceneOf(computer), scene, 'the same after a reload while scanned')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
  })

  it('that was confirmed while the page was away is finished when it comes back', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    await computer.goto('about:blank')
    await confirms(phone, 'Back again')
    await reaches(phone, 'confirmed')
    await computer.goBack()
    await reaches(computer, 'profile')
    await shows(computer, '#profile-title', 'Hello, Back again')
  })

  it('is a tab\'s own: two tabs have two scenes', async (stage, service) => {
    const one = await stage.computer(service.url)
    await reaches(one, 'waiting')
    const two = await one.context().newPage()
    await two.goto(service.url)
    await reaches(two, 'waiting')
    assert.notEqual(await sceneOf(one), await sceneOf(two))
    const phone = await stage.phone(one)
    await isAsked(phone)
    await reaches(one, 'scanned')
    await reaches(two, 'waiting')
    await confirms(await stage.phone(two), 'Second tab')
    await reaches(two, 'profile')
    await reaches(one, 'scanned')
    await gives(phone, 'First tab')
    await phone.getByTestId('confirm').click()
    await reaches(one, 'profile')
    await shows(one, '#profile-title', 'Hello, First tab')
  })

  it('works without streams', async (stage, service) => {
    stage.tolerate(/\/events\//)
    const context = await stage.person()
    await context.route('**/events/**', (route) => route.fulfill({ status: 502, body: 'a proxy without streams' }))
    const computer = await context.newPage()
    await computer.goto(service.url)
    await computer.locator('#app[data-connection=polling]').waitFor()
    await shows(computer, '[part=connection]', 'Slow connection, still listening')
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
  })

  it('is done with the keyboard alone, on both pages', async (stage, service) => {
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    await tabTo(computer, 'cancel')
    await computer.keyboard.press('Enter')
    await reaches(computer, 'cancelled')
    assert.equal(await computer.evaluate(() => document.activeElement.shadowRoot.activeElement.id), 'status-title', 'the focus goes to what happened')
    await tabTo(computer, 'refresh')
    await computer.keyboard.press('Enter')
    await reaches(computer, 'waiting')

    await tabTo(computer, 'open-phone')
    const [phone] = await Promise.all([computer.context().waitForEvent('page'), computer.keyboard.press('Enter')])
    await reaches(phone, 'choose')
    await phone.keyboard.press('Tab')
    await tabTo(phone, 'scan')
    await phone.keyboard.press('Enter')
    await reaches(phone, 'ask')
    assert.equal(await phone.evaluate(() => document.activeElement.id), 'title', 'the question is read out')
    await tabTo(phone, 'decline')
    await phone.keyboard.press('Tab')
    assert.equal(await phone.evaluate(() => document.activeElement.id), 'confirm', 'no is as near as yes')
    await phone.keyboard.press('Enter')
    await reaches(phone, 'confirmed')

    await reaches(computer, 'profile')
    await tabTo(computer, 'logout')
    await computer.keyboard.press('Space')
    await reaches(computer, 'waiting')
  })

  it('speaks Chinese or English, at a click and from then on', async (stage, service) => {
    const computer = await stage.computer(service.url, CHINESE)
    await reaches(computer, 'waiting')
    assert.equal(await computer.locator('html').getAttribute('lang'), 'zh-CN')
    await shows(computer, '#status-title', '等待扫码')
    await computer.getByTestId('lang').click()
    assert.equal(await computer.locator('html').getAttribute('lang'), 'en')
    await shows(computer, '#status-title', 'Waiting for your scan')
    const scene = await sceneOf(computer)
    await computer.reload()
    await shows(computer, '#status-title', 'Waiting for your scan')
    assert.equal(await sceneOf(computer), scene, 'another language is no other login')
    assert.match(await computer.getByTestId('open-phone').getAttribute('href'), /&lang=en$/)

    const phone = await stage.phone(computer, CHINESE)
    await isAsked(phone)
    await shows(phone, '[data-testid=browser]', /^Linux 上的 Chrome/)
    await phone.getByTestId('lang').click()
    await shows(phone, '[data-testid=confirm]', 'Log in')
    await shows(phone, '[data-testid=browser]', /^Chrome/)
  })

  it('tells a visitor on a phone to use a computer, and shows the code if asked', async (stage, service) => {
    const visitor = await stage.computer(service.url, MOBILE_PHONE)
    await reaches(visitor, 'phone')
    assert.equal(await sceneOf(visitor), null, 'no code is made for nobody')
    await shows(visitor, '#status-title', 'Open this page on a computer')
    await shows(visitor, '#status-text', new URL(service.url).host)
    await part(visitor, 'show').click()
    await reaches(visitor, 'waiting')
    await shows(visitor, '#status-text', 'show it to another phone')
    await confirms(await stage.phone(visitor, MOBILE_PHONE), 'Other phone')
    await reaches(visitor, 'profile')
  })

  it('is begun without a camera by typing the code that the computer shows', async (stage, service) => {
    stage.tolerate(/status of 404/)
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    await part(computer, 'type').click()
    await shows(computer, '#short-code', /^[2-9A-Z]{4}-[2-9A-Z]{4}$/)
    const code = await part(computer, 'short-code').innerText()
    const context = await stage.person()
    const phone = await context.newPage()
    await phone.goto(new URL('/simulator/phone', service.url).href)
    const type = async (typed) => {
      await phone.getByTestId('link').fill(typed)
      await phone.getByTestId('enter').click()
      await shows(phone, '#text', typed)
      await phone.getByTestId('scan').click()
    }
    await type(code === 'AAAA-AAAA' ? 'CCCC-CCCC' : 'AAAA-AAAA')
    await shows(phone, 'h1', 'No such code')
    await phone.getByTestId('close').click()
    await type(code.toLowerCase().replace('-', ' '))
    await shows(phone, '[data-testid=warning]', 'You typed a code')
    await reaches(computer, 'scanned')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
  })

  it('says on the first screen of a phone too that WeChat is simulated (T17)', async (stage, service) => {
    for (const language of [ENGLISH, CHINESE]) {
      const visitor = await stage.computer(service.url, MOBILE_PHONE, language)
      await reaches(visitor, 'phone')
      await isInSight(visitor.locator('#simulator'), 'the banner')
      await isInSight(visitor.locator('#simulated-chip'), 'the chip')
      await isInSight(visitor.locator('#status-text'), 'what to do')
      await isInSight(part(visitor, 'show'), 'the way on')
      await part(visitor, 'show').click()
      await reaches(visitor, 'waiting')
      await isInSight(visitor.locator('#simulated-chip'), 'the chip beside the code')
      await isInSight(part(visitor, 'code'), 'the code')
    }
  })

  it('can say in its picture\'s place what WeChat refused, and try again', async (stage) => {
    stage.tolerate(/\/code$/)
    const own = await Service.start()
    try {
      await own.fault({ call: 'getwxacodeunlimit', errcode: 41030, times: 100 })
      const computer = await stage.computer(own.url)
      await reaches(computer, 'error')
      await shows(computer, '#status-title', 'WeChat refused to draw a code')
      await shows(computer, '#technical', 'WeChat errcode 41030')
      await fetch(new URL('/simulator/faults', own.url), { method: 'DELETE' })
      await part(computer, 'refresh').click()
      await confirms(await stage.phone(computer), 'Patient')
      await reaches(computer, 'profile')
    } finally {
      await own.stop()
    }
  })
})

/** A small PNG, drawn there. */
async function picture(page) {
  const bytes = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(64, 64)
    const context = canvas.getContext('2d')
    context.fillStyle = '#c33'
    context.fillRect(0, 0, 64, 64)
    const blob = await canvas.convertToBlob()
    return Array.from(new Uint8Array(await blob.arrayBuffer()))
  })
  return Buffer.from(bytes)
}
