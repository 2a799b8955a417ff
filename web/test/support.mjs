// A service that is made up: what it answers, and when, is the test's to say. And a clock that the test turns.

import { mock } from 'node:test'
import { Login } from '../src/login.js'

export const SERVICE = 'https://login.example'
const LIFE = 120

/** Lets everything happen that waits for no clock. */
export const settle = () => new Promise((resolve) => { setImmediate(() => setImmediate(resolve)) })

/** Lets `ms` pass, in steps as small as a timer may want. */
export async function pass(ms) {
  for (let left = ms; left > 0; left -= 250) {
    mock.timers.tick(Math.min(left, 250))
    await settle()
  }
}

/** The computer sleeps: the clock goes on, and no timer runs meanwhile. */
export async function sleep(ms) {
  mock.timers.setTime(Date.now() + ms)
  await settle()
}

class Stream {
  constructor(signal) {
    this.body = new ReadableStream({ start: (controller) => { this.controller = controller } })
    this.isOpen = true
    signal.addEventListener('abort', () => {
      if (this.isOpen) this.controller.error(new DOMException('aborted', 'AbortError'))
      this.isOpen = false
    })
  }

  async write(text) {
    this.controller.enqueue(new TextEncoder().encode(text))
    await settle()
  }

  /** As the service does: first of all when to come again. */
  greet() {
    return this.write('retry: 1000\n\n')
  }

  tell(data) {
    return this.write(`event: ${data.state ?? 'unavailable'}\n${data.id ? `id: ${data.id}\n` : ''}data: ${JSON.stringify({ expires_in: LIFE, ...data })}\n\n`)
  }

  async end() {
    this.isOpen = false
    this.controller.close()
    await settle()
  }

  async break() {
    this.isOpen = false
    this.controller.error(new TypeError('network'))
    await settle()
  }
}

export const problem = (status, code, retryAfter) => new Response(JSON.stringify({ code }), {
  status,
  headers: { 'content-type': 'application/problem+json', ...(retryAfter && { 'retry-after': String(retryAfter) }) },
})

export class World {
  calls = []
  streams = []
  scenes = 0
  shown = []
  states = []
  settings = { service: SERVICE, request: { client_id: 'site' }, autoRefresh: 2, paused: false, phone: false }

  constructor(t, settings = {}) {
    Object.assign(this.settings, settings)
    mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 })
    mock.method(Math, 'random', () => 0)
    mock.method(globalThis, 'fetch', (url, options) => this.#fetch(url, options))
    globalThis.document = { hidden: false }
    t.after(() => {
      this.login.stop()
      mock.timers.reset()
      mock.restoreAll()
      delete globalThis.document
      delete globalThis.location
      delete globalThis.sessionStorage
    })
    this.login = this.make()
  }

  make() {
    const login = new Login({
      settings: () => this.settings,
      changed: () => {
        if (this.states.at(-1) !== login.state) this.states.push(login.state)
      },
      show: (url) => {
        this.shown.push(url)
        // The picture comes at once.
        if (url) queueMicrotask(() => login.pictureLoaded())
      },
    })
    return login
  }

  /** What the next calls of a kind are answered, instead of as usual. */
  answers = { start: [], stream: [], status: [], cancel: [], begin: [], code: [], short: [] }

  #kind(method, { pathname }) {
    if (pathname === '/begin') return 'begin'
    if (pathname === '/scenes') return 'start'
    if (pathname.startsWith('/events/')) return 'stream'
    if (pathname.endsWith('/code')) return 'code'
    if (pathname.endsWith('/short-code')) return 'short'
    return method === 'DELETE' ? 'cancel' : 'status'
  }

  async #fetch(address, { method = 'GET', headers = {}, body, signal, credentials }) {
    const url = new URL(address)
    const kind = this.#kind(method, url)
    this.calls.push({ kind, method, url, headers, body: body && JSON.parse(body), credentials, at: Date.now() })
    const aborted = new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(new DOMException('aborted', 'AbortError')))
    })
    aborted.catch(() => {})
    if (signal.aborted) return aborted
    const answer = this.answers[kind].shift() ?? this[kind]
    return Promise.race([answer.call(this, { url, signal }), aborted])
  }

  async begin() { return Response.json({}) }

  async start() {
    this.scenes += 1
    const scene = String(this.scenes)
    const at = `${SERVICE}/scenes/${scene}`
    return Response.json({
      scene, id: `${scene}.1`, state: 'waiting', expires_in: LIFE, browser_secret: `secret-${scene}`,
      code_url: `${at}/code`, events_url: `${SERVICE}/events/${scene}`, status_url: at, short_code_url: `${at}/short-code`,
    }, { status: 201 })
  }

  async stream({ signal }) {
    const stream = new Stream(signal)
    this.streams.push(stream)
    const response = new Response(stream.body, { headers: { 'content-type': 'text/event-stream' } })
    stream.greet()
    return response
  }

  async status({ url }) {
    return Response.json({ scene: url.pathname.split('/').at(-1), id: `${this.scenes}.1`, state: 'waiting', expires_in: LIFE })
  }

  async cancel() { return new Response(null, { status: 204 }) }

  async code() { return new Response('picture') }

  async short() { return Response.json({ short_code: 'K7WM-P3XQ', mini_program: '扫码登录', expires_in: 60 }, { status: 201 }) }

  of(kind) { return this.calls.filter((call) => call.kind === kind) }

  get open() { return this.streams.filter((stream) => stream.isOpen) }

  hide() { globalThis.document.hidden = true }

  async see() {
    globalThis.document.hidden = false
    this.login.wake()
    await settle()
  }
}
