// docs/operations.md, word by word: its blocks in one shell, in an empty directory, in a network of its own, where its ports are free
// (scripts/test gives it one). People log in meanwhile.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, it } from 'node:test'
import { binary } from '../browser/support/service.mjs'
import { pause, until } from '../browser/support/until.mjs'
import { assertNone } from '../support/leaks.mjs'
import { read } from './support/files.mjs'
import { Person, Record } from './support/people.mjs'

const ORIGIN = 'http://127.0.0.1:8080'

/** What the page has the reader type, by the block's name. */
const blocks = Object.fromEntries([...read('docs/operations.md').matchAll(/^```sh ([a-z-]+)\n(.*?)^```$/gms)].map(([, name, text]) => [name, text]))

/** Logs people in, one after the other, while `act` goes on. */
async function whilePeopleLogIn(act) {
  const record = new Record()
  let over = false
  const coming = (async () => {
    for (; !over; await pause(200)) await new Person(ORIGIN, record).logIn()
  })()
  // If it fails, the one below says so.
  coming.catch(() => null)
  try {
    await act(record)
  } finally {
    over = true
  }
  await coming
  assert.deepEqual(record.refused, [])
}

/** Whoever follows the page. */
class Reader {
  #said = ''

  constructor() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-operations-'))
    const env = { HOME: this.dir, PATH: `${path.dirname(binary())}:${process.env.PATH}`, NO_COLOR: '1' }
    this.shell = spawn('bash', ['--norc', '-eu'], { cwd: this.dir, env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.ended = new Promise((resolve) => { this.shell.once('exit', resolve) })
    for (const stream of [this.shell.stdout, this.shell.stderr]) stream.on('data', (chunk) => { this.#said += chunk })
  }

  /** Types this, and gives what was said until all of it was done. */
  async types(text) {
    const done = `done-${randomBytes(8).toString('hex')}`
    const from = this.#said.length
    this.shell.stdin.write(`${text}\necho ${done}\n`)
    await until(`the reader has done: ${text.slice(0, 60)}`, () => {
      assert.equal(this.shell.exitCode, null, this.#said.slice(from))
      return this.#said.includes(`${done}\n`)
    }, 90_000)
    return this.#said.slice(from)
  }

  logs() {
    const names = fs.readdirSync(this.dir).filter((name) => name.endsWith('.log'))
    return Object.fromEntries(names.map((name) => [name, fs.readFileSync(path.join(this.dir, name), 'utf8')]))
  }

  pid(name) {
    return Number(fs.readFileSync(path.join(this.dir, `${name}.pid`), 'utf8'))
  }

  /** Ends what it started, each by its pid. */
  async leaves() {
    for (const file of fs.readdirSync(this.dir).filter((name) => name.endsWith('.pid'))) process.kill(this.pid(file.slice(0, -4)))
    this.shell.stdin.end('wait\n')
    await this.ended
    fs.rmSync(this.dir, { recursive: true })
  }
}

describe('docs/operations.md', { timeout: 240_000 }, () => {
  const reader = new Reader()

  before(async () => {
    assert.match(await reader.types(blocks['by-hand']), /^\d+ ok, 1 warning, 0 failed, 1 skipped$/m, 'the doctor finds nothing wrong')
  })

  after(() => reader.leaves())

  it('sets up an installation that logs people in', async () => {
    for (let n = 0; n < 10; n += 1) await new Person(ORIGIN).logIn()
    const both = Object.values(reader.logs()).filter((log) => log.includes('listening public_url="http://127.0.0.1:8080"'))
    assert.equal(both.length, 2)
  })

  it('rolls its replicas, and nobody notices', async () => {
    const before = [1, 2].map((n) => reader.pid(`replica-${n}`))
    await whilePeopleLogIn(async (record) => {
      const open = Array.from({ length: 50 }, () => new Person(ORIGIN, record))
      for (const person of open) await person.start()
      await reader.types(blocks.roll)
      for (const person of open) {
        await person.confirm()
        await person.redeem()
      }
      assert.ok(record.reopened.length >= open.length, `${record.reopened.length} streams came back`)
    })
    const now = [1, 2].map((n) => reader.pid(`replica-${n}`))
    assert.ok(now.every((pid, n) => pid !== before[n]), 'other processes serve')
  })

  it('changes its signing keys in three steps, and nobody notices', async () => {
    const published = async () => (await (await fetch(`${ORIGIN}/jwks.json`)).json()).keys.map(({ kid }) => kid)
    const signing = async () => {
      const person = new Person(ORIGIN)
      await person.logIn()
      return person.signedBy
    }
    const [old] = await published()
    await whilePeopleLogIn(async () => {
      await reader.types(blocks['keys-behind'])
      const [first, next, ...others] = await published()
      assert.deepEqual([first, others], [old, []])
      assert.equal(await signing(), old, 'what is published does not sign yet')
      await reader.types(blocks['keys-first'])
      await until('the new key signs at both replicas', async () => {
        const both = [await signing(), await signing(), await signing(), await signing()]
        return both.every((kid) => kid === next)
      })
      assert.ok((await published()).includes(old), 'the old one is still there')
      await reader.types(blocks['keys-out'])
      assert.deepEqual(await published(), [next])
      assert.equal(await signing(), next)
    })
  })

  it('leaves nothing in its logs but what may be there', () => assertNone(binary(), reader.logs()))
})
