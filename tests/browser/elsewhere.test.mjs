// What a page of another origin gets of the service, in a browser that is in the middle of a login there: nothing but the code's picture.
// Each is tried from another site, and from the same site at another port, where the cookies go along.

import assert from 'node:assert/strict'
import { after, before, describe } from 'node:test'
import { reaches, sceneOf } from './support/chromium.mjs'
import { Elsewhere } from './support/elsewhere.mjs'
import { confirms } from './support/phone.mjs'
import { withService } from './support/stage.mjs'
import { until } from './support/until.mjs'

const it = withService()

let elsewhere

before(async () => {
  elsewhere = await Elsewhere.start()
})

after(() => elsewhere?.stop())

/** A computer that waits for its scan, and beside it, in the same browser, a page of each other origin. */
async function besides(stage, service, look) {
  stage.tolerate(/./)
  const computer = await stage.computer(service.url)
  await reaches(computer, 'waiting')
  const scene = await sceneOf(computer)
  for (const site of ['sameSite', 'crossSite']) {
    const evil = await computer.context().newPage()
    const said = []
    evil.on('console', (message) => said.push(message.text()))
    /** How the requests that the page made ended. */
    const requests = []
    for (const event of ['requestfinished', 'requestfailed']) {
      evil.on(event, (request) => requests.push({ url: request.url(), failure: request.failure()?.errorText }))
    }
    /** The cookies that they carried. */
    const cookies = []
    const wire = await evil.context().newCDPSession(evil)
    wire.on('Network.requestWillBeSentExtraInfo', ({ headers }) => cookies.push(headers.Cookie ?? ''))
    await wire.send('Network.enable')
    await evil.goto(elsewhere[site])
    await look({ evil, site, scene, computer, said, requests, cookies })
    await evil.close()
  }
  await reaches(computer, 'waiting')
  assert.equal(await sceneOf(computer), scene, 'the login goes on')
  await confirms(await stage.phone(computer), 'Alice')
  await reaches(computer, 'profile')
  return computer
}

/** What an empty form of that page is answered. */
async function posted(page, action, enctype) {
  const answered = page.waitForResponse((response) => response.request().method() === 'POST')
  await page.evaluate((form) => {
    const frame = Object.assign(document.createElement('iframe'), { name: 'answer' })
    const element = Object.assign(document.createElement('form'), { ...form, method: 'post', target: 'answer' })
    document.body.replaceChildren(frame, element)
    element.submit()
  }, { action, enctype })
  return answered
}

const ended = (requests, url) => until(`the request of ${url} ends`, () => requests.find((request) => request.url === url))

describe('a page elsewhere', { concurrency: 2, timeout: 600_000 }, () => {
  it('frames none of the service\'s (T20)', (stage, service) => besides(stage, service, async ({ evil, site, scene, said }) => {
    const framed = ['/', `/simulator/phone?scene=${scene}`, `/scenes/${scene}`, '/problems', '/assets/demo/demo.js']
    for (const path of framed) {
      const before = said.length
      await evil.evaluate((src) => new Promise((resolve) => {
        const frame = document.createElement('iframe')
        frame.addEventListener('load', resolve)
        frame.src = src
        document.body.replaceChildren(frame)
      }), service.url + path)
      await until(`the browser says why it shows no ${path}`, () => said.slice(before).some((text) => /frame-ancestors|X-Frame-Options/.test(text)))
      const shown = await until('the frame has come to rest', () => evil.frames().at(-1).url())
      assert.match(shown, /^chrome-error:/, `${path} in a frame of ${site}`)
    }
  }))

  it('reads no stream and no state, though the browser holds the cookie (T5)', (stage, service) => besides(stage, service, async ({ evil, site, scene, cookies }) => {
    const read = await evil.evaluate(async ({ url, scene }) => {
      const tried = {}
      for (const mode of ['cors', 'no-cors']) {
        for (const address of [`/scenes/${scene}`, `/events/${scene}`, '/demo/profile']) {
          tried[`${mode} ${address}`] = await fetch(url + address, { credentials: 'include', mode }).then((reply) => reply.text(), () => 'nothing')
        }
      }
      tried.stream = await new Promise((resolve) => {
        const source = new EventSource(`${url}/events/${scene}`, { withCredentials: true })
        for (const state of ['waiting', 'scanned', 'confirmed', 'message', 'unavailable']) source.addEventListener(state, ({ data }) => resolve(data))
        source.addEventListener('error', () => source.readyState === EventSource.CLOSED && resolve('nothing'))
      })
      return tried
    }, { url: service.url, scene })
    for (const [how, found] of Object.entries(read)) assert.equal(found, 'nothing', `${how} from ${site}`)
    const proven = cookies.filter((cookie) => cookie.includes(`scanlogin_${scene}=`))
    assert.equal(proven.length > 0, site === 'sameSite', 'the cookie goes along where browsers let it')
  }))

  it('embeds no state and no stream, and the picture of the code alone (T5)', (stage, service) => besides(stage, service, async ({ evil, site, scene, requests }) => {
    const embed = (tag, address) => evil.evaluate(([name, src]) => new Promise((resolve) => {
      const element = document.createElement(name)
      element.addEventListener('load', () => resolve(`loaded ${element.naturalWidth ?? ''}`))
      element.addEventListener('error', () => resolve('nothing'))
      element.src = src
      document.body.append(element)
    }), [tag, service.url + address])
    for (const tag of ['img', 'script']) {
      for (const address of [`/scenes/${scene}?${tag}`, `/events/${scene}?${tag}`, `/jwks.json?${tag}`, `/assets/demo/strings.js?${tag}`]) {
        assert.equal(await embed(tag, address), 'nothing', `${tag} of ${address} in ${site}`)
        const { failure } = await ended(requests, service.url + address)
        assert.match(failure, /BLOCKED_BY_RESPONSE/, `${tag} of ${address} in ${site}`)
      }
    }
    assert.match(await embed('img', `/scenes/${scene}/code`), /^loaded [1-9]/)
  }))

  it('starts no login and ends none with a form (T6)', async (stage, service) => {
    const computer = await besides(stage, service, async ({ evil, site, scene, computer: own }) => {
      // Each scene would have one of its own. The count of all is no measure: other tests start scenes meanwhile.
      const held = async () => (await own.context().cookies(service.url)).map(({ name }) => name).sort()
      const before = await held()
      // What a form can send is refused for where it comes from, unless it is refused for what it is.
      const refusals = {
        '/scenes': [403, 415], '/demo/start': [403], '/demo/callback': [400, 415], '/demo/logout': [403], [`/scenes/${scene}`]: [405],
      }
      for (const [path, statuses] of Object.entries(refusals)) {
        for (const enctype of ['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data']) {
          const response = await posted(evil, service.url + path, enctype)
          assert.ok(statuses.includes(response.status()), `${path} as ${enctype} from ${site}: ${response.status()}`)
        }
      }
      assert.deepEqual(await held(), before)
      await reaches(own, 'waiting')
    })
    // Nor does it log anybody out.
    const evil = await computer.context().newPage()
    await evil.goto(elsewhere.sameSite)
    const refused = await posted(evil, `${service.url}/demo/logout`, 'text/plain')
    assert.equal(refused.status(), 403)
    await computer.reload()
    await reaches(computer, 'profile')
  })

  it('holds on to no window of the service\'s', (stage, service) => besides(stage, service, async ({ evil, site, scene }) => {
    for (const path of ['/', `/simulator/phone?scene=${scene}`]) {
      const [opened] = await Promise.all([
        evil.context().waitForEvent('page'),
        evil.evaluate((address) => { window.opened = window.open(address) }, service.url + path),
      ])
      await opened.waitForURL((url) => url.origin === service.url)
      await opened.locator('#app').waitFor()
      assert.equal(await opened.evaluate(() => window.opener), null, `${path} does not know ${site}`)
      await until('the opener is told that it is closed', () => evil.evaluate(() => window.opened.closed))
      assert.ok(!opened.isClosed())
      await opened.close()
    }
  }))
})
