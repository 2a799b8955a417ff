// The real service in a process of its own, with the built-in simulator as its WeChat, and
// a browser that wants to log in.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import crypto from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { assertNone, learn, learnFrom, search } from '../../../tests/support/leaks.mjs'
import { projectDir, until } from './project.mjs'
import { Phone, overHttp } from './wechat.mjs'

const BINARY = process.env.SCANLOGIN_BIN ?? path.join(projectDir, '../target/debug/scanlogin')
const START_DEADLINE_MS = 20_000

export class Server {
  log = ''

  /** `settings` are environment names without SCANLOGIN_; `config` is a TOML text. */
  static async start(settings = {}, config = null) {
    assert.ok(fs.existsSync(BINARY), `${BINARY} is missing: run "cargo build" in the repository, or set SCANLOGIN_BIN`)
    const server = new Server()
    server.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-miniprogram-'))
    const env = { PATH: process.env.PATH, NO_COLOR: '1' }
    const all = { LISTEN: '127.0.0.1:0', OPS_LISTEN: '127.0.0.1:0', DRAIN_DELAY: '0', LIMITS: 'off', ...settings }
    for (const [name, value] of Object.entries(all)) env[`SCANLOGIN_${name}`] = value
    if (config !== null) {
      env.SCANLOGIN_CONFIG = path.join(server.dir, 'scanlogin.toml')
      fs.writeFileSync(env.SCANLOGIN_CONFIG, config)
    }
    server.process = spawn(BINARY, [], { env, cwd: server.dir, stdio: ['ignore', 'pipe', 'pipe'] })
    server.exited = new Promise((resolve) => server.process.once('exit', resolve))
    server.url = await server.listening()
    return server
  }

  listening() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no "listening" line:\n${this.log}`)), START_DEADLINE_MS)
      const read = (chunk) => {
        this.log += chunk.toString().replace(/\x1b\[[0-9;]*m/g, '')
        const line = this.log.split('\n').find((each) => each.includes('listening') && each.includes('public_url='))
        const url = line && /public_url="?(http:\/\/[\w.:]+)/.exec(line)
        if (!url) return
        clearTimeout(timer)
        resolve(url[1])
      }
      this.process.stdout.on('data', read)
      this.process.stderr.on('data', read)
      this.process.once('error', reject)
      this.exited.then((code) => reject(new Error(`ended with ${code}:\n${this.log}`)))
    })
  }

  async stop() {
    this.process.kill('SIGTERM')
    await this.exited
    fs.rmSync(this.dir, { recursive: true })
    assertNone(BINARY, { 'the log of the service': this.log })
  }

  /** What would be found if these words stood in its log. */
  leaks(words = '') {
    return search(BINARY, { 'the log of the service': this.log + words })
  }

  async call(method, where, body, header = {}) {
    const reply = await fetch(new URL(where, this.url), {
      method,
      headers: { ...(body !== undefined && { 'Content-Type': 'application/json' }), ...header },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
    learnFrom(await reply.clone().text())
    return reply
  }

  /** The next calls of WeChat's API misbehave. */
  async fault(fault) {
    const reply = await this.call('POST', '/simulator/faults', { call: 'jscode2session', ...fault })
    assert.ok(reply.ok, `a fault is planted: ${reply.status}`)
  }

  async code2sessionCalls() {
    const calls = await (await this.call('GET', '/simulator/calls')).json()
    return calls.filter(({ call }) => call === 'jscode2session').length
  }

  /** A phone with WeChat, logged in as `openid`. */
  phone(openid) {
    return new Phone({
      serviceUrl: this.url,
      send: async (request) => {
        const reply = await overHttp(request)
        learnFrom(reply.body)
        return reply
      },
      login: async () => {
        const login = await (await this.call('POST', '/simulator/login', { openid })).json()
        learn('a code of wx.login', login.code)
        return login
      },
    })
  }

  /** A browser that has just shown a code. */
  async browser(clientId) {
    const verifier = crypto.randomBytes(32).toString('base64url')
    learn("a verifier of PKCE's", verifier)
    const challenge = crypto.createHash('sha256').update(verifier).digest('base64url')
    const reply = await this.call('POST', '/scenes', { code_challenge: challenge, ...(clientId && { client_id: clientId }) })
    assert.equal(reply.status, 201, await reply.clone().text())
    return new Browser(this, verifier, await reply.json())
  }
}

class Browser {
  constructor(server, verifier, created) {
    Object.assign(this, { server, verifier, scene: created.scene, authorization: { Authorization: `Bearer ${created.browser_secret}` } })
  }

  async status(query = '') {
    const reply = await this.server.call('GET', `/scenes/${this.scene}${query}`, undefined, this.authorization)
    assert.equal(reply.status, 200, await reply.clone().text())
    return reply.json()
  }

  /** Waits, as a page does, until the scene is in that state. */
  async sees(state) {
    for (let tries = 0, id = ''; tries < 10; tries++) {
      const status = await this.status(`?wait=5&after=${encodeURIComponent(id)}`)
      if (status.state === state) return status
      id = status.id
    }
    throw new Error(`the browser never saw "${state}"`)
  }

  async cancel() {
    const reply = await this.server.call('DELETE', `/scenes/${this.scene}`, undefined, this.authorization)
    assert.equal(reply.status, 204)
  }

  /** What the site's backend does with the authorization code: the id_token's claims. */
  async redeem(clientId, code) {
    const form = new URLSearchParams({ grant_type: 'authorization_code', client_id: clientId, code, code_verifier: this.verifier })
    const reply = await fetch(new URL('/token', this.server.url), { method: 'POST', body: form })
    assert.equal(reply.status, 200, await reply.clone().text())
    const given = await reply.text()
    learnFrom(given)
    const { id_token: token } = JSON.parse(given)
    return JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString())
  }
}

let persons = 0
/** A person whom no other test knows. */
export const openid = () => `o-person-${++persons}`

export async function shows(phone, text) {
  await until(`the phone shows "${text}"; it shows: ${phone.text()}`, () => phone.text().includes(text))
}

/** A phone that has scanned what the browser shows, and is asked; `entryScene` is how, as WeChat says. */
export async function scanned(server, clientId, entryScene = 1047) {
  const person = openid()
  const browser = await server.browser(clientId)
  const phone = server.phone(person)
  phone.entryScene = entryScene
  phone.open(browser.scene)
  await shows(phone, '要在电脑上登录这个网站吗')
  return { browser, phone, person }
}

/** How often the phone sent that. */
export const sent = (phone, act) => phone.requests.filter(({ path }) => path.endsWith(act)).length

export const JPEG = Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), Buffer.alloc(3000, 7)])
