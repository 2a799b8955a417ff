// As in production: two replicas behind an nginx that speaks TLS, their Redis, WeChat (simulated) elsewhere, and somebody's shop with
// one of the libraries, at an origin of another site.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Chromium, reaches } from '../../browser/support/chromium.mjs'
import { Process, Redis, Service, binary, freePort } from '../../browser/support/service.mjs'
import { until } from '../../browser/support/until.mjs'
import { learn } from '../../support/leaks.mjs'
import { program } from './howto.mjs'

const HERE = fileURLToPath(new URL('..', import.meta.url))

/** A person's browser takes the certificate that no authority of its own gave. */
const TRUSTING = { ignoreHTTPSErrors: true }

/** Who scans, unless a test says otherwise: the simulator's first person. */
export const SUB = 'o-simulated-xiaoming'

/** An authority that lasts as long as the test, and a certificate of its for 127.0.0.1. */
function certify(dir) {
  const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })
  const fresh = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
  openssl(...fresh, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=an authority for a test')
  const leaf = ['-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE']
  openssl(...fresh, '-keyout', 'tls.key', '-out', 'tls.pem', '-subj', '/CN=127.0.0.1', ...leaf, '-CA', 'ca.pem', '-CAkey', 'ca.key')
}

/** Consecutive requests go to different replicas: no connection to one is kept. */
function configuration({ port, phonePort, replicas }) {
  const proxy = 'proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; '
    + 'proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;'
  const locations = `location / { ${proxy} } location /events/ { ${proxy} proxy_buffering off; proxy_read_timeout 1h; }`
  return `daemon off; master_process off; pid nginx.pid; error_log error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream replicas { ${replicas.map((address) => `server ${address};`).join(' ')} }
  server { listen 127.0.0.1:${port} ssl; ssl_certificate tls.pem; ssl_certificate_key tls.key; ${locations} }
  server { listen 127.0.0.1:${phonePort}; ${locations} }
}
`
}

export class World {
  #running = []

  /** `table` is what the shop's [[client]] says beyond its name: a function of the shop's address. */
  static async start(table) {
    const world = new World()
    try {
      await world.#run(table)
    } catch (error) {
      await world.stop()
      throw error
    }
    return world
  }

  async #run(table) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-libraries-'))
    this.ca = path.join(this.dir, 'ca.pem')
    certify(this.dir)
    const keys = path.join(this.dir, 'keys.json')
    execFileSync(binary(), ['keys', 'new', '--alg', 'ES256,RS256', '--out', keys], { stdio: 'pipe', env: { PATH: process.env.PATH } })
    const [port, phonePort, shopPort] = [await freePort(), await freePort(), await freePort()]
    this.login = `https://127.0.0.1:${port}`
    this.shop = `http://localhost:${shopPort}`
    this.secret = randomBytes(24).toString('base64url')
    learn('a client secret', this.secret)
    const file = path.join(this.dir, 'scanlogin.toml')
    const client = { client_id: 'shop', name: 'The Shop', redirect_uris: [`${this.shop}/callback`], ...table(this) }
    const lines = Object.entries(client).map(([name, value]) => `${name} = ${JSON.stringify(value)}\n`).join('')
    // Another site, so that ours is not the only one.
    fs.writeFileSync(file, `[[client]]\n${lines}\n[[client]]\nclient_id = "blog"\nclient_secret = "${randomBytes(24).toString('hex')}"\n`, { mode: 0o600 })

    this.redis = await Redis.start()
    const simulator = this.runs(binary(), ['simulate', '--listen', '127.0.0.1:0', '--service-url', `http://127.0.0.1:${phonePort}`])
    const [, wechat] = await simulator.says(/simulating WeChat addr=(\S+)/)
    const settings = {
      CONFIG: file, REDIS_URL: this.redis.url, SIGNING_KEYS_FILE: keys, WECHAT_API_BASE: `http://${wechat}`, SIMULATOR: 'true', PUBLIC_URL: this.login,
      TRUSTED_PROXIES: '127.0.0.1/32',
    }
    this.replicas = await Promise.all([Service.start(settings), Service.start(settings)])
    fs.writeFileSync(path.join(this.dir, 'nginx.conf'), configuration({ port, phonePort, replicas: this.replicas.map(({ address }) => address) }))
    const nginx = this.runs('nginx', ['-p', this.dir, '-c', 'nginx.conf', '-e', 'error.log'])
    await this.answers(`http://127.0.0.1:${phonePort}/jwks.json`, nginx)
  }

  runs(command, args, env) {
    const process = new Process(command, args, env)
    this.#running.push(process)
    return process
  }

  /** A program of docs/howto.md as a file: beside the libraries that it imports. */
  write(name, change = (text) => text) {
    const dir = name.endsWith('.mjs') ? fs.mkdtempSync(path.join(HERE, 'node_modules', '.howto-')) : this.dir
    if (dir !== this.dir) this.written = dir
    const file = path.join(dir, name)
    fs.writeFileSync(file, change(program(name, this)))
    return file
  }

  /** Runs one, and waits until its shop is open. */
  async opens(command, args, env) {
    const shop = this.runs(command, args, { NODE_EXTRA_CA_CERTS: this.ca, REQUESTS_CA_BUNDLE: this.ca, ...env })
    await this.answers(`${this.shop}/`, shop)
    return shop
  }

  answers(url, by) {
    return until(`${url} answers`, () => {
      if (by.how !== undefined) throw new Error(`${by.program} ended (${by.how}):\n${by.log}`)
      return fetch(url, { redirect: 'manual' }).catch(() => null)
    })
  }

  /** How many requests each replica has answered. */
  answered() {
    return Promise.all(this.replicas.map((replica) => replica.metric('scanlogin_http_request_seconds_count')))
  }

  /** However far it came. */
  async stop() {
    await Promise.all([...this.#running.map((process) => process.end()), ...(this.replicas ?? []).map((replica) => replica.kill()), this.redis?.kill()])
    for (const dir of [this.dir, this.written]) if (dir) fs.rmSync(dir, { recursive: true })
  }
}

/** Gives the file's `it`: each test plays on a stage of its own, in the one world, whose shop `open` opens. */
export function withShop(table, open) {
  let [chromium, world] = []
  before(async () => {
    world = await World.start(table)
    await open(world)
    chromium = await Chromium.launch()
  })
  after(async () => {
    const answered = await world?.answered().catch(() => [])
    await chromium?.close()
    await world?.stop()
    if (chromium) assert.ok(Math.min(...answered) > 5, `each replica had its share: ${answered}`)
  })
  return (name, play) => test(name, () => chromium.stage(name, async (stage) => {
    stage.tolerate(/favicon\.ico$/)
    await play(stage, world)
    // Before the shop goes away, which a page would complain of.
    await stage.clear()
  }))
}

/** A person comes to the shop by `come`, which ends on the way to the page with the code. */
export async function sentToLogin(stage, come) {
  const context = await stage.person(TRUSTING)
  const page = await context.newPage()
  await come(page)
  await reaches(page, 'waiting')
  return page
}
