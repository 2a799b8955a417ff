// docker-compose.yml without an engine: the same processes with the same settings, in the same order. What differs is what a container
// has of its own: addresses, ports and paths. The proxy is nginx, or what a file beside it has in nginx's place.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Process, binary, freePort } from '../../browser/support/service.mjs'
import { pause, until } from '../../browser/support/until.mjs'
import { learn } from '../../support/leaks.mjs'
import { image, merged, ms } from './files.mjs'
import { Haproxy } from './haproxy.mjs'
import { Nginx } from './nginx.mjs'

const run = promisify(execFile)

/** By the files that have them. */
const PROXIES = { 'docker-compose.yml': Nginx, 'compose/haproxy.yml': Haproxy }

export class Stack {
  #running = []
  #up = new Map()
  /** The replicas that serve: each is `{ process, address, ops }`. */
  replicas = []

  /** What `docker compose up` starts by these files. `settings` are the replicas' own in the place of theirs. */
  static async start(files = ['docker-compose.yml'], settings = {}) {
    const stack = new Stack()
    try {
      await stack.#start(files, settings)
    } catch (error) {
      await stack.stop()
      throw error
    }
    return stack
  }

  async #start(files, settings) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-compose-'))
    for (const dir of ['keys', 'redis', 'tmp']) fs.mkdirSync(path.join(this.dir, dir))
    this.services = merged(files)
    Object.assign(this.services.scanlogin.environment, settings)
    this.proxy = new PROXIES[files.at(-1)](this)
    learn('the password of Redis', this.services.redis.environment.REDISCLI_AUTH)
    const [redis, simulator, proxy] = [await freePort(), await freePort(), await freePort()]
    this.ports = { redis }
    this.origin = `http://127.0.0.1:${proxy}`
    // What stands for what: the rest of each text is passed on as it is.
    this.places = {
      '172.31.251.10/32': '127.0.0.1/32',
      '@redis:6379': `@127.0.0.1:${redis}`,
      '0.0.0.0:8090': `127.0.0.1:${simulator}`,
      '//simulator:8090': `//127.0.0.1:${simulator}`,
      'phone simulator:8090': `phone 127.0.0.1:${simulator}`,
      '//nginx:8080': `//127.0.0.1:${proxy}`,
      '//haproxy:8080': `//127.0.0.1:${proxy}`,
      '//127.0.0.1:8080': `//127.0.0.1:${proxy}`,
      'listen 8080 ': `listen 127.0.0.1:${proxy} `,
      'bind :8080': `bind 127.0.0.1:${proxy}`,
      '/keys/': `${this.dir}/keys/`,
      '/tmp/': `${this.dir}/tmp/`,
    }
    await this.#bringUp(this.proxy.constructor.service)
  }

  /** A text of one of the files, at the addresses and paths of this stack. */
  placed(text) {
    // In one go: what stands for one thing is no other's place.
    const theirs = Object.keys(this.places).map((place) => place.replaceAll(/[./]/g, '\\$&'))
    return text.replace(new RegExp(theirs.join('|'), 'g'), (place) => this.places[place])
  }

  /** A service, once those that it waits for are as it wants them. */
  #bringUp(name) {
    if (!this.#up.has(name)) this.#up.set(name, this.#bringUpNow(name))
    return this.#up.get(name)
  }

  async #bringUpNow(name) {
    const { depends_on: needs = {} } = this.services[name]
    await Promise.all(Object.entries(needs).map(async ([other, { condition }]) => {
      const processes = await this.#bringUp(other)
      if (condition === 'service_healthy') await Promise.all(processes.map((process) => this.#healthy(other, process)))
      else if (condition === 'service_completed_successfully') await Promise.all(processes.map((process) => this.#completed(process)))
      else assert.equal(condition, 'service_started')
    }))
    const starts = { redis: () => this.startRedis(), [this.proxy.constructor.service]: () => this.#startProxy(), scanlogin: () => this.startReplica() }
    const start = starts[name] ?? (() => this.startProgram(name))
    const { replicas = 1 } = this.services[name].deploy ?? {}
    return Promise.all(Array.from({ length: replicas }, start))
  }

  async #completed({ process }) {
    await process.ended
    assert.equal(process.how, 0, process.log)
  }

  /** As often as its check says, and no oftener: what is not healthy by then never is. */
  async #healthy(name, running) {
    const check = this.services[name].healthcheck ?? image().healthcheck
    for (let left = Number(check.retries); ; left -= 1) {
      const sick = await this.check(name, running)
      if (!sick) return
      if (running.process.how !== undefined || left <= 0) throw new Error(`${name} is not healthy: ${sick}\n${running.process.log}`)
      // More often than an engine would: the interval is for those who wait, and nothing is learnt from it.
      await pause(ms(check.interval) / 10)
    }
  }

  /** Why a container's health check fails, if it does. */
  async check(name, running) {
    const { test: [kind, ...words], timeout } = this.services[name].healthcheck ?? image().healthcheck
    const placed = words.map((word) => word.replace('redis-cli', `redis-cli -p ${this.ports.redis}`).replace(/^\/scanlogin$/, binary()))
    const [program, ...args] = kind === 'CMD-SHELL' ? ['sh', '-c', ...placed] : placed
    const env = { PATH: process.env.PATH, ...running.environment }
    return run(program, args, { env, timeout: ms(timeout) }).then(() => null, (error) => `${error.message} ${error.stdout}${error.stderr}`)
  }

  /** A process that is stopped with the stack. */
  runs(program, args, environment = {}) {
    const process = new Process(program, args, environment)
    this.#running.push(process)
    return { process, environment }
  }

  environment(name) {
    return Object.fromEntries(Object.entries(this.services[name].environment ?? {}).map(([key, value]) => [key, this.placed(value)]))
  }

  /** A container of our image that is no replica. */
  startProgram(name) {
    const command = this.services[name].command.map((word) => this.placed(word))
    return this.runs(binary(), command, { ...image().environment, ...this.environment(name) })
  }

  startRedis() {
    const [program, ...command] = this.services.redis.command
    const args = [...command, '--port', String(this.ports.redis), '--bind', '127.0.0.1', '--dir', path.join(this.dir, 'redis')]
    this.redis = this.runs(program, args, this.environment('redis'))
    return this.redis
  }

  /** One more replica: not sent anybody before the proxy is told. */
  async startReplica() {
    const own = (port) => port.replace(/^0\.0\.0\.0:\d+$/, '127.0.0.1:')
    const { SCANLOGIN_LISTEN: listen, SCANLOGIN_OPS_LISTEN: opsListen } = image().environment
    const [address, ops] = [own(listen) + await freePort(), own(opsListen) + await freePort()]
    const environment = { ...this.environment('scanlogin'), SCANLOGIN_LISTEN: address, SCANLOGIN_OPS_LISTEN: ops }
    const replica = { ...this.runs(binary(), [], environment), address, ops }
    this.replicas.push(replica)
    return replica
  }

  /** Its container is made and started, and whoever waits for it waits until it is healthy. */
  async addReplica() {
    const replica = await this.startReplica()
    await this.#healthy('scanlogin', replica)
    return replica
  }

  /** As an engine stops a container: asked to end, and killed when its time is over. How long it took. */
  async stopReplica(replica) {
    this.replicas = this.replicas.filter((other) => other !== replica)
    const grace = ms(this.services.scanlogin.stop_grace_period)
    const asked = performance.now()
    replica.process.signal('SIGTERM')
    const ended = await Promise.race([replica.process.ended.then(() => true), setTimeout(grace, false, { ref: false })])
    assert.ok(ended, `it was not gone ${grace} ms after it was asked:\n${replica.process.log}`)
    assert.equal(replica.process.how, 0, replica.process.log)
    return performance.now() - asked
  }

  async #startProxy() {
    const running = await this.proxy.start()
    await until('the proxy answers', () => {
      if (running.process.how !== undefined) throw new Error(`the proxy ended:\n${running.process.log}`)
      return fetch(this.origin, { redirect: 'manual' }).catch(() => null)
    })
    return running
  }

  /** How many requests each replica has answered. */
  answered() {
    return Promise.all(this.replicas.map(async ({ ops }) => {
      const metrics = await (await fetch(`http://${ops}/metrics`)).text()
      const lines = metrics.split('\n').filter((line) => line.startsWith('scanlogin_http_request_seconds_count'))
      return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
    }))
  }

  async stop() {
    await this.proxy?.stop()
    await Promise.all(this.#running.map((process) => process.end()))
    fs.rmSync(this.dir, { recursive: true })
  }
}
