// Where things are, and how a test waits.

import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const projectDir = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')
export const sourceDir = path.join(projectDir, 'src')
/** Where `npm run build` puts the compiled src/. */
export const buildDir = path.join(projectDir, '.build')

export const read = (name) => fs.readFileSync(path.join(sourceDir, name), 'utf8')
export const readJson = (name) => JSON.parse(read(name))

const DEADLINE_MS = 10_000

/** Waits until `condition` gives something truthy; says what was awaited when it never does. */
export async function until(what, condition) {
  const deadline = performance.now() + DEADLINE_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** Lets everything run that needs no outside event, to show that nothing more happens. */
export async function quiet() {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}
