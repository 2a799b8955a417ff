// <scan-login> on a page of another site, with the lines of its README and the strictest policy that it says it can do with.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import {
  DARK, LIGHT, MOBILE_PHONE, MOVING, isAccessible, part, photograph, shows,
} from './support/chromium.mjs'
import { Elsewhere } from './support/elsewhere.mjs'
import { confirms, gives, isAsked } from './support/phone.mjs'
import { Installation } from './support/service.mjs'
import { LINES, README, SECRET, Site } from './support/site.mjs'
import { withChromium, withSites } from './support/stage.mjs'
import { until } from './support/until.mjs'

const is = (page, state) => page.locator(`scan-login[state="${state}"]`).waitFor()
  .catch((error) => { throw new Error(`it is not ${state}`, { cause: error }) })

const it = withSites()
const play = withChromium()

/** The address of each request that a page makes of the service, from now on. */
function requests(page, site) {
  const made = []
  page.on('request', (request) => {
    if (request.url().startsWith(site.serviceUrl)) made.push({ method: request.method(), path: new URL(request.url()).pathname, headers: request.headers(), body: request.postData() })
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
    await shows(phone, '[data-testid=site]', 'The Shop')
    await is(computer, 'scanned')
    await gives(phone, 'Alice')
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
    assert.deepEqual(site.finished, [403])
    await computer.reload()
    await is(computer, 'waiting')
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

  it('hears of the confirm in a tab that nobody sees', async (stage, site) => {
    const context = await stage.person()
    await context.addInitScript(seen)
    const computer = await context.newPage()
    const made = requests(computer, site)
    await computer.goto(site.origin)
    await is(computer, 'waiting')
    const phone = await stage.phone(computer)
    await computer.evaluate(() => window.see(false))
    await isAsked(phone)
    await is(computer, 'scanned')
    await phone.getByTestId('confirm').click()
    await shows(computer, '#who', 'o-simulated-xiaoming')
    assert.equal(of(made, 'POST', /^\/scenes$/).length, 1)
  })

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

/** A page that has the component and no element of it yet. */
const LOADED = LINES.split('\n')[0]

/** Puts an element with these attributes into a shadow tree, and gives it as `window.login`. Whatever it tells is heard at the document. */
function placed(attributes) {
  const host = document.createElement('div')
  document.querySelector('main').append(host)
  window.login = document.createElement('scan-login')
  for (const [name, value] of Object.entries(attributes)) window.login.setAttribute(name, value)
  window.told = []
  for (const name of ['ready', 'waiting', 'scanned', 'confirmed', 'declined', 'cancelled', 'expired', 'error']) {
    document.addEventListener(`scan-login:${name}`, ({ detail, target }) => window.told.push([name, detail, target === host]))
  }
  host.attachShadow({ mode: 'open' }).append(window.login)
}

describe('what the README of the web component promises', { concurrency: 2, timeout: 600_000 }, () => {
  const rows = (heading) => README.split(`\n## ${heading}\n`)[1].split('\n## ')[0]

  it('each event comes once, out of a shadow tree too, with what it says of itself', async (stage, site) => {
    stage.tolerate(/Failed to load resource/)
    site.lines = LOADED
    const computer = await stage.computer(site.origin)
    await computer.evaluate(placed, { service: site.serviceUrl, 'client-id': 'shop', 'begin-url': '/login/begin', 'auto-refresh': '0' })
    const is = (state) => computer.waitForFunction((state) => window.login.state === state, state)
    const again = async () => {
      await computer.evaluate(() => window.login.refresh())
      await is('waiting')
    }
    await is('waiting')
    await part(computer, 'cancel').click()
    await is('cancelled')
    await again()
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await is('declined')
    await again()
    // All in its memory is gone with it.
    await site.service.kill()
    await site.service.run()
    await is('expired')
    await again()
    await computer.evaluate(() => window.login.fail({ code: 'closed', detail: 'Said by the site.' }))
    await is('error')
    await again()
    await confirms(await stage.phone(computer), 'Alice')
    await is('confirmed')

    const told = JSON.parse(await computer.evaluate(() => JSON.stringify(window.told)))
    assert.ok(told.every(([, , retargeted]) => retargeted))
    const scenes = [...new Set(told.map(([, { scene }]) => scene).filter(Boolean))]
    assert.equal(scenes.length, 5)
    const codes = told.map(([, { code }]) => code).filter(Boolean)
    assert.match(codes.join(), /^[\w.-]+$/)
    const begun = told.filter(([name]) => name === 'ready').map(([, detail]) => detail.begun)
    assert.ok(begun.every(({ code_challenge: challenge }) => /^[\w-]{43}$/.test(challenge)))
    assert.equal(new Set(begun.map((one) => one.code_challenge)).size, 5, 'each code has a verifier of its own')
    const [a, b, c, d, e] = scenes
    const login = (scene, at) => [['ready', { scene, begun: begun[at] }], ['waiting', { scene }]]
    assert.deepEqual(told.map(([name, detail]) => [name, name === 'error' ? detail.problem.detail : detail]), [
      ...login(a, 0), ['cancelled', { scene: a, redirectTo: null }],
      ...login(b, 1), ['scanned', { scene: b, matchNumber: null }], ['declined', { scene: b, redirectTo: null }],
      ...login(c, 2), ['expired', { scene: c, reason: 'lost' }],
      ...login(d, 3), ['error', 'Said by the site.'],
      ...login(e, 4), ['scanned', { scene: e, matchNumber: null }],
      ['confirmed', { scene: e, code: codes[0], profile: { nickname: 'Alice' }, redirectTo: null, begun: begun[4] }],
    ])
  }, { CLIENT_NUMBER_MATCHING: 'off' })

  it('attributes go out with the login that they begin', async (stage, site) => {
    site.lines = LOADED
    const computer = await stage.computer(site.origin)
    const made = requests(computer, site)
    const asked = { 'client-id': 'shop', 'code-challenge': 'x'.repeat(43), nonce: 'n-2', 'env-version': 'release' }
    await computer.evaluate(placed, { service: site.serviceUrl, ...asked })
    await is(computer, 'waiting')
    const [{ body }] = of(made, 'POST', /^\/scenes$/)
    assert.deepEqual(JSON.parse(body), {
      client_id: 'shop', code_challenge: 'x'.repeat(43), code_challenge_method: 'S256', nonce: 'n-2', env_version: 'release',
    })
  })

  it('its parts can be dressed, its colours and sizes set, its slots filled, its words replaced', async (stage, site) => {
    const computer = await stage.computer(site.origin)
    await is(computer, 'waiting')
    const looks = rows('Looks')
    const names = (label) => [...new RegExp(`^${label}: (.*)\\.$`, 'm').exec(looks)[1].matchAll(/`([^`]+)`/g)].map(([, name]) => name)
    const found = await computer.evaluate(() => [...document.querySelector('scan-login').shadowRoot.querySelectorAll('[part]')].flatMap(({ part }) => [...part]))
    assert.deepEqual([...new Set(found)].sort(), names('Parts').sort())

    const properties = names('Properties').map((name) => name.replace('--scan-login', ''))
    const values = { '-font': 'monospace', '-radius': '3px', '-size': '200px' }
    const dressed = await computer.evaluate(([all, sizes]) => {
      const login = document.querySelector('scan-login')
      all.forEach((name, at) => login.style.setProperty(`--scan-login${name}`, sizes[name] ?? `rgb(${at}, 1, 2)`))
      const style = (id) => getComputedStyle(login.shadowRoot.querySelector(`#${id}`))
      return {
        '-accent': style('refresh').backgroundColor,
        '-on-accent': style('refresh').color,
        '-ink': style('status-title').color,
        '-ink-soft': style('status-text').color,
        '-line': style('track').stroke,
        '-caution': getComputedStyle(login).getPropertyValue('--caution'),
        '-font': style('status-title').fontFamily,
        '-radius': style('plate').borderRadius,
        '-size': style('tile').width,
      }
    }, [properties, values])
    assert.deepEqual(dressed, Object.fromEntries(properties.map((name, at) => [name, values[name] ?? `rgb(${at}, 1, 2)`])))

    const slots = [...looks.split('Slots:')[1].split('\n')[0].matchAll(/`([^`]+)`/g)].map(([, name]) => name)
    assert.equal(slots.length, 4)
    await computer.evaluate((all) => {
      const login = document.querySelector('scan-login')
      login.append(...all.map((name) => Object.assign(document.createElement('i'), { slot: name, textContent: `the ${name}` })))
      login.words = { en: { waiting: ['Scan <b>me</b>', 'with WeChat'], cancel: 'Not now' } }
    }, slots)
    for (const name of slots) await shows(computer, 'i', `the ${name}`)
    await shows(computer, '[part~=title]', 'Scan <b>me</b>')
    await shows(computer, '[part~=text]', 'with WeChat')
    await shows(computer, '[part~=cancel]', 'Not now')
    assert.equal(await part(computer, 'heading').isVisible(), false, 'the page has its own')
    await isAccessible(computer, 'with all of it')
  })

  it('it is dark where the page is, and still where the person wants that', async (stage, site) => {
    const seen = async (...options) => {
      const context = await stage.person(...options)
      const computer = await context.newPage()
      // It waits for its picture for as long as it is looked at.
      await computer.route('**/code', () => {})
      await computer.goto(site.origin)
      await computer.locator('scan-login[state=loading] [part~=cancel]').waitFor({ state: 'attached' })
      return computer.evaluate(() => {
        const login = document.querySelector('scan-login')
        const plate = getComputedStyle(login.shadowRoot.querySelector('#plate'))
        const follows = getComputedStyle(login).color
        document.documentElement.style.colorScheme = 'normal'
        return { color: follows, without: getComputedStyle(login).color, animation: plate.animationName }
      })
    }
    const [light, dark] = ['rgb(19, 32, 26)', 'rgb(233, 240, 236)']
    assert.deepEqual(await seen(LIGHT, MOVING), { color: light, without: light, animation: 'breathe' })
    assert.deepEqual(await seen(DARK), { color: dark, without: light, animation: 'none' })
  })

  it('it says what is new, once, to who hears the page', async (stage, site) => {
    const computer = await stage.computer(site.origin)
    await is(computer, 'waiting')
    const live = part(computer, 'words')
    assert.deepEqual(await live.evaluate(({ role, ariaLive }) => [role, ariaLive]), ['status', 'polite'])
    await live.evaluate((element) => {
      window.said = []
      new MutationObserver(() => window.said.push(element.innerText.trim())).observe(element, { subtree: true, childList: true, characterData: true })
    })
    const time = part(computer, 'countdown')
    const before = await time.innerText()
    await until('the time has gone on', async () => await time.innerText() !== before)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await is(computer, 'scanned')
    assert.deepEqual(await computer.evaluate(() => window.said), ['Scanned\n\nNow confirm on your phone.'])
  })
})

describe('the web component, with what lies between', { concurrency: 2, timeout: 600_000 }, () => {
  play('survives a deploy of the service in the middle', async (stage) => {
    stage.tolerate(/Failed to load resource/)
    const site = await Site.start()
    const all = await Installation.start({
      CLIENT_ID: 'shop', CLIENT_NAME: 'The Shop', CLIENT_SECRET: SECRET, CLIENT_ORIGINS: site.origin,
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
  })
})
