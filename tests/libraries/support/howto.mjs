// The programs of docs/howto.md, as they stand there.

import fs from 'node:fs'

const read = (name) => fs.readFileSync(new URL(`../../../${name}`, import.meta.url), 'utf8')
const HOWTO = read('docs/howto.md')

/** What a table of docs/measurements.md says of each program: its lines. */
export function measured() {
  const rows = read('docs/measurements.md').matchAll(/^\| \[`([^`]+)`\]\(howto\.md[^|]*\| (\d+) \|/gm)
  return Object.fromEntries([...rows].map(([, name, lines]) => [name, Number(lines)]))
}

/** What it says of the page with the web component, and of its backend. */
export function measuredOfComponent() {
  const [, ...lines] = /`<scan-login>` takes (\d+) lines of a page and (\d+) of its backend/.exec(read('docs/measurements.md'))
  return lines.map(Number)
}

/** Both, as they stand in the component's own document; `tests/browser` runs them. */
export const ofComponent = () => ['html', 'js backend.mjs'].map((name) => read('web/README.md').split(`\n\`\`\`${name}\n`)[1].split('\n```')[0])

/** Every program, by the name behind the language of its block. */
export function programs() {
  const blocks = HOWTO.matchAll(/^```\w+ (\S+)\n([^]*?)^```$/gm)
  return Object.fromEntries([...blocks].map(([, name, text]) => [name, text]))
}

/** Its lines that say something. */
export const linesOf = (text) => text.split('\n').filter((line) => line.trim() && !/^\s*(\/\/|#|<!--)/.test(line)).length

/** A program with the addresses and secrets of a test in the place of the examples'. */
export function program(name, { login, shop, secret }) {
  const text = programs()[name]
  if (!text) throw new Error(`docs/howto.md has no block named ${name}`)
  const { port } = new URL(shop)
  return text.replaceAll('https://login.example', login).replaceAll('https://shop.example', shop).replaceAll('CLIENT-SECRET', secret)
    .replaceAll('listen(3000)', `listen(${port}, '127.0.0.1')`)
}
