// docker-compose.yml: what `docker compose up` gives, what stays while replicas come and go, and that its words are those of the binary.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { after, before, describe, it } from 'node:test'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { binary } from '../browser/support/service.mjs'
import { pause, until } from '../browser/support/until.mjs'
import { ROOT, image, merged, read, services, variablesOf } from './support/files.mjs'
import { Person, Record } from './support/people.mjs'
import { Stack } from './support/stack.mjs'

/** Who stands in front, and the files that have it so. */
const FILES = { nginx: ['docker-compose.yml'], HAProxy: ['docker-compose.yml', 'compose/haproxy.yml'] }
/** Streams that are open while every replica is restarted. */
const STREAMS = Number(process.env.TEST_ROLLED_STREAMS ?? 300)
/** How often a replica closes under requests: what is lost then is lost once or so each time. */
const CLOSED = 6
/** Logins that begin in a second meanwhile. */
const RATE = 5
/** The most of them that may come back within a second: they end within 3 s, and each is told to wait for 1 to 5 s, which makes a
    quarter in the busiest second. Where we ourselves were late by so many seconds, it is as if it had been longer; and there is what so
    many dice do (four standard deviations), and a twentieth for others who are late. */
const crowd = (streams, late) => (1 + late) / 4 + 4 * Math.sqrt(3 / 16 / streams) + 1 / 20
/** Every variable of .env.example, with some value. */
const FILLED = Object.fromEntries([...read('.env.example').matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name, value || 'a'.repeat(48)]))

/** In one line, wherever it is broken. */
const helpOf = (...words) => execFileSync(binary(), [...words, '--help'], { encoding: 'utf8', env: { PATH: process.env.PATH } }).replaceAll(/\s+/g, ' ')

/** How many of `these` at the same time. */
async function eachOf(these, play, atOnce = 16) {
  const left = [...these]
  await Promise.all(Array.from({ length: atOnce }, async () => {
    for (let next = left.shift(); next; next = left.shift()) await play(next)
  }))
}

/** Logs people in, some every second, while `act` goes on: how many there were, each with all that it takes. */
async function whilePeopleLogIn(stack, act) {
  const [record, logins] = [new Record(), []]
  let over = false
  const coming = (async () => {
    while (!over) {
      const login = new Person(stack.origin, record).logIn()
      login.catch(() => null)
      logins.push(login)
      await pause(1000 / RATE)
    }
  })()
  try {
    await act(record)
  } finally {
    over = true
    await coming
  }
  await Promise.all(logins)
  assert.deepEqual(record.refused, [], 'nobody is refused anything')
  return `${logins.length} logins (${record.picturesGivenUp} of their pictures given up)`
}

/** The largest share of these times, in milliseconds, that lies within any one second. */
function busiest(times) {
  const sorted = [...times].sort((a, b) => a - b)
  const counts = sorted.map((from, n) => sorted.slice(n).filter((at) => at < from + 1000).length)
  return Math.max(...counts) / sorted.length
}

describe('the words of docker-compose.yml', () => {
  const files = ['docker-compose.yml', 'compose/wechat.yml', 'compose/haproxy.yml']

  it('are settings that there are, of the program that they are for', () => {
    const known = { simulator: helpOf('simulate'), scanlogin: helpOf() }
    const named = files.flatMap((file) => Object.entries(services(file, FILLED)).flatMap(([service, { environment = {} }]) => {
      return Object.keys(environment).filter((name) => name.startsWith('SCANLOGIN_')).map((name) => [service, name])
    }))
    named.push(...Object.keys(image().environment).map((name) => ['scanlogin', name]))
    assert.ok(named.length > 15, 'the files are read')
    // What may be secret stands there without a value.
    const isKnown = (service, name) => [`[env: ${name}=`, `[env: ${name}]`].some((words) => known[service].includes(words))
    const unknown = named.filter(([service, name]) => !isKnown(service, name))
    assert.deepEqual(unknown, [])
  })

  it('take nothing from outside that .env.example does not name, and it names nothing else', () => {
    const variables = new Set(files.flatMap(variablesOf).map(({ variable }) => variable))
    assert.deepEqual([...variables, 'COMPOSE_FILE'].sort(), Object.keys(FILLED).sort())
    for (const file of FILLED.COMPOSE_FILE.split(':')) assert.ok(files.includes(file), file)
  })

  it('are believed on nobody but the proxy, at the one address that is its own', () => {
    const { nginx, scanlogin, haproxy } = merged(files.filter((file) => file !== 'compose/wechat.yml'))
    for (const proxy of [nginx, haproxy]) {
      assert.equal(scanlogin.environment.SCANLOGIN_TRUSTED_PROXIES, `${proxy.networks.inside.ipv4_address}/32`)
    }
    assert.equal(nginx.deploy.replicas, 0, 'only one of them has it')
  })

  it('keep every container of ours from what it does not need', () => {
    const all = merged(files.filter((file) => file !== 'compose/wechat.yml'))
    for (const [name, service] of Object.entries(all)) {
      if (service.image !== 'scanlogin' && !['nginx', 'haproxy'].includes(name)) continue
      const { read_only: readOnly, cap_drop: dropped, security_opt: options } = service
      assert.deepEqual({ name, readOnly, dropped, options }, { name, readOnly: true, dropped: ['ALL'], options: ['no-new-privileges:true'] })
    }
    const published = Object.values(all).flatMap(({ ports = [] }) => ports)
    assert.deepEqual(published.filter((port) => !port.startsWith('127.0.0.1:')), [])
  })

  it('are a compose file to docker-compose, by themselves, with HAProxy and with real credentials', (t) => {
    if (spawnSync('docker-compose', ['version']).error) {
      t.skip('docker-compose is not installed')
      return
    }
    for (const args of [...Object.values(FILES), files].map((some) => some.flatMap((file) => ['-f', file]))) {
      const options = { cwd: fileURLToPath(ROOT), encoding: 'utf8', env: { PATH: process.env.PATH, ...FILLED } }
      const { status, stderr } = spawnSync('docker-compose', [...args, 'config', '--quiet'], options)
      assert.equal(status, 0, stderr)
    }
  })
})

describe('docker compose up', { timeout: 300_000 }, () => {
  let stack
  before(async () => { stack = await Stack.start() })
  after(() => stack?.stop())

  it('keeps the signing keys that it made, where only their owner reads them', async () => {
    const file = path.join(stack.dir, 'keys', 'signing-keys.json')
    const [made, { mode }] = [fs.readFileSync(file, 'utf8'), fs.statSync(file)]
    assert.equal(mode & 0o777, 0o600)
    const { process } = await stack.startProgram('keys')
    await process.ended
    assert.equal(process.how, 0, process.log)
    assert.equal(fs.readFileSync(file, 'utf8'), made)
  })

  it('has a Redis that wants its password, forgets nothing to make room, and is sick without either', async () => {
    const ask = (...words) => execFileSync('redis-cli', ['-p', stack.ports.redis, ...words], { encoding: 'utf8', env: { PATH: process.env.PATH, ...stack.redis.environment } }).trim()
    assert.match(execFileSync('redis-cli', ['-p', stack.ports.redis, 'ping'], { encoding: 'utf8', env: { PATH: process.env.PATH } }), /NOAUTH/)
    assert.match(ask('config', 'get', 'maxmemory-policy'), /noeviction$/)
    assert.match(ask('config', 'get', 'appendonly'), /yes$/)
    assert.equal(await stack.check('redis', stack.redis), null)
    assert.match(await stack.check('redis', { environment: { REDISCLI_AUTH: 'another' } }), /Command failed/)
  })

  it('goes on with the logins under way when Redis is restarted', async () => {
    const people = Array.from({ length: 5 }, () => new Person(stack.origin))
    await Promise.all(people.map((person) => person.start()))
    await stack.redis.process.end('SIGTERM')
    await stack.startRedis()
    await until('Redis is healthy', async () => !await stack.check('redis', stack.redis))
    // A replica tries again after a moment of its own.
    await until('a login works', () => new Person(stack.origin).logIn().then(() => true, () => false))
    await Promise.all(people.map(async (person) => {
      await person.confirm()
      await person.redeem()
    }))
  })

  it('has no simulated phone when it is set up with real credentials', async () => {
    const mounts = services('compose/wechat.yml', FILLED).nginx.volumes
    assert.deepEqual(mounts, ['/dev/null:/etc/nginx/simulator.conf:ro'])
    const there = await new Person(stack.origin).ask('GET', '/simulator/phone')
    there.resume()
    await stack.proxy.tell(['simulator.conf'])
    const gone = await new Person(stack.origin).ask('GET', '/simulator/phone')
    assert.deepEqual([there.statusCode, gone.statusCode], [200, 404])
    gone.resume()
  })
})

for (const [proxy, files] of Object.entries(FILES)) {
  describe(`docker compose up with ${proxy}`, { timeout: 600_000 }, () => {
    let stack
    before(async () => { stack = await Stack.start(files) })
    after(() => stack?.stop())

    it('gives the demo site and logs a person in, by three replicas', async () => {
      assert.equal(stack.replicas.length, 3)
      const had = await stack.answered()
      const person = new Person(stack.origin)
      const page = await person.ask('GET', '/')
      assert.equal(page.statusCode, 200)
      assert.match(await text(page), /<title>/)
      await person.start()
      assert.equal(person.scene.code_url, `${stack.origin}/scenes/${person.scene.scene}/code`)
      assert.equal(await person.picture(), 200)
      const phone = await person.ask('GET', `/simulator/phone?scene=${person.scene.scene}`)
      assert.equal(phone.statusCode, 200)
      phone.resume()
      await person.confirm()
      await person.redeem()
      for (let n = 0; n < 3; n += 1) await new Person(stack.origin).logIn()
      const has = await stack.answered()
      has.forEach((answers, n) => assert.ok(answers > had[n] + 2, `replica ${n} answered ${answers} after ${had[n]}`))
    })

    it('shows the phone where the browser is, whatever the browser says of that', async () => {
      const person = new Person(stack.origin)
      const ask = person.ask.bind(person)
      person.ask = (method, path, { headers, body } = {}) => {
        return ask(method, path, { headers: { ...headers, 'x-forwarded-for': '203.0.113.9', forwarded: 'for=203.0.113.9' }, body })
      }
      await person.start()
      const asked = await person.confirm()
      await person.redeem()
      assert.equal(asked.browser.ip, person.address)
    })

    it('passes a stream on as it comes', async () => {
      const person = new Person(stack.origin)
      const asked = performance.now()
      await person.start()
      assert.ok(performance.now() - asked < 2000, `the first event took ${performance.now() - asked} ms`)
      await person.confirm()
      await person.redeem()
    })

    it('says yes by another replica when the first dies with the question, and repeats nothing that is not safe to repeat', async () => {
      const people = Array.from({ length: 6 }, () => new Person(stack.origin))
      await Promise.all(people.map((person) => person.start()))
      const asked = await Promise.all(people.map((person) => person.scan()))
      const [dying] = stack.replicas
      // It takes whatever comes, and answers nothing.
      dying.process.signal('SIGSTOP')
      const confirmed = Promise.all(people.map((person, n) => person.sayYes(asked[n])))
      const strangers = people.map(() => new Person(stack.origin))
      const started = Promise.all(strangers.map((person) => person.ask('POST', '/scenes')))
      await pause(1000)
      await dying.process.end('SIGKILL')
      stack.replicas = stack.replicas.filter((replica) => replica !== dying)
      await confirmed
      await Promise.all(people.map((person) => person.redeem()))
      const statuses = (await started).map((response) => {
        response.resume()
        return response.statusCode
      })
      assert.ok(statuses.includes(502) && statuses.includes(400), `${statuses}`)
      await stack.addReplica()
      await stack.proxy.tell()
    })

    it('scales from three replicas to five and to two while people log in, and loses none', async (t) => {
      const took = []
      const logins = await whilePeopleLogIn(stack, async () => {
        await pause(1000)
        await Promise.all([stack.addReplica(), stack.addReplica()])
        await stack.proxy.tell()
        await pause(2000)
        const had = await stack.answered()
        await pause(2000)
        const has = await stack.answered()
        assert.ok(has.every((answers, n) => answers > had[n]), `each of five has its share: ${had} and then ${has}`)
        // The proxy is told after they went: until then it finds nobody there, and asks another.
        took.push(...await Promise.all(stack.replicas.slice(0, 3).map((replica) => stack.stopReplica(replica))))
        await stack.proxy.tell()
        await pause(2000)
      })
      t.diagnostic(`${logins} while three replicas became five and two; those that went took ${took.map(Math.round)} ms`)
      await stack.addReplica()
      await stack.proxy.tell()
    })

    it('sends nothing to a replica just as it closes, where a request that is not safe to repeat would be lost', async (t) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 200 })
      const outcomes = {}
      const person = new Person(stack.origin)
      // Nobody keeps count of what there is not.
      const ask = async () => {
        const outcome = await person.ask('POST', '/nothing', { agent }).then(async (response) => {
          await text(response)
          return response.statusCode
        }, ({ code }) => code)
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
      }
      const several = (count) => Promise.all(Array.from({ length: count }, ask))
      for (let n = 0; n < CLOSED; n += 1) {
        // The proxy has connections to each replica now, and leaves them idle.
        await several(150)
        const [replica] = stack.replicas
        let gone = false
        const stopped = stack.stopReplica(replica).finally(() => { gone = true })
        // What is idle when its delay is over is given half a second for a last request.
        await pause(1000 * Number(stack.services.scanlogin.environment.SCANLOGIN_DRAIN_DELAY) + 440)
        while (!gone) await several(15)
        await stopped
        await stack.addReplica()
        await stack.proxy.tell()
      }
      agent.destroy()
      t.diagnostic(`${CLOSED} replicas closed under ${outcomes[404]} requests`)
      assert.deepEqual(Object.keys(outcomes), ['404'], JSON.stringify(outcomes))
    })

    it(`restarts every replica, one by one, under ${STREAMS} streams and people who log in, and loses none`, async (t) => {
      const record = new Record()
      const listening = Array.from({ length: STREAMS }, () => new Person(stack.origin, record))
      const started = performance.now()
      await eachOf(listening, (person) => person.start())
      t.diagnostic(`${STREAMS} streams opened in ${Math.round(performance.now() - started)} ms`)
      const restarts = []
      const logins = await whilePeopleLogIn(stack, async () => {
        for (const replica of [...stack.replicas]) {
          const [asked, had, delays] = [performance.now(), record.reopened.length, monitorEventLoopDelay()]
          delays.enable()
          const took = await stack.stopReplica(replica)
          await stack.addReplica()
          // A container that is restarted may come back elsewhere.
          await stack.proxy.tell()
          // Whoever was cut last waits longest.
          await pause(Math.max(0, asked + 12_000 - performance.now()))
          const cameBack = record.reopened.slice(had).map(({ at }) => at - asked)
          restarts.push({ took, cameBack, late: delays.max / 1e9 })
          delays.disable()
        }
      })
      for (const { took, cameBack, late } of restarts) {
        const share = busiest(cameBack)
        t.diagnostic(`gone after ${Math.round(took)} ms; ${cameBack.length} streams came back, ${Math.round(share * 100)} % of them in the busiest second`)
        assert.ok(cameBack.length > STREAMS / 10, `${cameBack.length} streams came back`)
        assert.ok(share <= crowd(cameBack.length, late), `${share} of ${cameBack.length} came back within a second, where we were late by ${late} s`)
      }
      await eachOf(listening, async (person) => {
        // Of WeChat's budget for phones there are 66 in a second.
        await Promise.all([person.confirm().then(() => person.redeem()), pause(300)])
      })
      t.diagnostic(`${logins} meanwhile, then ${STREAMS} on the streams; ${record.unavailable} times a replica sent one on to another`)
      assert.deepEqual(record.refused, [], 'nobody is refused anything')
    })
  })
}
