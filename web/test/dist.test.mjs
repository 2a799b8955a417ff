// The file that the service serves and npm publishes: it is what the source says, and small.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { buildSync } from 'esbuild'

const BYTES = 10_240

const file = (name) => new URL(`../${name}`, import.meta.url)
const kept = fs.readFileSync(file('dist/scan-login.js'))

test('the file that is kept is built from what is beside it', () => {
  const command = JSON.parse(fs.readFileSync(file('package.json'))).scripts.build
  assert.match(command, /^esbuild src\/scan-login\.js --bundle --minify --format=esm --target=es2022 --charset=utf8 --legal-comments=none --outfile=/)
  const { outputFiles: [built] } = buildSync({
    absWorkingDir: new URL('..', import.meta.url).pathname,
    entryPoints: ['src/scan-login.js'],
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    charset: 'utf8',
    legalComments: 'none',
    write: false,
  })
  assert.equal(kept.toString(), built.text, 'dist/scan-login.js is not what src says: npm run build')
})

test(`it is smaller than ${BYTES} bytes by gzip`, (t) => {
  const { length } = gzipSync(kept, { level: 9 })
  t.diagnostic(`scan-login.js: ${length} bytes by gzip, ${kept.length} bytes plain`)
  assert.ok(length < BYTES, `${length} bytes`)
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

test('every key is worded in both languages, with the same places to fill in', async () => {
  const { WORDS } = await import('../src/words.js')
  const places = (words) => [...JSON.stringify(words).matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort()
  assert.deepEqual(Object.keys(WORDS.en), Object.keys(WORDS.zh))
  for (const key of Object.keys(WORDS.en)) {
    assert.equal(Array.isArray(WORDS.en[key]), Array.isArray(WORDS.zh[key]), key)
    assert.deepEqual(places(WORDS.en[key]), places(WORDS.zh[key]), key)
  }
})
