// <scan-login> on a page of another site, with the lines of its README and the strictest policy that it says it can do with.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import {
  Chromium, DARK, LIGHT, MOBILE_PHONE, isAccessible, part, photograph, shows,
} from './support/chromium.mjs'
import { Elsewhere } from './support/elsewhere.mjs'
import { confirms, isAsked } from './support/phone.mjs'
import { Installation } from './support/service.mjs'
import { LINES, Site } from './support/site.mjs'
import { until } from './support/until.mjs'

let chromium

before(async () => {
  chromium = await Chromium.launch()
})

after(() => chromium?.close())

const is = (page, state) => page.locator(`scan-login[state="${state}"]`).waitFor()
  .catch((error) => { throw new Error(`it is not ${state}`, { cause: error }) })

/** Each has a site and a service of its own. */
const it = (name, play, settings) => test(name, () => chromium.stage(name, async (stage) => {
  const site = await Site.start(settings)
  try {
    await play(stage, site)
    // Before the service goes away, which a page would complain of.
    await stage.clear()
  } finally {
    await site.stop()
  }
}))

/** The address of each request that a page makes of the service, from now on. */
function requests(page, site) {
  const made = []
  page.on('request', (request) => {
    if (request.url().startsWith(site.serviceUrl)) made.push({ method: request.method(), path: new URL(request.url()).pathname, headers: request.headers() })
  })
  return made
}

const of = (made, method, path) => made.filter((one) => one.method === method && path.test(one.path))

/** Lets the tests say whether anybody sees the page. */
function seen() {
  window.isSeen = true
  Object.defineProperty(document, 'hidden', { get: () => !window.isSeen })
  window.see = (is) => {
    window.isSeen = is
    document.dispatchEvent(new Event('visibilitychange'))
  }
}

const scene = (page) => page.evaluate(() => document.querySelector('scan-login').scene)

describe('the web component', { concurrency: 2, timeout: 600_000 }, () => {
  it('logs in on another site, in ten lines, by a Bearer and without a cookie', async (stage, site) => {
    assert.ok(LINES.trim().split('\n').length <= 10)
    const context = await stage.person()
    const computer = await context.newPage()
    const made = requests(computer, site)
    await computer.goto(site.origin)
    await is(computer, 'waiting')
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await shows(phone, 'h1', 'Log in to The Shop?')
    await is(computer, 'scanned')
    await phone.getByTestId('nickname').fill('Alice')
    await phone.getByTestId('confirm').click()
    await shows(computer, '#who', 'Alice (o-simulated-xiaoming)')
    const [stream] = of(made, 'GET', /^\/events\//)
    assert.match(stream.headers.authorization, /^Bearer [\w-]{43}$/)
    assert.deepEqual(made.filter(({ headers }) => headers.cookie), [])
    assert.deepEqual((await context.cookies(site.serviceUrl)).filter(({ name }) => name.startsWith('scanlogin')), [])
  })

  it('shows a code to type to who has no camera, and logs in with it', async (stage, site) => {
    const computer = await stage.computer(site.origin)
    await is(computer, 'waiting')
    await isAccessible(computer, 'with a way to a code')
    await photograph(computer, 'component-no-camera')
    await part(computer, 'type').click()
    const code = part(computer, 'short-code')
    await until('the code is shown', async () => /^[2-9A-Z]{4}-[2-9A-Z]{4}$/.test(await code.innerText()))
    await shows(computer, '[part~=title]', 'Type this code in WeChat')
    await isAccessible(computer, 'with a code')
    await photograph(computer, 'component-short-code')
    const call = async (path, body, token) => {
      const reply = await fetch(`${site.serviceUrl}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
        body: JSON.stringify(body),
      })
      assert.equal(reply.status, 200, path)
      return reply.json()
    }
    const login = await call('/simulator/login', { openid: 'somebody' })
    const typed = (await code.innerText()).toLowerCase()
    const scanned = await call('/short-codes/scan', { short_code: typed, code: login.code })
    await is(computer, 'scanned')
    assert.equal(await code.innerText(), '')
    await call(`/scenes/${scanned.scene}/confirm`, { profile: { nickname: 'Alice' } }, scanned.confirm_token)
    await shows(computer, '#who', 'Alice (somebody)')
  }, { CLIENT_SHORT_CODES: 'true' })

  it('takes the code of another browser no more than its backend does', async (stage, site) => {
    const computer = await stage.computer(site.origin)
    stage.tolerate(/status of 403/)
    await computer.route('**/login/finish', (route) => route.continue({ postData: 'a-code-of-somebody-else' }))
    await confirms(await stage.phone(computer), 'Mallory')
    await is(computer, 'error')
    await shows(computer, '[part~=refresh]', 'Start over')
    await part(computer, 'refresh').click()
    await is(computer, 'waiting')
    assert.equal(site.claims.size, 0)
  })

  it('renews a code twice while it is seen, never while it is not, and then by a click', async (stage, site) => {
    const context = await stage.person()
    await context.addInitScript(seen)
    const computer = await context.newPage()
    const made = requests(computer, site)
    const started = () => of(made, 'POST', /^\/scenes$/).length
    await computer.goto(site.origin)
    await is(computer, 'waiting')
    await computer.evaluate(() => window.see(false))
    await is(computer, 'expired')
    // As long as it takes otherwise.
    await until('the service forgot the scene', async () => {
      const found = await fetch(`${site.serviceUrl}/scenes/${await scene(computer)}/code`)
      return found.status !== 200
    })
    assert.equal(started(), 1)
    await computer.evaluate(() => window.see(true))
    await until('renewed twice', () => started() === 3)
    await computer.locator('scan-login[state=expired]').filter({ hasNotText: 'on its way' }).waitFor()
    await computer.evaluate(() => { window.see(false); window.see(true) })
    await part(computer, 'refresh').click()
    await until('by the click', () => started() === 4)
  }, { SCENE_TTL: 2 })

  it('begins nothing in a tab that nobody has looked at, nor while it is paused', async (stage, site) => {
    site.lines = LINES.replace('<scan-login ', '<scan-login paused ')
    const context = await stage.person()
    await context.addInitScript(seen)
    const computer = await context.newPage()
    const made = requests(computer, site)
    await computer.goto(site.origin)
    await is(computer, 'loading')
    await computer.evaluate(() => { window.see(false); window.see(true) })
    assert.equal(of(made, 'POST', /./).length, 0)
    await computer.evaluate(() => {
      window.see(false)
      document.querySelector('scan-login').removeAttribute('paused')
    })
    assert.equal(of(made, 'POST', /./).length, 0)
    await computer.evaluate(() => window.see(true))
    await is(computer, 'waiting')
    assert.equal(of(made, 'POST', /^\/scenes$/).length, 1)
  })

  it('asks where streams are cut, and hears of the confirm', async (stage, site) => {
    stage.tolerate(/\/events\//)
    const context = await stage.person()
    await context.route('**/events/**', (route) => route.abort('connectionreset'))
    const computer = await context.newPage()
    const made = requests(computer, site)
    await computer.goto(site.origin)
    await shows(computer, '[part=connection]', 'Slow connection, still listening')
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await is(computer, 'scanned')
    await phone.getByTestId('confirm').click()
    await computer.locator('#who').waitFor()
    const polls = of(made, 'GET', /^\/scenes\/\w{32}$/)
    assert.ok(polls.length > 0)
    assert.ok(polls.every(({ headers }) => headers.authorization?.startsWith('Bearer ')))
  })

  it('is gone when it is taken out of the page, and goes on where it was when it is put back', async (stage, site) => {
    const context = await stage.person()
    const computer = await context.newPage()
    const made = requests(computer, site)
    await computer.goto(site.origin)
    await is(computer, 'waiting')
    const before = await scene(computer)
    await until('the stream is open', () => site.service.metric('scanlogin_streams_open'))
    await computer.evaluate(() => {
      window.kept = document.querySelector('scan-login')
      window.kept.remove()
    })
    await until('the service sees it go', async () => await site.service.metric('scanlogin_streams_open') === 0)
    const asked = made.length
    // Whatever would wake it, does not. Its scene ends meanwhile.
    await computer.evaluate(() => {
      window.dispatchEvent(new Event('online'))
      document.dispatchEvent(new Event('visibilitychange'))
      window.kept.setAttribute('nonce', 'x')
      window.kept.removeAttribute('nonce')
    })
    // Longer than anything that it may have put off: a renewal, a reconnect, a tick.
    await computer.evaluate(() => new Promise((resolve) => { setTimeout(resolve, 4_000) }))
    assert.equal(made.length, asked)

    await computer.evaluate(() => document.querySelector('main').append(window.kept))
    await is(computer, 'waiting')
    assert.equal(await scene(computer), before)
    // Being moved within the page is both at once.
    await computer.evaluate(() => document.querySelector('main').prepend(window.kept))
    await is(computer, 'waiting')
    await until('one stream', async () => await site.service.metric('scanlogin_streams_open') === 1)
    await confirms(await stage.phone(computer), 'Moved')
    await shows(computer, '#who', 'Moved')
  })

  it('begins one login however many attributes are set, and another when they change', async (stage, site) => {
    site.lines = LINES.replace('<scan-login ', '<scan-login hidden paused ')
    const context = await stage.person()
    const computer = await context.newPage()
    const made = requests(computer, site)
    const started = () => of(made, 'POST', /^\/scenes$/).length
    await computer.goto(site.origin)
    await computer.evaluate((service) => {
      const login = document.createElement('scan-login')
      document.querySelector('main').append(login)
      login.setAttribute('service', service)
      login.setAttribute('client-id', 'shop')
      login.setAttribute('nonce', 'n')
    }, site.serviceUrl)
    await is(computer, 'waiting')
    assert.equal(started(), 1)
    const own = () => computer.evaluate(() => document.querySelector('scan-login:not([hidden])').scene)
    const before = await own()
    await computer.evaluate(() => document.querySelector('scan-login:not([hidden])').setAttribute('nonce', 'other'))
    await until('another login', async () => ![before, null].includes(await own()))
    await computer.evaluate(() => document.querySelector('scan-login:not([hidden])').setAttribute('nonce', 'other'))
    await is(computer, 'waiting')
    assert.equal(started(), 2)
  })

  it('tells a visitor on a phone to come by a computer, in Chinese too', async (stage, site) => {
    const context = await stage.person(MOBILE_PHONE)
    const visitor = await context.newPage()
    const made = requests(visitor, site)
    await visitor.goto(site.origin)
    await is(visitor, 'phone')
    assert.equal(of(made, 'POST', /./).length, 0, 'no code is made for nobody')
    await shows(visitor, '[part=title]', 'Open this page on a computer')
    await shows(visitor, '[part=text]', new URL(site.origin).host)
    await visitor.evaluate(() => { document.querySelector('scan-login').lang = 'zh-CN' })
    await shows(visitor, '[part=title]', '请在电脑上打开本页')
    await part(visitor, 'show').click()
    await is(visitor, 'waiting')
    await shows(visitor, '[part=text]', '请勿保存图片')
  })

  it('is loaded by any page, and begins nothing for one that is not listed', async (stage, site) => {
    stage.tolerate(/CORS|Failed to load resource/)
    const elsewhere = await Elsewhere.start()
    try {
      const page = await stage.computer(elsewhere.sameSite)
      await page.evaluate((service) => new Promise((resolve, reject) => {
        const script = Object.assign(document.createElement('script'), { type: 'module', src: `${service}/web/v1/scan-login.js` })
        script.addEventListener('load', resolve)
        script.addEventListener('error', reject)
        document.body.append(script, document.createElement('scan-login'))
      }), site.serviceUrl)
      await is(page, 'error')
      await shows(page, '[part=title]', 'No connection to the service')
      assert.equal(await site.service.metric('scanlogin_scenes_created_total'), 0)
    } finally {
      await elsewhere.stop()
    }
  })

  for (const [scheme, option] of Object.entries({ light: LIGHT, dark: DARK })) {
    it(`is accessible on a page of its own in every state: ${scheme}`, async (stage, site) => {
      stage.tolerate(/Failed to load resource/)
      const computer = await stage.computer(site.origin, option)
      const look = async (name) => {
        await isAccessible(computer, `${name}, ${scheme}`)
        await photograph(computer, `component-${scheme}-${name}`)
      }
      const fresh = async () => {
        await part(computer, 'refresh').click()
        await is(computer, 'waiting')
      }
      await is(computer, 'waiting')
      await look('waiting')
      await part(computer, 'cancel').click()
      await is(computer, 'cancelled')
      await look('cancelled')
      await fresh()
      const phone = await stage.phone(computer)
      await isAsked(phone)
      await is(computer, 'scanned')
      await look('scanned')
      await phone.getByTestId('decline').click()
      await is(computer, 'declined')
      await look('declined')
      await fresh()
      await computer.evaluate(() => document.querySelector('scan-login').fail({ words: ['Your account is closed', 'Write to us.'], detail: 'Said by the site.', retryAfter: 30 }))
      await is(computer, 'error')
      await look('error')
      await computer.route('**/login/finish', () => {})
      await computer.evaluate(() => document.querySelector('scan-login').refresh())
      await confirms(await stage.phone(computer), 'Alice')
      await is(computer, 'confirmed')
      await shows(computer, '[part=text]', 'Logging in as Alice…')
      await look('confirmed')
    }, { CLIENT_NUMBER_MATCHING: 'off' })
  }
})

describe('the web component, with what lies between', { concurrency: 2, timeout: 600_000 }, () => {
  test('survives a deploy of the service in the middle', () => chromium.stage('deploy', async (stage) => {
    stage.tolerate(/Failed to load resource/)
    const site = await Site.start()
    const all = await Installation.start({
      CLIENT_ID: 'shop', CLIENT_NAME: 'The Shop', CLIENT_SECRET: 'the shop\'s secret', CLIENT_ORIGINS: site.origin,
    })
    site.serviceUrl = all.wire.url
    const own = site.service
    site.service = all.service
    try {
      const computer = await stage.computer(site.origin)
      await is(computer, 'waiting')
      const before = await scene(computer)
      const phone = await stage.phone(computer)
      await isAsked(phone)
      await is(computer, 'scanned')
      await all.service.stop()
      await all.service.run()
      await phone.getByTestId('confirm').click()
      await shows(computer, '#who', 'o-simulated-xiaoming')
      assert.match(before, /^\w{32}$/)
    } finally {
      site.service = own
      await Promise.all([site.stop(), all.stop()])
    }
  }))
})
