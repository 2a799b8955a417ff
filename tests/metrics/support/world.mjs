// Two replicas, their Redis with a replica of its own, WeChat, a site's receiver of webhooks, and a Prometheus that watches. Logins end in
// every way there is, and what can fail does.

import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { Process, Redis, Service, binary, freePort } from '../../browser/support/service.mjs'
import { pause, until as untilWithin } from '../../browser/support/until.mjs'
import { Person } from '../../compose/support/people.mjs'
import { learn } from '../../support/leaks.mjs'
import { PATIENCE_MS, Prometheus } from './prometheus.mjs'

const SECRET = `whsec_${Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')}`
const TTL = 10
const PICTURE = 1048
const until = (what, condition) => untilWithin(what, condition, PATIENCE_MS)

/** More pictures than a replica waits for. */
const BUSY = 600
const START = { code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM' }

export class World {
  replicas = []
  /** The text of /metrics of a replica that has lived through it all. */
  metrics = ''

  static async start() {
    const world = new World()
    try {
      await world.#start()
    } catch (error) {
      await world.stop()
      throw error
    }
    return world
  }

  async #start() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-metrics-'))
    const keys = path.join(this.dir, 'keys.json')
    execFileSync(binary(), ['keys', 'new', '--out', keys], { stdio: 'pipe', env: { PATH: process.env.PATH } })
    this.redis = await Redis.start()
    await this.#copyRedis()
    await this.#receive()
    const port = await freePort()
    this.simulator = new Process(binary(), ['simulate', '--listen', '127.0.0.1:0', '--service-url', `http://127.0.0.1:${port}`])
    const [, wechat] = await this.simulator.says(/simulating WeChat addr=(\S+)/)
    this.wechat = `http://${wechat}`
    this.file = path.join(this.dir, 'scanlogin.toml')
    this.settle()
    for (const listen of [port, await freePort()]) {
      this.replicas.push(await Service.start({
        CONFIG: this.file, LISTEN: `127.0.0.1:${listen}`, PUBLIC_URL: `http://127.0.0.1:${port}`, REDIS_URL: this.redis.url,
        SIGNING_KEYS_FILE: keys, WECHAT_API_BASE: this.wechat, SIMULATOR: 'true', LIMITS: 'on', SCENE_TTL: TTL,
        LIMIT_SCENES_PER_ADDRESS: 20, LIMIT_STREAMS_PER_ADDRESS: 5, WEBHOOK_RETRIES: 1,
      }))
    }
    this.origins = this.replicas.map(({ address }) => `http://${address}`)
    this.prometheus = await Prometheus.start(this.replicas.map(({ ops }) => new URL(ops).host))
  }

  /** Redis's own replica, which a confirm waits for. */
  async #copyRedis() {
    // It waits for others that may want the same.
    this.redisCli('CONFIG', 'SET', 'repl-diskless-sync-delay', '0')
    const port = await freePort()
    const args = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--dir', this.dir, '--replicaof', `127.0.0.1 ${this.redis.port}`]
    this.copy = new Process('redis-server', args.map(String))
    await this.copy.says(/MASTER <-> REPLICA sync: Finished with success/)
  }

  /** A site's server, which hears of each yes and does not want to hear of any no. */
  async #receive() {
    this.receiver = http.createServer(async (request, response) => {
      const { type } = JSON.parse(await text(request))
      response.writeHead(type === 'login.confirmed' ? 204 : 500).end()
    })
    this.receiver.listen(0, '127.0.0.1')
    await once(this.receiver, 'listening')
  }

  /** The settings' file, with or without a fault. */
  settle(more = '') {
    learn('the secret of a webhook', SECRET)
    fs.writeFileSync(this.file, `[[client]]
client_id = "demo"
name = "Demo"
number_matching = "on_warning"
entry_scenes = { other = "allow" }
webhook_url = "http://127.0.0.1:${this.receiver.address().port}/"
webhook_secret = "${SECRET}"
${more}`, { mode: 0o600 })
  }

  redisCli(...args) {
    return execFileSync('redis-cli', ['-p', String(this.redis.port), ...args], { encoding: 'utf8' }).trim()
  }

  /** At a replica; their phone's WeChat is elsewhere. */
  person(n = 0) {
    const person = new Person(this.origins[n])
    const ask = person.ask.bind(person)
    person.ask = (method, place, more) => ask(method, place.startsWith('/simulator/') ? this.wechat + place : place, more)
    return person
  }

  /** Whoever has scanned, and what the phone was told. */
  async scanned(n, how) {
    const person = this.person(n)
    await person.start()
    return [person, await person.scan(how)]
  }

  async fault(fault) {
    const response = await fetch(`${this.wechat}/simulator/faults`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(fault),
    })
    if (!response.ok) throw new Error(`a fault was refused: ${await response.text()}`)
  }

  /** Prometheus has looked at all since. */
  async looked() {
    const since = Date.now() / 1000
    await until('Prometheus looks', async () => Number((await this.prometheus.query('min(timestamp(up))'))[0].value[1]) > since)
  }

  /** Prometheus has weighed its alerts by what it saw last: it does so as often as it looks, and not at the same time. */
  async #weighed() {
    const since = Date.now() + 1000
    const groups = async () => (await this.prometheus.get('rules')).groups
    await until('Prometheus weighs its alerts', async () => (await groups()).every(({ lastEvaluation }) => Date.parse(lastEvaluation) > since))
  }

  /** Twice, so that each counter was there before it counts. */
  async live() {
    for (const n of [0, 1]) {
      const left = await Promise.all([this.#people(0), this.#people(1)])
      await this.#settings(n)
      await this.#wechat()
      await Promise.all(left.map(({ stream }) => stream.until('expired')))
      await this.looked()
    }
    for (let times = 0; times < 2; times += 1) {
      await this.#tooMany()
      await this.looked()
    }
    await this.#silence()
    await this.#redis()
    const [one] = this.replicas
    this.metrics = await (await fetch(`${one.ops}/metrics`)).text()
    await this.#leaves()
    await this.looked()
    await this.#weighed()
  }

  /** Logins that end in each way; given is whose will expire. */
  async #people(n) {
    const left = this.person(n)
    await left.start()
    const answer = (person, what, asked, body) => person.json('POST', `/scenes/${person.scene.scene}/${what}`, body, asked.confirm_token)
    await this.person(n).logIn()
    const [no, noAsked] = await this.scanned(n)
    await answer(no, 'decline', noAsked, {})
    const [stranger, strangerAsked] = await this.scanned(n)
    await answer(stranger, 'decline', strangerAsked, { reason: 'not_me' })
    const [wrong, wrongAsked] = await this.scanned(n, { entry_scene: PICTURE })
    const others = wrongAsked.match_choices.filter((number) => number !== wrong.stream.event.match_number)
    for (const match_number of others) await answer(wrong, 'confirm', wrongAsked, { match_number }).catch(() => null)
    await wrong.stream.until('declined')
    const given = this.person(n)
    await given.start()
    await given.ask('DELETE', `/scenes/${given.scene.scene}`, { headers: { authorization: `Bearer ${given.scene.browser_secret}` } })
    await given.stream.until('cancelled')
    return left
  }

  /** Files are read again: one that is good, one that is not, and the good one. */
  async #settings(n) {
    const { process } = this.replicas[n]
    const refused = () => this.replicas[n].metric('scanlogin_settings_read_again_total')
    for (const more of ['# other words\n', 'nothing_like_it = 1\n', '']) {
      const before = await refused()
      this.settle(more)
      process.signal('SIGHUP')
      await until('the settings are read again', async () => await refused() > before)
    }
  }

  /** Refusals, and no answer for so long that it is not asked. */
  async #wechat() {
    await this.fault({ call: 'jscode2session', times: 1, errcode: 40164 })
    await this.fault({ call: 'getwxacodeunlimit', times: 1, errcode: 45009 })
    await this.scanned(0).catch(() => null)
    const person = this.person()
    await person.start()
    await person.picture()
    const scans = () => this.scanned(0).then(() => true, () => false)
    await this.fault({ call: 'jscode2session', times: 1000, reset: true })
    await until('WeChat is thought dead', async () => !(await scans()) && await this.replicas[0].metric('scanlogin_wechat_circuit_open') > 0)
    await scans()
    await fetch(`${this.wechat}/simulator/faults`, { method: 'DELETE' })
    await until('WeChat is asked again', async () => await scans() || pause(500).then(() => false))
  }

  /** One address starts too many logins and opens too many streams; one login has too many pages; and everybody waits for
   * WeChat. */
  async #tooMany() {
    const eager = this.person()
    for (let n = 0; n < 25; n += 1) await eager.json('POST', '/scenes', START).catch(() => null)
    const person = this.person()
    await person.start()
    const open = ({ scene, browser_secret: secret }) => person.ask('GET', `/events/${scene}`, {
      headers: { accept: 'text/event-stream', authorization: `Bearer ${secret}` },
    })
    const own = []
    for (let n = 0; n < 4; n += 1) own.push(await open(person.scene))
    const others = []
    for (let n = 0; n < 5; n += 1) others.push(await open(await person.json('POST', '/scenes', START)))
    own.concat(others).forEach((stream) => stream.destroy())
    await this.fault({ call: 'getwxacodeunlimit', times: 3, delay_ms: 3000 })
    const waiting = this.person()
    await waiting.start()
    await Promise.all(Array.from({ length: BUSY }, () => waiting.picture().catch(() => null)))
  }

  /** Redis answers nothing for a while. */
  async #silence() {
    this.redis.freeze()
    for (let times = 0; times < 2; times += 1) {
      const starts = Array.from({ length: 20 }, () => this.person().json('POST', '/scenes', START).catch(() => null))
      // As whoever asks whether they are ready goes on doing.
      const probes = this.replicas.flatMap(({ ops }) => Array.from({ length: 10 }, () => fetch(`${ops}/readyz`)))
      await Promise.all([...starts, ...probes])
      await this.looked()
    }
    this.redis.thaw()
    await until('Redis serves again', () => this.person().logIn().then(() => true, () => false))
  }

  /** Redis has no memory, holds what is not ours, and loses its replica. */
  async #redis() {
    this.redisCli('CONFIG', 'SET', 'maxmemory', '1')
    for (let tries = 0; tries < 3; tries += 1) {
      await this.person().start().catch(() => null)
      await this.looked()
    }
    this.redisCli('CONFIG', 'SET', 'maxmemory', '0')
    // Somebody else writes where the records are.
    const person = this.person()
    await person.start()
    const key = this.redisCli('--scan', '--pattern', `*${person.scene.scene}`)
    this.redisCli('DEL', key)
    this.redisCli('RPUSH', key, 'nothing of ours')
    for (let tries = 0; tries < 2; tries += 1) {
      await person.scan().catch(() => null)
      await this.looked()
    }
    // Its replica is gone: for a while nothing counts as confirmed, and then with one copy.
    await this.copy.end()
    await until('confirms go on with one copy', () => this.person().logIn().then(() => true, () => false))
    await this.looked()
    await this.person(1).logIn()
  }

  /** A replica is asked to end, and sends its streams away. */
  async #leaves() {
    const people = Array.from({ length: 4 }, () => this.person(1))
    await Promise.all(people.map((person) => person.start()))
    people.forEach(({ stream }) => stream.ended.catch(() => null))
    await this.looked()
    await this.replicas[1].stop()
  }

  async stop() {
    this.redis?.thaw()
    const ends = [...this.replicas.map((replica) => replica.kill()), this.simulator?.end(), this.copy?.end(), this.redis?.kill(), this.prometheus?.stop()]
    await Promise.all(ends)
    this.receiver?.close()
    fs.rmSync(this.dir, { recursive: true })
  }
}
