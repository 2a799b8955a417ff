// Real processes: the service, and where a test wants them, Redis, the simulator of its own
// and a wire in front that can be cut.

import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { assertNone, search } from '../../support/leaks.mjs'
import { until } from './until.mjs'

const BINARY = process.env.SCANLOGIN_BIN
  ?? fileURLToPath(new URL('../../../target/debug/scanlogin', import.meta.url))

/** Whatever happens to this process, it leaves none behind. */
const running = new Set()
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')))

/** All that were ever started. A file's tests fail with it if a secret stands in what they said. */
const started = []
process.once('exit', () => {
  if (started.length) assertNone(BINARY, logs())
})

const logs = () => Object.fromEntries(started.map(({ program, log }, n) => [`the log of ${program}, ${n}`, log]))

/** What would be found if these words stood in a log. */
export const leaks = (words = '') => search(BINARY, { ...logs(), 'a further log': words })

export class Process {
  log = ''
  #child

  constructor(program, args, env = {}) {
    const { PATH, HOME } = process.env
    this.#child = spawn(program, args, { env: { PATH, HOME, NO_COLOR: '1', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    this.program = path.basename(program)
    started.push(this)
    running.add(this.#child)
    this.ended = new Promise((resolve) => {
      this.#child.once('error', (error) => resolve(error.message))
      this.#child.once('exit', (code, signal) => resolve(code ?? signal))
    }).then((how) => {
      running.delete(this.#child)
      this.how = how
    })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.on('data', (chunk) => { this.log += chunk })
    }
  }

  /** Waits for a line, and gives its match. */
  says(pattern) {
    return until(`a line ${pattern}`, () => {
      const match = pattern.exec(this.log)
      if (!match && this.how !== undefined) throw new Error(`ended (${this.how}) without a line ${pattern}:\n${this.log}`)
      return match
    })
  }

  signal(name) {
    this.#child.kill(name)
  }

  async end(signal = 'SIGKILL') {
    this.signal(signal)
    await this.ended
  }
}

export function binary() {
  if (fs.existsSync(BINARY)) return BINARY
  throw new Error(`${BINARY} is missing: run "cargo build" in the repository, or set SCANLOGIN_BIN`)
}

export class Service {
  /** `settings` are environment names without SCANLOGIN_. */
  static async start(settings = {}) {
    const service = new Service()
    service.settings = {
      LISTEN: '127.0.0.1:0',
      OPS_LISTEN: '127.0.0.1:0',
      DRAIN_DELAY: 0,
      LIMITS: 'off',
      // Searched with the log.
      AUDIT_LOG: '-',
      AUDIT_NAMES: 'plain',
      ...settings,
    }
    await service.run()
    return service
  }

  /** Starts it, or starts it again: at the same address. */
  async run() {
    const env = Object.entries(this.settings).map(([name, value]) => [`SCANLOGIN_${name}`, String(value)])
    this.process = new Process(binary(), [], Object.fromEntries(env))
    const [, url, address, ops] = await this.process.says(/listening .*public_url="([^"]+)" listen=(\S+) ops_listen=(\S+)/)
    this.url = url
    this.ops = `http://${ops}`
    this.address = address
    this.settings.LISTEN = address
  }

  kill() {
    return this.process.end('SIGKILL')
  }

  stop() {
    return this.process.end('SIGTERM')
  }

  /** The sum of a metric over all its labels. */
  async metric(name) {
    const text = await (await fetch(`${this.ops}/metrics`)).text()
    const lines = text.split('\n').filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  }

  /** The next calls of the simulated WeChat misbehave. */
  async fault(fault) {
    const url = new URL('/simulator/faults', this.url)
    const reply = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(fault),
    })
    if (!reply.ok) throw new Error(`a fault was refused: ${reply.status} ${await reply.text()}`)
  }
}

/** A stable address in front of one that may change or go away. */
export class Wire {
  #sockets = new Set()
  #whole = true

  static async lay() {
    const wire = new Wire()
    wire.server = net.createServer((near) => wire.#join(near))
    await new Promise((resolve) => { wire.server.listen(0, '127.0.0.1', resolve) })
    wire.url = `http://127.0.0.1:${wire.server.address().port}`
    return wire
  }

  /** Where it leads, as `host:port`. */
  leadTo(address) {
    const [host, port] = address.split(':')
    this.target = { host, port: Number(port) }
  }

  #join(near) {
    if (!this.#whole) {
      near.destroy()
      return
    }
    const far = net.connect(this.target)
    for (const [socket, other] of [[near, far], [far, near]]) {
      this.#sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        this.#sockets.delete(socket)
        other.destroy()
      })
      socket.pipe(other)
    }
  }

  cut() {
    this.#whole = false
    for (const socket of this.#sockets) socket.destroy()
  }

  mend() {
    this.#whole = true
  }

  async stop() {
    this.cut()
    await new Promise((resolve) => { this.server.close(resolve) })
  }
}

/** Ports that were given away, to be listened on later. */
const given = new Set()

export async function freePort() {
  const server = net.createServer()
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  const { port } = server.address()
  await new Promise((resolve) => { server.close(resolve) })
  if (given.has(port)) return freePort()
  given.add(port)
  return port
}

export class Redis {
  static async start() {
    const redis = new Redis()
    redis.port = await freePort()
    redis.url = `redis://127.0.0.1:${redis.port}`
    await redis.run()
    return redis
  }

  /** Starts it with nothing in it. */
  async run() {
    const args = ['--port', this.port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', os.tmpdir()]
    this.process = new Process('redis-server', args.map(String))
    await this.process.says(/Ready to accept connections/).catch((error) => {
      const missing = String(this.process.how).includes('ENOENT')
      throw missing ? new Error('redis-server is missing: apt-get install redis-server') : error
    })
  }

  /** It hangs: connections stay open, nothing is answered. */
  freeze() {
    this.process.signal('SIGSTOP')
  }

  thaw() {
    this.process.signal('SIGCONT')
  }

  kill() {
    return this.process.end('SIGKILL')
  }
}

/**
 * As in production: a replica, its Redis, and WeChat (simulated) elsewhere. Browsers come
 * over `wire`, so that theirs can be cut; phones over one of their own.
 */
export class Installation {
  static async start(settings = {}) {
    const all = new Installation()
    try {
      await all.#run(settings)
    } catch (error) {
      await all.stop()
      throw error
    }
    return all
  }

  async #run(settings) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-browser-'))
    const keys = path.join(this.dir, 'keys.json')
    execFileSync(binary(), ['keys', 'new', '--out', keys], { stdio: 'pipe', env: { PATH: process.env.PATH } })
    this.redis = await Redis.start()
    this.wire = await Wire.lay()
    this.phoneWire = await Wire.lay()
    this.simulator = new Process(binary(), ['simulate', '--listen', '127.0.0.1:0', '--service-url', this.phoneWire.url])
    const [, simulator] = await this.simulator.says(/simulating WeChat addr=(\S+)/)
    this.service = await Service.start({
      REDIS_URL: this.redis.url,
      SIGNING_KEYS_FILE: keys,
      WECHAT_API_BASE: `http://${simulator}`,
      SIMULATOR: 'true',
      PUBLIC_URL: this.wire.url,
      ...settings,
    })
    this.wire.leadTo(this.service.address)
    this.phoneWire.leadTo(this.service.address)
  }

  /** However far it came. */
  async stop() {
    const { redis, service, simulator, wire, phoneWire } = this
    redis?.thaw()
    await Promise.all([service?.kill(), simulator?.end(), redis?.kill()])
    await Promise.all([wire?.stop(), phoneWire?.stop()])
    fs.rmSync(this.dir, { recursive: true })
  }
}
