// What the documents say of the programs here, and of the tests.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { describe, test } from 'node:test'
import { linesOf, measured, measuredOfComponent, ofComponent, programs } from './support/howto.mjs'

const here = (name) => new URL(name, import.meta.url)
const tests = fs.readdirSync(here('.')).filter((name) => name.endsWith('.test.mjs') && name !== 'howto.test.mjs')

describe('docs/howto.md', () => {
  test('has a test for each of its programs', () => {
    const sources = tests.map((name) => fs.readFileSync(here(name), 'utf8'))
    assert.ok(tests.length > 0)
    assert.equal(Object.keys(programs()).length, tests.length)
    for (const name of Object.keys(programs())) {
      assert.equal(sources.filter((text) => text.includes(`'${name}'`)).length, 1, `${name} is run by one test`)
    }
  })

  test('needs as many lines as docs/measurements.md says', () => {
    const lines = Object.entries(programs()).map(([name, text]) => [name, linesOf(text)])
    assert.deepEqual(measured(), Object.fromEntries(lines))
  })

  test('and so does the page with the web component, and its backend', () => {
    assert.deepEqual(measuredOfComponent(), ofComponent().map(linesOf))
  })
})

test('docs/openid-conformance.md names tests that there are', () => {
  const named = fs.readFileSync(here('../../docs/openid-conformance.md'), 'utf8').matchAll(/`(\w+)::(\w+)`/g)
  const missing = [...named].filter(([, file, name]) => !fs.readFileSync(here(`../it/${file}.rs`), 'utf8').includes(`async fn ${name}(`))
  assert.deepEqual(missing.map(([found]) => found), [])
})
