// The image, run as a container that may do next to nothing, by podman: a whole login through it, against a real redis-server. It stands
// on the network of this machine, since a bridge of its own is not everywhere to be had.

import assert from 'node:assert/strict'
import { execFile, execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import https from 'node:https'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Process, Redis, binary, freePort } from '../browser/support/service.mjs'
import { until } from '../browser/support/until.mjs'
import { ROOT, image, read } from './support/files.mjs'
import { Person } from './support/people.mjs'

const TAG = 'localhost/scanlogin:test'
const AUTHORITIES = '/etc/ssl/certs/ca-certificates.crt'
const VERSION = /^version = "(.+)"$/m.exec(read('Cargo.toml'))[1]
/** Where crun can't set up a container in a container, runc can, with limits that it does not have to raise. */
const RUNTIMES = [[], ['--runtime', 'runc']]
const LIMITS = [[], ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1000:1000']]

const podman = (...args) => execFileSync('podman', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

/** What this machine's podman runs containers with. */
function engine() {
  const tried = RUNTIMES.map((runtime, n) => {
    const { status, stderr } = spawnSync('podman', [...runtime, 'run', '--rm', '--no-healthcheck', ...LIMITS[n], TAG, '--version'], { encoding: 'utf8' })
    return { runtime, limits: LIMITS[n], status, stderr }
  })
  const found = tried.find(({ status }) => status === 0)
  assert.ok(found, tried.map(({ stderr }) => stderr).join('\n'))
  return found
}

describe('the image', { timeout: 900_000 }, () => {
  let [runtime, limits, dir, keys, redis, simulator, origin, container] = []
  const names = []

  /** As tight as docker-compose.yml has it. */
  const run = (args, { settings = {}, mounts = [] } = {}) => [
    ...runtime, 'run', '--rm', '--network', 'host', '--read-only', '--read-only-tmpfs=false', '--cap-drop', 'all',
    '--security-opt', 'no-new-privileges', '--health-interval', 'disable', ...limits,
    ...mounts.flatMap((mount) => ['--volume', mount]), ...Object.entries(settings).flatMap((setting) => ['--env', setting.join('=')]), ...args,
  ]

  /** A service with these settings, once it says where it listens. */
  async function serve(settings, mounts) {
    const name = `scanlogin-test-${process.pid}-${names.length}`
    names.push(name)
    const all = { NO_COLOR: '1', SCANLOGIN_LISTEN: `127.0.0.1:${await freePort()}`, SCANLOGIN_OPS_LISTEN: `127.0.0.1:${await freePort()}`, ...settings }
    const running = new Process('podman', run(['--name', name, TAG], { settings: all, mounts }))
    await running.says(/listening .*public_url=/)
    return { name, process: running, ops: `http://${all.SCANLOGIN_OPS_LISTEN}`, origin: `http://${all.SCANLOGIN_LISTEN}` }
  }

  before(async () => {
    execFileSync(fileURLToPath(new URL('scripts/image', ROOT)), [TAG], { stdio: 'inherit' });
    ({ runtime, limits } = engine())
    dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-image-'))
    keys = `scanlogin-test-${process.pid}`
    redis = await Redis.start()
    const port = await freePort()
    origin = `http://127.0.0.1:${port}`
    simulator = new Process(binary(), ['simulate', '--listen', '127.0.0.1:0', '--service-url', origin])
    const [, wechat] = await simulator.says(/simulating WeChat addr=(\S+)/)
    podman(...run(['--volume', `${keys}:/keys`, TAG, 'keys', 'new', '--out', '/keys/signing-keys.json']))
    container = await serve({
      SCANLOGIN_LISTEN: `127.0.0.1:${port}`, SCANLOGIN_REDIS_URL: redis.url, SCANLOGIN_SIGNING_KEYS_FILE: '/keys/signing-keys.json',
      SCANLOGIN_WECHAT_API_BASE: `http://${wechat}`, SCANLOGIN_SIMULATOR: 'true', SCANLOGIN_PUBLIC_URL: origin,
    }, [`${keys}:/keys:ro`])
    container.wechat = `http://${wechat}`
  })

  after(async () => {
    for (const name of names) spawnSync('podman', [...runtime ?? [], 'rm', '--force', '--ignore', name])
    if (keys) spawnSync('podman', ['volume', 'rm', '--force', keys])
    await Promise.all([simulator?.end(), redis?.kill()])
    if (dir) fs.rmSync(dir, { recursive: true })
  })

  it('is small, and says what it is', (t) => {
    const [{ Size: size, Config: { Labels: labels, User: user } }] = JSON.parse(podman('image', 'inspect', TAG))
    t.diagnostic(`${(size / 1e6).toFixed(1)} MB`)
    assert.ok(size < 25e6, `${size} bytes`)
    assert.equal(user, '65532:65532')
    assert.equal(podman(...run([TAG, '--version'])).trim(), `scanlogin ${VERSION}`)
    const label = (name) => labels[`org.opencontainers.image.${name}`]
    assert.deepEqual([label('version'), label('licenses')], [VERSION, 'MIT'])
    assert.equal(image().version, VERSION, 'what Dockerfile says where nobody tells it')
    assert.match(label('revision'), /^[0-9a-f]{40}$/)
    assert.notEqual(label('source'), undefined)
  })

  it('holds the program, what it trusts and what it is built from, and nothing that could be run besides', () => {
    const made = podman('create', TAG).trim()
    try {
      const tar = path.join(dir, 'image.tar')
      podman('export', '--output', tar, made)
      const list = execFileSync('tar', ['-tvf', tar], { encoding: 'utf8' }).trim().split('\n')
      const files = list.filter((line) => line.startsWith('-')).map((line) => line.split(/\s+/)).map(([mode, owner, size, , , name]) => ({ mode, owner, size: Number(size), name }))
      // What an engine puts there itself is empty.
      const held = files.filter(({ size }) => size > 0).map(({ name }) => name).sort()
      assert.deepEqual(held, [AUTHORITIES.slice(1), 'scanlogin', 'usr/share/doc/scanlogin/LICENSE', 'usr/share/doc/scanlogin/sbom.cdx.json'])
      assert.deepEqual(files.filter(({ mode }) => mode.includes('x')).map(({ name }) => name), ['scanlogin'])
      assert.ok(files.every(({ owner }) => /^(0|root)\/(0|root)$/.test(owner)), 'root owns all, and the user who runs it can change none')
      const take = (name) => execFileSync('tar', ['-xOf', tar, name], { encoding: 'utf8', maxBuffer: 1e9 })
      assert.equal(take(AUTHORITIES.slice(1)), fs.readFileSync(AUTHORITIES, 'utf8'))
      const { components, metadata } = JSON.parse(take('usr/share/doc/scanlogin/sbom.cdx.json'))
      assert.equal(metadata.component.version, VERSION)
      const found = Object.fromEntries(components.map(({ name, hashes }) => [name, hashes?.[0].content]))
      for (const name of ['axum', 'fred', 'ring', 'tikv-jemallocator']) assert.match(found[name], /^[0-9a-f]{64}$/, name)
      assert.equal(found.proptest, undefined, 'what only tests need is not in it')
    } finally {
      podman('rm', '--force', made)
    }
  })

  it('runs with nothing to write to, no capabilities and no root, and logs a person in', async () => {
    const [, pid] = /^(\d+)$/m.exec(podman('inspect', '--format', '{{.State.Pid}}', container.name))
    const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8')
    const field = (name) => new RegExp(`^${name}:\\s+(.+)$`, 'm').exec(status)[1].split(/\s+/)
    assert.deepEqual(field('Uid'), ['65532', '65532', '65532', '65532'])
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.deepEqual(field(set), ['0000000000000000'], set)
    assert.deepEqual(field('NoNewPrivs'), ['1'])
    const mounts = fs.readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n').map((line) => line.split(' '))
    const options = Object.fromEntries(mounts.filter((mount) => mount.length > 5).map((mount) => [mount[4], mount[5].split(',')]))
    for (const place of ['/', '/keys']) assert.ok(options[place].includes('ro'), `${place}: ${options[place]}`)

    await until('it is ready', async () => (await fetch(`${container.ops}/readyz`)).ok)
    const person = new Person(origin)
    // The phone's own calls go to the simulator: nothing stands in front of both here.
    const phone = new Person(container.wechat)
    const ask = person.ask.bind(person)
    person.ask = (method, at, options) => (at.startsWith('/simulator/') ? phone.ask(method, at, options) : ask(method, at, options))
    await person.start()
    assert.equal(await person.picture(), 200)
    await person.confirm()
    await person.redeem()
  })

  it('is asked for its health by itself', async () => {
    const healthy = () => new Promise((resolve) => {
      execFile('podman', [...runtime, 'healthcheck', 'run', container.name], (error) => resolve(!error))
    })
    assert.equal(await healthy(), true)
    // Nobody there: the same words, in a container where nothing else runs.
    const { status, stderr } = spawnSync('podman', run([TAG, 'healthcheck'], { settings: { SCANLOGIN_OPS_LISTEN: `127.0.0.1:${await freePort()}` } }), { encoding: 'utf8' })
    assert.equal(status, 1, stderr)
    assert.match(stderr, /SCANLOGIN_OPS_LISTEN/)
  })

  it('gives a volume that is new to the user who runs it, and finds its keys there again', () => {
    const place = podman('volume', 'inspect', '--format', '{{.Mountpoint}}', keys).trim()
    const file = path.join(place, 'signing-keys.json')
    const { uid, mode } = fs.statSync(file)
    assert.deepEqual([fs.statSync(place).uid, uid, mode & 0o777], [65532, 65532, 0o600])
    const made = fs.readFileSync(file, 'utf8')
    podman(...run(['--volume', `${keys}:/keys`, TAG, 'keys', 'new', '--out', '/keys/signing-keys.json']))
    assert.equal(fs.readFileSync(file, 'utf8'), made)
  })

  it('trusts the authorities that it holds, and no other', async () => {
    const own = (name) => path.join(dir, name)
    const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })
    const fresh = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
    openssl(...fresh, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=an authority for a test')
    openssl(...fresh, '-keyout', 'tls.key', '-out', 'tls.pem', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1',
      '-addext', 'basicConstraints=critical,CA:FALSE', '-CA', 'ca.pem', '-CAkey', 'ca.key')
    let asked = 0
    const server = https.createServer({ key: fs.readFileSync(own('tls.key')), cert: fs.readFileSync(own('tls.pem')) }, (request, response) => {
      asked += 1
      response.end('{"errcode":-1,"errmsg":"busy"}')
    })
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    const settings = {
      SCANLOGIN_WECHAT_API_BASE: `https://127.0.0.1:${server.address().port}`, SCANLOGIN_WECHAT_APPID: 'wx0123456789abcdef',
      SCANLOGIN_WECHAT_SECRET: 'x'.repeat(32),
    }
    try {
      const stranger = await serve(settings)
      await stranger.process.says(/UnknownIssuer/)
      assert.equal(asked, 0)
      // The same file with one more: it is where it looks.
      fs.writeFileSync(own('authorities.pem'), fs.readFileSync(AUTHORITIES, 'utf8') + fs.readFileSync(own('ca.pem'), 'utf8'), { mode: 0o644 })
      fs.chmodSync(dir, 0o755)
      await serve(settings, [`${own('authorities.pem')}:${AUTHORITIES}:ro`])
      await until('it is asked for a token', () => asked > 0)
    } finally {
      server.closeAllConnections()
      server.close()
    }
    assert.match(fs.readFileSync(AUTHORITIES, 'utf8'), /BEGIN CERTIFICATE/)
  })

  it('ends when it is asked to, in time', async () => {
    const asked = performance.now()
    podman(...runtime, 'kill', '--signal', 'TERM', container.name)
    await container.process.ended
    assert.equal(container.process.how, 0, container.process.log)
    assert.ok(performance.now() - asked < 10_000)
  })
})
