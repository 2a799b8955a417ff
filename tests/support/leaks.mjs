// What this process came by that must stand in nothing the service leaves behind, and the search for it, by a program that the
// tests in other languages share: leaks.rs.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

const secrets = {}
const told = []

/** From now on `secret` must be found nowhere. */
export function learn(what, secret) {
  secrets[what] ??= new Set()
  secrets[what].add(secret)
}

/** The same of the secrets in a reply of the service: text, of which only JSON can have any. */
export function learnFrom(text) {
  try {
    told.push(JSON.parse(text))
  } catch {
    // A page, or nothing.
  }
}

/** What was searched for in these texts, and what is in them; `binary` is the service's. */
export function search(binary, texts) {
  const program = path.join(path.dirname(binary), 'examples', 'leaks')
  assert.ok(fs.existsSync(program), `${program} is missing: run "cargo build --example leaks" in the repository`)
  const lists = Object.entries(secrets).map(([what, found]) => [what, [...found]])
  const input = JSON.stringify({ secrets: Object.fromEntries(lists), told, texts })
  const { stdout, stderr } = spawnSync(program, { input, maxBuffer: Infinity })
  assert.ok(stdout.length > 0, `nothing was searched: ${stderr}`)
  return JSON.parse(stdout)
}

/** Fails if any of it is in these texts, or if there are none. */
export function assertNone(binary, texts) {
  const { found, bytes } = search(binary, texts)
  assert.deepEqual(found, [])
  assert.ok(bytes > 0, 'there is no log to search')
}
