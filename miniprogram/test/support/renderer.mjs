// The screen of a phone in Chromium: the page's own WXML and WXSS, the page object that really
// runs, and what WeChat puts around it. WeChat's own libraries that render pages (miniprogram-simulate,
// glass-easel) want a DOM without layout, or components and styles compiled by tools of theirs: neither shows what a person sees.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import path from 'node:path'
import axe from 'axe-core'
import { chromium } from 'playwright-core'
import { read, readJson, until } from './project.mjs'

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium'
const ARGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

/** Where pictures of the screens go, if anybody wants them. */
export const SCREENSHOTS = process.env.SCREENSHOTS

/** Sizes in CSS pixels: of the screen, of what the system keeps above and below the page. */
export const DEVICES = {
  '320x568': { width: 320, height: 568, status: 20, below: 0 },
  '375x667': { width: 375, height: 667, status: 20, below: 0 },
  '390x844': { width: 390, height: 844, status: 47, below: 34 },
}
const NAVIGATION_BAR = 44

const app = readJson('app.json')
const theme = readJson(app.themeLocation)

/** What WeChat's own style sheet says of these elements (`style: v2`), where it matters to a page. */
const WECHAT_STYLE = `
  html { height: 100%; -webkit-text-size-adjust: 100%; }
  html, body { margin: 0; padding: 0; }
  body { font-family: system-ui, -apple-system, "PingFang SC", "Noto Sans CJK SC", sans-serif; }
  ::-webkit-scrollbar { display: none; }
  form { display: block; margin: 0; }
  :where([is=image]) { display: inline-block; width: 320px; height: 240px; overflow: hidden; }
  :where([is=image]) img { display: block; width: 100%; height: 100%; }
  input:where([type=text]) { display: block; box-sizing: content-box; width: 100%; min-width: 0; height: 1.4rem; margin: 0; padding: 0; border: 0; outline: 0;
    background: none; color: inherit; font: inherit; text-align: inherit; }
  button { position: relative; display: block; box-sizing: border-box; margin-left: auto; margin-right: auto; padding: 8px 24px; border: 0; border-radius: 4px;
    overflow: hidden; background: #f2f2f2; color: #06ae56; font: 700 17px/1.41176471 system-ui, sans-serif; text-align: center; }
  button:not([size=mini]) { width: 184px; }
  button::after { content: " "; position: absolute; top: 0; left: 0; box-sizing: border-box; width: 200%; height: 200%; border: 1px solid rgb(0 0 0 / 20%);
    border-radius: 10px; transform: scale(.5); transform-origin: 0 0; pointer-events: none; }
  button[disabled]:not([size=mini]) { background: #f7f7f7; color: rgb(0 0 0 / 30%); }
  button[loading]::before { content: ""; display: inline-block; box-sizing: border-box; width: 18px; height: 18px; margin-right: 6px; border: 2px solid;
    border-right-color: transparent; border-radius: 50%; vertical-align: middle; }
  :where([is=switch]) { appearance: none; position: relative; flex: none; width: 52px; height: 32px; margin: 0; border-radius: 16px; background: #8a8f8c; }
  :where([is=switch])::after { content: ""; position: absolute; top: 2px; left: 2px; width: 28px; height: 28px; border-radius: 50%; background: #fff; }
  :where([is=switch]:checked) { background: #07c160; }
  :where([is=switch]:checked)::after { left: 22px; }
`

/** A style sheet as WeChat serves it to a page of that width. */
export function styleOf(name, device) {
  return read(name)
    .replace(/@import\s+["'](.+?)["'];/g, (_, other) => styleOf(path.posix.join(path.posix.dirname(name), other), device))
    .replace(/(-?[\d.]+)rpx\b/g, (_, number) => `${pixels(Number(number), device.width)}px`)
    .replace(/(^|[},]|\*\/|\{)(\s*)page(?=\s*[,{])/g, '$1$2body')
    .replace(/\.placeholder\b/g, '$&, input::placeholder')
    .replaceAll('env(safe-area-inset-bottom)', `${device.below}px`)
}

/** WeChat rounds down, but for what would vanish. */
function pixels(rpx, width) {
  const rounded = Math.floor(Math.abs(rpx) * width / 750 + 1e-4)
  return rpx === 0 ? 0 : Math.sign(rpx) * (rounded || 0.5)
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`)

/** HTML for what WXML made of a page's data. `numberOf` gives each element the number that its events are told with. */
function htmlOf(node, numberOf) {
  if (typeof node !== 'object') return escaped(node)
  const { tag, attributes: given, children } = node
  const inner = () => children.map((child) => htmlOf(child, numberOf)).join('')
  if (tag === 'root') return inner()
  const out = { is: tag, class: given.class, 'data-n': numberOf(node) }
  for (const [name, value] of Object.entries(given)) if (name.startsWith('aria-')) out[name === 'aria-role' ? 'role' : name] = value
  const write = (name, more = {}, content = null) => {
    const all = Object.entries({ ...out, ...more }).filter(([, value]) => value !== undefined && value !== false && value !== null)
    const text = all.map(([key, value]) => ` ${key}="${escaped(value)}"`).join('')
    return content === null ? `<${name}${text}>` : `<${name}${text}>${content}</${name}>`
  }
  const disabled = Boolean(given.disabled)
  switch (tag) {
    case 'view': return write('div', {}, inner())
    case 'text': return write('span', {}, inner())
    case 'form': return write('form', {}, inner())
    case 'button': return write('button', { type: given['form-type'] === 'submit' ? 'submit' : 'button', disabled, loading: Boolean(given.loading), 'aria-selected': undefined, 'aria-pressed': given['aria-selected'] }, inner())
    case 'input': return write('input', { type: 'text', name: given.name, disabled, value: given.value, maxlength: given.maxlength, placeholder: given.placeholder })
    case 'switch': return write('input', { type: 'checkbox', role: 'switch', checked: Boolean(given.checked), disabled })
    case 'image': return write('div', {}, `<img alt="" src="${escaped(given.src)}" style="object-fit:${given.mode === 'aspectFill' ? 'cover' : 'contain'}">`)
    default: throw new Error(`<${tag}> is not known to the renderer`)
  }
}

/** Runs in the page: makes the body what the HTML says, and keeps what need not change, the focus too. */
function show({ html, language }) {
  document.documentElement.lang = language.replace('_', '-')
  const morph = (from, to) => {
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name)
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) === value) continue
      from.setAttribute(name, value)
      if (name === 'value') from.value = value
    }
    if (from.type === 'checkbox') from.checked = to.hasAttribute('checked')
    const old = [...from.childNodes]
    const now = [...to.childNodes]
    now.forEach((node, at) => {
      const was = old[at]
      if (!was) from.append(node)
      else if (was.nodeName !== node.nodeName || (was.nodeType === 1 && was.className.split(' ')[0] !== node.className.split(' ')[0])) was.replaceWith(node)
      else if (was.nodeType === 3) was.data = node.data
      else morph(was, node)
    })
    for (const node of old.slice(now.length)) node.remove()
  }
  const to = document.createElement('body')
  to.innerHTML = html
  morph(document.body, to)
}

/** Runs in the page, once: tells of what a finger does. */
function listen() {
  const tell = (target, what, detail) => window.parent.tellPhone({ number: Number(target.dataset.n), what, detail })
  document.addEventListener('click', (event) => {
    const target = event.target.closest('button')
    if (target && target.type !== 'submit') tell(target, target.getAttribute('is') === 'button' ? 'tap' : '', {})
  })
  document.addEventListener('submit', (event) => {
    event.preventDefault()
    tell(event.target, 'submit', { value: Object.fromEntries(new FormData(event.target)) })
  })
  document.addEventListener('change', ({ target }) => target.type === 'checkbox' && tell(target, 'change', { value: target.checked }))
  document.addEventListener('error', ({ target }) => target.tagName === 'IMG' && tell(target.parentElement, 'error', {}), true)
  document.addEventListener('input', async ({ target }) => {
    if (target.type !== 'text') return
    const answer = await tell(target, 'input', { value: target.value, cursor: target.selectionStart })
    if (typeof answer === 'string') target.value = answer
  })
}

export class Renderer {
  static async launch() {
    assert.ok(fs.existsSync(EXECUTABLE), `${EXECUTABLE} is missing: apt-get install chromium, or set CHROMIUM to one`)
    const renderer = new Renderer()
    renderer.browser = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS })
    return renderer
  }

  close() {
    return this.browser.close()
  }

  /** A screen of that size and scheme, for one phone after the other. */
  async screen({ device = DEVICES['375x667'], dark = false } = {}) {
    const context = await this.browser.newContext({
      viewport: { width: device.width, height: device.height },
      deviceScaleFactor: 2,
      colorScheme: dark ? 'dark' : 'light',
      reducedMotion: 'reduce',
    })
    const screen = new Screen(device, theme[dark ? 'dark' : 'light'])
    await screen.open(context)
    return screen
  }
}

class Screen {
  complaints = []
  /** Gives pictures from the network, by their address. */
  pictures = () => ({ status: 404, body: '' })
  /** All that was ever drawn, for what happens to it may be told a moment later. */
  #nodes = []
  #drawn = Promise.resolve()

  constructor(device, colors) {
    this.device = device
    this.colors = colors
  }

  async open(context) {
    this.context = context
    await context.route(/^https?:/, (route) => route.fulfill(this.pictures(route.request().url())))
    this.page = await context.newPage()
    this.page.on('pageerror', (error) => this.complaints.push(error.stack))
    await this.page.exposeFunction('tellPhone', (event) => this.#happen(event))
    await this.page.setContent(this.#around())
    this.frame = this.page.frame('webview')
    await this.frame.setContent('<!doctype html><meta name="color-scheme" content="light dark"><title>Mini Program</title><style id="style"></style><body></body>')
    await this.frame.evaluate(listen)
    await this.frame.evaluate(axe.source)
  }

  /** Puts the phone's screen there. */
  hold(phone) {
    this.phone = phone
    phone.changed = () => this.#draw()
    this.#draw()
    return this.drawn()
  }

  #around() {
    const { status } = this.device
    const text = this.color('navigationBarTextStyle') === 'white' ? '#ffffff' : '#000000'
    return `<!doctype html><meta name="color-scheme" content="light dark"><style>
      body { margin: 0; display: grid; grid-template-rows: ${status + NAVIGATION_BAR}px 1fr; height: 100vh; background: ${this.color('backgroundColor')}; }
      header { position: relative; padding-top: ${status}px; background: ${this.color('navigationBarBackgroundColor')}; color: ${text};
        font: 600 17px/${NAVIGATION_BAR}px system-ui, "Noto Sans CJK SC", sans-serif; text-align: center; }
      i { position: absolute; right: 7px; bottom: 6px; width: 87px; height: 32px; box-sizing: border-box; border: 1px solid color-mix(in srgb, ${text} 15%, transparent); border-radius: 16px; font: 600 17px/28px system-ui; }
      iframe { display: block; width: 100%; height: 100%; border: 0; }
      </style><header><span id="bar"></span><i>···&ensp;◎</i></header><iframe name="webview" title="page"></iframe>`
  }

  /** A setting of app.json's window, by way of theme.json. */
  color(name) {
    const value = app.window[name]
    return value.startsWith('@') ? this.colors[value.slice(1)] : value
  }

  #draw() {
    this.#drawn = this.#drawn.then(async () => {
      const { page, title, language } = this.phone
      if (!page) return
      if (this.route !== page.route) {
        this.route = page.route
        const style = [WECHAT_STYLE, styleOf('app.wxss', this.device), styleOf(`${page.route}.wxss`, this.device)].join('')
        await this.frame.evaluate((text) => { document.getElementById('style').textContent = text }, style)
      }
      const html = htmlOf(this.phone.screen(), (node) => this.#nodes.push({ node, page }) - 1)
      await this.frame.evaluate(show, { html, language })
      await this.page.evaluate((text) => { document.getElementById('bar').textContent = text }, title ?? app.window.navigationBarTitleText)
    }).catch((error) => this.complaints.push(error.stack))
  }

  #happen({ number, what, detail }) {
    const { node: { attributes }, page } = this.#nodes[number]
    if (attributes['open-type'] === 'chooseAvatar') return this.phone.pickAvatar(this.avatar).then(() => null)
    const handler = attributes[`bind${what}`] ?? attributes[`catch${what}`]
    if (!handler) return null
    const dataset = Object.fromEntries(Object.entries(attributes).flatMap(([name, value]) => (name.startsWith('data-') ? [[name.slice(5), value]] : [])))
    const answer = page[handler]({ detail, currentTarget: { dataset } })
    return typeof answer === 'string' ? answer : null
  }

  /** Waits until all is drawn that happened. */
  async drawn() {
    let last
    do {
      last = this.#drawn
      await last
    } while (last !== this.#drawn)
  }

  async shows(text) {
    await until(`the screen shows "${text}"`, async () => {
      await this.drawn()
      return (await this.frame.locator('body').innerText()).includes(text)
    })
  }

  button(name) {
    return this.frame.getByRole('button', { name, exact: true })
  }

  async photograph(name) {
    if (SCREENSHOTS) await this.page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), animations: 'disabled' })
  }

  /** Faults of accessibility, colours that are hard to read among them. */
  accessibilityFaults() {
    return this.frame.evaluate(async () => {
      const { violations } = await window.axe.run(document, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'],
        resultTypes: ['violations'],
      })
      return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`))
    })
  }

  layoutFaults() {
    return this.frame.evaluate(findLayoutFaults)
  }

  async close() {
    if (this.phone) this.phone.changed = () => {}
    await this.drawn()
    await this.context.close()
    assert.deepEqual(this.complaints, [], 'nothing went wrong while drawing')
  }
}

/** Runs in the page: what is cut off, too wide, over something else, or too small for a finger. */
function findLayoutFaults() {
  const faults = []
  const name = (element) => `${element.className || element.tagName} "${element.textContent.slice(0, 40)}"`
  const { clientWidth, scrollWidth } = document.documentElement
  if (scrollWidth > clientWidth) faults.push(`the page is ${scrollWidth} wide`)
  // All the way down, where a sheet that stays on the screen may lie over nothing.
  window.scrollTo(0, document.documentElement.scrollHeight)
  const boxes = []
  for (const element of document.body.querySelectorAll('*')) {
    const { left, right, top, bottom } = element.getBoundingClientRect()
    const style = getComputedStyle(element)
    if (left < -0.5 || right > clientWidth + 0.5) faults.push(`${name(element)} is beside the screen`)
    if (style.overflow !== 'visible' && element.tagName !== 'INPUT' && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1)) {
      faults.push(`${name(element)} is cut`)
    }
    if (element.tagName === 'BUTTON' && (bottom - top < 44 || right - left < 44)) faults.push(`${name(element)} is small for a finger: ${right - left} × ${bottom - top}`)
    // WeChat's own greys and hairline come through where a style of ours is weaker.
    if (element.tagName === 'BUTTON' && (/rgb\((242, 242, 242|247, 247, 247)\)/.test(style.backgroundColor) || getComputedStyle(element, '::after').borderTopWidth !== '0px')) {
      faults.push(`${name(element)} looks as WeChat's buttons do`)
    }
    for (const node of element.childNodes) {
      if (node.nodeType !== 3 || !node.data.trim()) continue
      const range = document.createRange()
      range.selectNodeContents(node)
      for (const box of range.getClientRects()) {
        if (box.left < left - 1 || box.right > right + 1 || (style.display !== 'inline' && (box.top < top - 2 || box.bottom > bottom + 2))) faults.push(`${name(element)} runs out of its box`)
        boxes.push({ box, element })
      }
    }
  }
  boxes.forEach((one, at) => {
    for (const other of boxes.slice(at + 1)) {
      if (one.element === other.element) continue
      const wide = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left)
      const high = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top)
      const smaller = Math.min(one.box.height, other.box.height)
      if (wide > 1 && high > smaller / 3) faults.push(`${name(one.element)} and ${name(other.element)} lie over each other`)
    }
  })
  window.scrollTo(0, 0)
  return [...new Set(faults)]
}
