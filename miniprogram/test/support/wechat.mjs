// A phone with WeChat, as far as the Mini Program can tell: wx, Page, the page's life and
// the person's finger. It keeps to what WeChat does, the surprising parts above all.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { buildDir, read, readJson } from './project.mjs'
import { everyNode, parse, render, textOf } from './wxml.mjs'

const PAGES = readJson('app.json').pages
const CONFIRM_PAGE = 'pages/confirm/confirm'
const APPID = 'wx0123456789abcdef'

export class Phone {
  /** The pages that are open, the one in view last. */
  stack = []
  /** What each page file gave to Page(), by its path. */
  options = {}
  /** Runs after everything that may change what is seen. */
  changed = () => {}
  /** What the navigation bar says. */
  title = null
  /** Every wx.request, in order: {method, path, header, body, url}. */
  requests = []
  /** Names of wx calls that matter to a test, in order. */
  calls = []
  /** What the person has typed, by the input's name. */
  typed = {}
  files = {}
  entryScene = 1047
  language = 'zh_CN'
  envVersion = 'release'
  clock = new Clock()
  /** Each is used for one request: (request, send) => reply; throw an errMsg string to fail. */
  onNextRequest = []
  compressed = null

  /** `login` gives {code} or throws; `send` takes a request to the service. */
  constructor({ login, send, serviceUrl }) {
    this.login = login
    this.send = send
    this.serviceUrl = serviceUrl
    this.wxml = Object.fromEntries(PAGES.map((path) => [path, parse(read(`${path}.wxml`))]))
    this.load()
  }

  load() {
    const modules = new Map()
    const require = (name, wx, Page) => {
      const file = path.join(buildDir, `${name}.js`)
      if (!modules.has(file)) {
        const module = { exports: {} }
        modules.set(file, module.exports)
        const near = (relative) => require(path.join(path.dirname(name), relative))
        // Only a page gets `wx`: a module that reaches for the global fails here.
        const names = { require: near, exports: module.exports, module, wx, Page, ...this.clock.globals() }
        new Function(...Object.keys(names), fs.readFileSync(file, 'utf8'))(...Object.values(names))
      }
      return modules.get(file)
    }
    const config = require('lib/config')
    for (const version of Object.keys(config.SERVICE_URLS)) config.SERVICE_URLS[version] = `${this.serviceUrl}`
    this.config = config
    for (const path of PAGES) require(path, this.wx(), (options) => (this.options[path] = options))
  }

  // --- the person and the system -------------------------------------------------------

  /** Opens a code: a cold start, or a hot start that launches the page anew. */
  open(scene, query = { scene: encodeURIComponent(scene) }) {
    return this.launch(CONFIRM_PAGE, query)
  }

  /** Opens a page and closes all others; without a page, as somebody opens the Mini Program by itself. */
  launch(path = PAGES[0], query = {}) {
    const previous = this.stack
    this.stack = [this.instance(path)]
    this.page.onLoad(query)
    this.page.onShow?.()
    for (const page of previous.reverse()) page.onUnload?.()
    this.changed()
    return this
  }

  navigateTo(path) {
    this.page.onHide?.()
    this.stack.push(this.instance(path))
    this.page.onLoad({})
    this.page.onShow?.()
    this.changed()
  }

  navigateBack() {
    assert.ok(this.stack.length > 1, 'there is a page to come back to')
    this.stack.pop().onUnload?.()
    this.page.onShow?.()
    this.changed()
  }

  get page() {
    return this.stack.at(-1) ?? null
  }

  /** A hot start that runs onLoad of the page already there. */
  openAgain(scene) {
    this.page.onLoad({ scene })
    this.page.onShow()
  }

  background() {
    this.page.onHide()
  }

  foreground() {
    this.page.onShow()
  }

  close() {
    this.page.onUnload?.()
  }

  screen() {
    return render(this.wxml[this.page.route], this.page.data)
  }

  text() {
    return textOf(this.screen())
  }

  nodes(test) {
    return [...everyNode(this.screen())].filter(test)
  }

  button(label) {
    const found = this.nodes((node) => node.tag === 'button' && (textOf(node) === label || node.attributes['aria-label'] === label))
    assert.equal(found.length, 1, `one button "${label}" on: ${this.text()}`)
    return found[0]
  }

  /** A disabled button gives no event. */
  tap(label) {
    const { attributes } = this.button(label)
    assert.ok(!attributes.disabled, `"${label}" can be tapped on: ${this.text()}`)
    if (attributes['form-type'] === 'submit') return this.submit()
    const dataset = Object.fromEntries(
      Object.entries(attributes).flatMap(([name, value]) => (name.startsWith('data-') ? [[name.slice(5), value]] : [])),
    )
    return this.page[attributes.bindtap]({ currentTarget: { dataset } })
  }

  /** The numbers that the person may pick. */
  numbers() {
    return this.nodes(({ attributes }) => attributes['data-number'] !== undefined).map(({ attributes }) => attributes['data-number'])
  }

  submit() {
    const [form] = this.nodes((node) => node.tag === 'form')
    const inputs = this.nodes((node) => node.tag === 'input')
    const value = Object.fromEntries(inputs.map(({ attributes: { name } }) => [name, this.typed[name] ?? '']))
    return this.page[form.attributes.bindsubmit]({ detail: { value } })
  }

  /** Types into an input; what its handler answers is what then stands there. */
  type(name, value, cursor = value.length) {
    const [node] = this.nodes(({ tag, attributes }) => tag === 'input' && attributes.name === name)
    this.typed[name] = this.page[node.attributes.bindinput]({ detail: { value, cursor } }) ?? value
    return this.typed[name]
  }

  switchProfile(value) {
    const [node] = this.nodes((each) => each.tag === 'switch')
    assert.ok(!node.attributes.disabled, 'the switch can be used')
    this.page[node.attributes.bindchange]({ detail: { value } })
  }

  pickAvatar(filePath) {
    const [node] = this.nodes((each) => each.attributes['open-type'] === 'chooseAvatar')
    assert.ok(!node.attributes.disabled, 'an avatar can be chosen')
    return this.page[node.attributes.bindchooseavatar]({ detail: { avatarUrl: filePath } })
  }

  // --- WeChat ----------------------------------------------------------------------------

  /** WeChat copies what stands beside `data` and the functions for every instance. */
  instance(path) {
    const page = { route: path }
    for (const [name, value] of Object.entries(this.options[path])) {
      page[name] = typeof value === 'function' ? value : structuredClone(value)
    }
    page.setData = (change) => {
      assert.deepEqual(JSON.parse(JSON.stringify(change)), change, 'setData takes JSON without undefined')
      for (const key of Object.keys(change)) assert.ok(key in page.data, `data declares ${key}`)
      Object.assign(page.data, structuredClone(change))
      this.changed()
    }
    return page
  }

  wx() {
    const later = (callback, value) => setImmediate(() => callback?.(value))
    const note = (name) => (options) => (this.calls.push(name), later(options?.success, {}))
    return {
      hideShareMenu: note('hideShareMenu'),
      setNavigationBarTitle: ({ title }) => (this.title = title, this.calls.push(`setNavigationBarTitle ${title}`), this.changed()),
      exitMiniProgram: note('exitMiniProgram'),
      reLaunch: ({ url }) => (this.calls.push(`reLaunch ${url}`), setImmediate(() => this.launch(url.slice(1)))),
      navigateTo: ({ url }) => (this.calls.push(`navigateTo ${url}`), setImmediate(() => this.navigateTo(url.slice(1)))),
      navigateBack: () => (this.calls.push('navigateBack'), setImmediate(() => this.navigateBack())),
      getAppBaseInfo: () => ({ language: this.language }),
      getEnterOptionsSync: () => ({ path: CONFIRM_PAGE, query: {}, scene: this.entryScene }),
      getAccountInfoSync: () => ({ miniProgram: { appId: APPID, envVersion: this.envVersion, version: '' } }),
      login: ({ success, fail }) => {
        this.calls.push('login')
        Promise.resolve()
          .then(() => this.login())
          .then(({ code }) => later(success, { code, errMsg: 'login:ok' }), () => later(fail, { errMsg: 'login:fail' }))
      },
      request: (options) => this.request(options),
      getFileSystemManager: () => ({
        readFile: ({ filePath, success, fail }) => {
          const bytes = this.files[filePath]
          if (bytes) later(success, { data: Uint8Array.from(bytes).buffer, errMsg: 'readFile:ok' })
          else later(fail, { errMsg: `readFile:fail no such file or directory, open '${filePath}'` })
        },
      }),
      compressImage: ({ src, success, fail }) => {
        this.calls.push('compressImage')
        if (this.compressed === null) return later(fail, { errMsg: 'compressImage:fail' })
        this.files[`${src}.small`] = this.compressed
        later(success, { tempFilePath: `${src}.small`, errMsg: 'compressImage:ok' })
      },
    }
  }

  /** success for every status; data parsed when it can be, whatever its media type says. */
  request({ url, method, header, data, timeout, success, fail }) {
    assert.ok(url.startsWith(`${this.serviceUrl}/`), `${url} is the service's`)
    assert.ok(timeout > 0 && timeout <= 10_000, 'a timeout is set')
    const body = data instanceof ArrayBuffer ? Buffer.from(data) : JSON.stringify(data)
    const referer = `https://servicewechat.com/${APPID}/0/page-frame.html`
    const request = { url, method, path: new URL(url).pathname, header: { ...header, Referer: referer }, body }
    this.requests.push(request)
    const handle = this.onNextRequest.shift() ?? ((each, send) => send(each))
    Promise.resolve()
      .then(() => handle(request, this.send))
      .then(
        (reply) => setImmediate(() => success({ statusCode: reply.status, header: reply.header ?? {}, data: parsed(reply.body), cookies: [], errMsg: 'request:ok' })),
        (error) => setImmediate(() => fail({ errMsg: typeof error === 'string' ? error : `request:fail ${error.message}`, errno: 600001 })),
      )
  }
}

function parsed(body) {
  if (typeof body !== 'string') return body
  try {
    return JSON.parse(body)
  } catch {
    return body
  }
}

/** Real HTTP; header names stay as the server wrote them, as on a phone. */
export function overHttp({ url, method, header, body }) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers: { ...header, 'Content-Length': Buffer.byteLength(body) }, agent: false }, async (reply) => {
      const chunks = []
      for await (const chunk of reply) chunks.push(chunk)
      const raw = reply.rawHeaders
      const names = raw.flatMap((name, at) => (at % 2 === 0 ? [[name, raw[at + 1]]] : []))
      resolve({ status: reply.statusCode, header: Object.fromEntries(names), body: Buffer.concat(chunks).toString() })
    })
    request.on('error', reject).end(body)
  })
}

/** The service commits, the phone never hears of it. */
export const loseReply = (errMsg) => async (request, send) => {
  await send(request)
  throw errMsg
}

/** Time on the phone stands still until a test moves it. */
class Clock {
  now = Date.parse('2026-01-01T00:00:00Z')
  timers = new Set()

  globals() {
    const set = (every) => (callback, ms) => {
      const timer = { at: this.now + ms, callback, every: every ? ms : null }
      this.timers.add(timer)
      return timer
    }
    const clear = (timer) => this.timers.delete(timer)
    return { setTimeout: set(false), setInterval: set(true), clearTimeout: clear, clearInterval: clear, Date: { now: () => this.now } }
  }

  advance(ms) {
    this.now += ms
    for (const timer of [...this.timers]) {
      if (timer.at > this.now) continue
      if (timer.every === null) this.timers.delete(timer)
      else timer.at = this.now + timer.every
      timer.callback()
    }
  }
}
