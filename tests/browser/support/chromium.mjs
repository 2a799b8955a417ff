// Computers with a browser, and everything that a page may complain about.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import path from 'node:path'
import axe from 'axe-core'
import { chromium } from 'playwright-core'
import { learn, learnFrom } from '../../support/leaks.mjs'
import { DEADLINE_MS, until, within } from './until.mjs'
import { Camera } from './phone.mjs'

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium'
const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const MOBILE = 'Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36'

/** A whole test, on a machine that does other things as well. */
const TEST_DEADLINE_MS = 240_000

/** Where pictures of the pages go, if anybody wants them. */
export const SCREENSHOTS = process.env.SCREENSHOTS

/** What a person holds or sits at. */
export const DESKTOP = { viewport: { width: 1280, height: 800 } }
export const MOBILE_PHONE = {
  // What its browser's own bars leave of the screen.
  viewport: { width: 390, height: 664 },
  screen: { width: 390, height: 844 },
  userAgent: MOBILE,
  isMobile: true,
  hasTouch: true,
}
export const LIGHT = { colorScheme: 'light' }
export const DARK = { colorScheme: 'dark' }
export const ENGLISH = { locale: 'en-US' }
export const CHINESE = { locale: 'zh-CN' }
/** Pages move for most people; tests save the time. */
export const MOVING = { reducedMotion: 'no-preference' }
const STILL = { reducedMotion: 'reduce' }

/** Tells of every state and every breach of the page's policy, from before its first script. */
function watchPage() {
  const told = () => {
    const state = document.querySelector('#app')?.dataset.state
    if (state) window.tellTest({ state })
  }
  new MutationObserver(told).observe(document, { subtree: true, childList: true, attributeFilter: ['data-state'] })
  document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI, sample }) => {
    window.tellTest({ complaint: `security policy: ${violatedDirective} ${blockedURI} ${sample}` })
  })
}

/** The secrets in an answer. A stream has no end to wait for; its code is in the request that follows. */
async function hear(response) {
  for (const cookie of await response.headerValues('set-cookie')) {
    learn('a cookie', /^[^=]+=([^;]*)/.exec(cookie)[1].split('.').at(-1))
  }
  if (response.headers()['content-type'] !== 'application/json') return
  const told = await response.text()
  learnFrom(told)
  if (response.url().endsWith('/simulator/login')) learn('a code of wx.login', JSON.parse(told).code)
}

export class Chromium {
  static async launch() {
    if (!fs.existsSync(EXECUTABLE)) {
      throw new Error(`${EXECUTABLE} is missing: apt-get install chromium, or set CHROMIUM to one`)
    }
    const browser = new Chromium()
    browser.process = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS })
    browser.camera = await Camera.open(browser.process)
    return browser
  }

  close() {
    return this.process.close()
  }

  /** Lets `play` happen on a stage of its own; whatever a page complained about fails it. */
  async stage(name, play) {
    const stage = new Stage(this)
    try {
      await within('the end of this test', play(stage), TEST_DEADLINE_MS)
      assert.deepEqual(stage.complaints, [], 'no page complains')
    } catch (error) {
      error.message += await stage.report(name)
      throw error
    } finally {
      await stage.clear()
    }
  }
}

class Stage {
  complaints = []
  #tolerated = []
  #contexts = []
  #heard = []

  constructor({ process, camera }) {
    this.browser = process
    this.camera = camera
  }

  /** This test brings such complaints about on purpose, as Chromium's "Failed to load resource". */
  tolerate(pattern) {
    this.#tolerated.push(pattern)
  }

  complain(text) {
    if (!this.#tolerated.some((pattern) => pattern.test(text))) this.complaints.push(text)
  }

  /** A person's own browser: nothing is shared with the others. */
  async person(...options) {
    const context = await this.browser.newContext(Object.assign({}, DESKTOP, LIGHT, ENGLISH, STILL, ...options))
    this.#contexts.push(context)
    context.setDefaultTimeout(DEADLINE_MS)
    await context.exposeBinding('tellTest', ({ page }, { state, complaint }) => {
      if (complaint) this.complain(complaint)
      if (state && page.passed.at(-1) !== state) page.passed.push(state)
    })
    await context.addInitScript(watchPage)
    context.on('page', (page) => this.#watch(page))
    context.on('request', (request) => learnFrom(request.postData()))
    // A page that is closed takes what it had not read yet with it.
    context.on('response', (response) => this.#heard.push(hear(response).catch(() => null)))
    return context
  }

  #watch(page) {
    /** Every state that it was ever in, in order. */
    page.passed = []
    /** Answers that were no success, and requests without one. */
    page.refused = []
    page.on('response', (response) => {
      if (response.status() >= 400) page.refused.push(`${response.status()} ${response.request().method()} ${response.url()}`)
    })
    page.on('requestfailed', (request) => {
      page.refused.push(`${request.failure()?.errorText} ${request.method()} ${request.url()}`)
    })
    page.on('console', (message) => {
      const { url } = message.location()
      this.complain(`console ${message.type()}: ${message.text()} ${url}`)
    })
    page.on('pageerror', (error) => this.complain(`error: ${error.stack}`))
    page.on('dialog', (dialog) => {
      this.complain(`dialog: ${dialog.message()}`)
      dialog.dismiss()
    })
    page.on('crash', () => this.complain('the page crashed'))
  }

  /** A computer that shows the login page. */
  async computer(url, ...options) {
    const context = await this.person(...options)
    const page = await context.newPage()
    await page.goto(url)
    return page
  }

  /** A phone that has pointed its camera at the code on `computer`. */
  async phone(computer, ...options) {
    const context = await this.person(...options)
    const page = await context.newPage()
    await page.goto(await this.camera.read(computer))
    return page
  }

  async report(name) {
    const pages = this.#contexts.flatMap((context) => context.pages())
    const lines = pages.map((page) => `\n  ${page.url()} passed ${page.passed.join(', ')}${page.refused.map((what) => `\n    ${what}`).join('')}`)
    if (SCREENSHOTS) {
      const file = (index) => path.join(SCREENSHOTS, `failed-${name.replace(/\W+/g, '-')}-${index}.png`)
      await Promise.all(pages.map((page, index) => page.screenshot({ path: file(index) }).catch(() => null)))
    }
    return lines.concat(this.complaints.map((text) => `\n  ${text}`)).join('')
  }

  /** Waits until all secrets are known that its browsers were given. */
  heard() {
    return within('every answer was read', Promise.all(this.#heard))
  }

  async clear() {
    await Promise.all(this.#contexts.map((context) => context.close()))
    await this.heard()
  }
}

/** Waits until the page is in a state, now. */
export async function reaches(page, state) {
  await page.locator(`#app[data-state="${state}"]`).waitFor({ state: 'attached' })
    .catch((error) => { throw new Error(`the page is not ${state}`, { cause: error }) })
}

/** Waits until the page was in a state, however short, since the `from`th of its states. */
export function passes(page, state, from = 0) {
  return until(`the page has been ${state}`, () => page.passed.indexOf(state, from) >= 0)
}

/** Waits until the first element of that test id, id or tag shows a text. */
export async function shows(page, selector, text) {
  await page.locator(selector).filter({ hasText: text, visible: true }).first().waitFor()
    .catch(async (error) => {
      const found = await page.locator(selector).allInnerTexts().catch(() => [])
      throw new Error(`${selector} does not show ${text}; it shows ${JSON.stringify(found)}`, { cause: error })
    })
}

/** All of the element comes to be on the screen as it is, with nothing over it. */
export async function isInSight(locator, what) {
  await locator.waitFor()
  let fault
  const isClear = async () => {
    fault = await locator.evaluate((element) => {
      const { left, right, top, bottom } = element.getBoundingClientRect()
      if (left < 0 || top < 0 || right > innerWidth || bottom > innerHeight) return `from ${top} to ${bottom} of ${innerHeight}`
      const [x, y] = [(left + right) / 2, (top + bottom) / 2]
      // Not the corners, which may be round.
      const points = [[x, y], [x, top + 1], [x, bottom - 1], [left + 1, y], [right - 1, y]]
      const over = points.map((point) => element.getRootNode().elementFromPoint(...point)).find((found) => !element.contains(found))
      return over ? `under ${over.outerHTML.slice(0, 80)}` : null
    })
    return fault === null
  }
  await until(`${what} is in sight`, isClear, 5_000).catch((error) => assert.fail(`${error.message}: it is ${fault}`))
}

/** What the web component calls so. */
export const part = (page, name) => page.locator(`scan-login [part~="${name}"]`)

export const sceneOf = (page) => page.locator('#app').getAttribute('data-scene')

/** Presses Tab until the focus is on a test id, or an id of the web component's, and sees that it can be seen there. */
export async function tabTo(page, testId) {
  const focus = () => page.evaluate(() => {
    const host = document.activeElement
    const element = host.shadowRoot?.activeElement ?? host
    const { outlineStyle, outlineWidth } = getComputedStyle(element)
    return { testId: element.dataset.testid ?? element.id, ring: outlineStyle !== 'none' && outlineWidth !== '0px' }
  })
  const path = []
  for (let pressed = 0; pressed < 30; pressed += 1) {
    await page.keyboard.press('Tab')
    const { testId: found, ring } = await focus()
    if (found === testId) {
      assert.ok(ring, `the focus on ${testId} can be seen`)
      return
    }
    path.push(found)
  }
  assert.fail(`Tab never comes to ${testId}, only to ${path}`)
}

/** No fault of accessibility, and nothing wider than the screen. */
export async function isAccessible(page, where) {
  // Colours are judged when they have arrived.
  await page.evaluate(() => Promise.all(document.getAnimations()
    .filter((animation) => animation.effect.getComputedTiming().iterations !== Infinity)
    .map((animation) => animation.finished.catch(() => {}))))
  // Over the debugging protocol, so the page keeps its policy.
  await page.evaluate(`window.axe || (() => { ${axe.source} })()`)
  const faults = await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ['violations'] })
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`))
  })
  assert.deepEqual(faults, [], `${where} is accessible`)
  const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
  assert.equal(tooWide, 0, `${where} fits the screen`)
}

export async function photograph(page, name) {
  if (!SCREENSHOTS) return
  await page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), fullPage: true, animations: 'disabled' })
}
