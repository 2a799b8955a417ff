// People at computers of their own, each with an address of its own of this machine, and their phones.

import { createHash, randomBytes } from 'node:crypto'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { learn, learnFrom } from '../../support/leaks.mjs'
import { pause } from '../../browser/support/until.mjs'

const FINAL = ['confirmed', 'declined', 'cancelled', 'expired']

let people = 0

/** Nobody's before: what is limited by address is not limited by how fast a test is. */
function address() {
  people += 1
  return `127.${1 + (people >> 16)}.${(people >> 8) & 255}.${people & 255}`
}

/** What happened on the way to an answer, and every answer that was none. */
export class Record {
  answers = 0
  refused = []
  /** When each stream was opened again, and how long it had been told to wait, in milliseconds. */
  reopened = []
  /** Pictures that a replica was making when it ended: the one thing that a restart may cost, and the page offers another. */
  picturesGivenUp = 0
  /** Streams that were answered `unavailable`. */
  unavailable = 0

  note(what, status) {
    this.answers += 1
    if (status === 503 && what.endsWith('/code')) this.picturesGivenUp += 1
    else if (status >= 400) this.refused.push(`${status} ${what}`)
  }
}

export class Person {
  constructor(origin, record = new Record()) {
    this.origin = origin
    this.record = record
    this.address = address()
    this.openid = `o-${randomBytes(8).toString('hex')}`
  }

  /** A request from this person's address, and the answer once its head is there. On a connection of its own, unless an agent keeps some. */
  ask(method, path, { headers = {}, body, agent = false } = {}) {
    return new Promise((resolve, reject) => {
      const request = http.request(new URL(path, this.origin), { method, headers, localAddress: this.address, agent })
      request.on('error', reject).on('response', (response) => {
        this.record.note(`${method} ${path.replace(/[0-9a-f]{32}/, '…')}`, response.statusCode)
        resolve(response)
      })
      request.end(body)
    })
  }

  async json(method, path, body, secret) {
    const headers = { ...(body && { 'content-type': 'application/json' }), ...(secret && { authorization: `Bearer ${secret}` }) }
    const response = await this.ask(method, path, { headers, body: body && JSON.stringify(body) })
    const said = await text(response)
    if (response.statusCode >= 400) throw new Error(`${method} ${path}: ${response.statusCode} ${said}`)
    learnFrom(said)
    return JSON.parse(said)
  }

  /** Starts a login at the only site, and listens. */
  async start() {
    this.verifier = randomBytes(32).toString('base64url')
    learn('a code verifier', this.verifier)
    const challenge = createHash('sha256').update(this.verifier).digest('base64url')
    this.nonce = randomBytes(8).toString('hex')
    this.scene = await this.json('POST', '/scenes', { code_challenge: challenge, nonce: this.nonce })
    this.stream = new Stream(this, this.scene)
    await this.stream.until('waiting')
  }

  /** The code's picture, which the page shows. */
  async picture() {
    const response = await this.ask('GET', new URL(this.scene.code_url).pathname)
    const type = response.headers['content-type']
    if (response.statusCode === 200 && !type.startsWith('image/')) throw new Error(`a picture is ${type}`)
    response.resume()
    return response.statusCode
  }

  /** The phone scans, having come `how`, and is told who asks. */
  async scan(how = {}) {
    const { code } = await this.json('POST', '/simulator/login', { openid: this.openid })
    learn('a code of wx.login', code)
    const asked = await this.json('POST', `/scenes/${this.scene.scene}/scan`, { code, ...how })
    await this.stream.until('scanned')
    return asked
  }

  /** Its owner says yes. */
  sayYes({ confirm_token: token }) {
    return this.json('POST', `/scenes/${this.scene.scene}/confirm`, {}, token)
  }

  async confirm() {
    const asked = await this.scan()
    await this.sayYes(asked)
    return asked
  }

  /** The site's backend asks who it is, and the browser was told of nobody else. */
  async redeem() {
    const { code } = await this.stream.until('confirmed')
    const form = new URLSearchParams({ grant_type: 'authorization_code', client_id: 'demo', code, code_verifier: this.verifier })
    const response = await this.ask('POST', '/token', { headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: String(form) })
    const said = JSON.parse(await text(response))
    if (response.statusCode !== 200) throw new Error(`POST /token: ${response.statusCode} ${JSON.stringify(said)}`)
    learnFrom(JSON.stringify(said))
    const [head, claims] = said.id_token.split('.', 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')))
    this.signedBy = head.kid
    if (claims.sub !== this.openid || claims.nonce !== this.nonce) throw new Error(`${this.openid} was logged in as ${claims.sub}`)
    return claims
  }

  async logIn() {
    await this.start()
    await this.picture()
    await this.confirm()
    return this.redeem()
  }
}

/** As a browser's EventSource: opened again with the last id when it ends, after as long as it was told. */
class Stream {
  #waiting = []
  #lastId
  #retry = 3000
  state

  constructor(person, { scene, browser_secret: secret }) {
    this.headers = { accept: 'text/event-stream', authorization: `Bearer ${secret}` }
    this.person = person
    this.path = `/events/${scene}`
    this.ended = this.#listen().catch((error) => { this.failed = error }).finally(() => this.#wake())
  }

  async #listen() {
    const { person } = this
    while (!FINAL.includes(this.state)) {
      const headers = { ...this.headers, ...(this.#lastId && { 'last-event-id': this.#lastId }) }
      const response = await person.ask('GET', this.path, { headers })
      if (response.statusCode !== 200) throw new Error(`${this.path}: ${response.statusCode}`)
      await this.#read(response)
      if (FINAL.includes(this.state)) return
      await pause(this.#retry)
      person.record.reopened.push({ at: performance.now(), after: this.#retry })
    }
  }

  async #read(response) {
    let left = ''
    try {
      for await (const chunk of response.setEncoding('utf8')) {
        const blocks = (left + chunk).split('\n\n')
        left = blocks.pop()
        blocks.forEach((block) => this.#take(block))
      }
    } catch {
      // Cut: to a browser that is an end like another.
    }
  }

  #take(block) {
    const fields = block.split('\n').map((line) => /^(\w*): ?(.*)$/.exec(line)).filter(Boolean)
    const { retry, event, data, id } = Object.fromEntries(fields.map(([, name, value]) => [name, value]))
    if (retry) this.#retry = Number(retry)
    if (event === 'unavailable') this.person.record.unavailable += 1
    if (!event || event === 'unavailable') return
    learnFrom(data)
    this.#lastId = id
    this.state = event
    this.event = JSON.parse(data)
    this.#wake()
  }

  #wake() {
    this.#waiting.splice(0).forEach((wake) => wake())
  }

  /** The event of this state, or of a later one that it can't come after. */
  async until(state) {
    while (this.state !== state) {
      if (this.failed) throw this.failed
      if (FINAL.includes(this.state)) throw new Error(`${this.path}: ${this.state} ${JSON.stringify(this.event)} in the place of ${state}`)
      await new Promise((resolve) => { this.#waiting.push(resolve) })
    }
    return this.event
  }
}
