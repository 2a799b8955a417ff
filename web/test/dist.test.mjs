// The file that the service serves and npm publishes: it is what the source says, and small.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { test } from 'node:test'
import { INTERNAL, built } from '../build.mjs'
import { WORDS } from '../src/words.js'

const BYTES = 10_000

const file = (name) => new URL(`../${name}`, import.meta.url)
const kept = fs.readFileSync(file('dist/scan-login.js'))

test('the file that is kept is built from what is beside it', () => {
  assert.equal(kept.toString(), built(), 'dist/scan-login.js is not what src says: npm run build')
})

test('what is shortened in it is nothing that is also looked up by its name', () => {
  const sources = fs.readdirSync(file('src')).map((name) => fs.readFileSync(file(`src/${name}`), 'utf8')).join('')
  const types = fs.readFileSync(file('scan-login.d.ts'), 'utf8')
  for (const name of INTERNAL) {
    assert.ok(!(name in WORDS.en), `${name} is a key of the words`)
    assert.doesNotMatch(sources, new RegExp(`['"]${name}['"]`), `${name} is written in quotes`)
    assert.ok(!JSON.stringify(WORDS).includes(`{${name}}`), `${name} is a place to fill in`)
    assert.doesNotMatch(types, new RegExp(`\\b${name}[?]?:`), `${name} is promised to pages`)
    assert.match(sources, new RegExp(`\\b${name}\\b`), `${name} is not there any more`)
  }
})

test(`it is smaller than ${BYTES} bytes by gzip, and docs/measurements.md says how small`, (t) => {
  const { length } = execFileSync('gzip', ['-9', '-c'], { input: kept })
  t.diagnostic(`scan-login.js: ${length} bytes by gzip, ${kept.length} bytes plain`)
  assert.ok(length < BYTES, `${length} bytes`)
  const said = /^\| `<scan-login>`, `gzip -9` \| ([\d,]+) bytes \(([\d.]+) KiB\) \|$/m.exec(fs.readFileSync(file('../docs/measurements.md'), 'utf8'))
  const bytes = Number(said[1].replace(',', ''))
  assert.ok(Math.abs(bytes - length) <= length / 100, `it is ${length} bytes, not ${bytes}`)
  assert.equal(said[2], (bytes / 1024).toFixed(1))
})

test('it can be imported where there is no page', async () => {
  assert.equal(typeof (await import('../dist/scan-login.js')).ScanLogin, 'function')
})

test('no markup is parsed, no code is made of text, nothing is imported', () => {
  const text = kept.toString()
  for (const sink of [/innerHTML/, /outerHTML/, /insertAdjacentHTML/, /document\.write/, /\beval\b/, /new Function/, /createContextualFragment/, /\bimport\s*[("'{*]/]) {
    assert.doesNotMatch(text, sink)
  }
})

test('every key is worded in both languages, with the same places to fill in', () => {
  const places = (words) => [...JSON.stringify(words).matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort()
  assert.deepEqual(Object.keys(WORDS.en), Object.keys(WORDS.zh))
  for (const key of Object.keys(WORDS.en)) {
    assert.equal(Array.isArray(WORDS.en[key]), Array.isArray(WORDS.zh[key]), key)
    assert.deepEqual(places(WORDS.en[key]), places(WORDS.zh[key]), key)
  }
})
