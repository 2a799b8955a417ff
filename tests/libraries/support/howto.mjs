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

/** What stands between backticks in a cell of a table. */
export const codesIn = (cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code)

/** The table of what takes settings and no program: what each row is about, by `what`, and what that is in each product, by its name. */
export function products() {
  const [, section] = HOWTO.split('\n## Keycloak, Logto, Casdoor\n')
  const [head, , ...rows] = section.split('\n').filter((line) => line.startsWith('|')).map((line) => line.slice(2, -2).split(' | '))
  const names = head.map((cell) => cell.split(':')[0])
  return rows.map((cells) => Object.fromEntries(cells.map((cell, at) => [names[at], cell])))
}

/** What is to be filled in of a product whose column has the fields' own names: `a.b` lies in `a`, and a cell may give a value of its own. */
export function settingsOf(product, world) {
  const settings = {}
  for (const { what, [product]: cell } of products().filter((row) => row.what !== 'claims')) {
    [...cell.matchAll(/`([^`]+)`(?:: `([^`]+)`)?/g)].forEach(([, name, own], at) => {
      const within = name.split('.')
      const last = within.pop()
      const place = within.reduce((found, step) => { found[step] ??= {}; return found[step] }, settings)
      place[last] = placed(own ?? codesIn(what)[at], world)
    })
  }
  return settings
}

/** Every block without a name, with the heading of its section, and what else that says. */
export function nameless() {
  const [intro, ...sections] = HOWTO.split(/^## /m)
  return [intro.replace(/^# /, ''), ...sections].flatMap((text) => {
    const heading = text.split('\n')[0]
    let within = false
    return text.split('\n').flatMap((line) => {
      if (!/^\s*(`{3,}|~{3,})/.test(line)) return []
      within = !within
      return within && !/^```\w+ \S+$/.test(line) ? [{ heading, line, text }] : []
    })
  })
}

/** Its lines that say something. */
export const linesOf = (text) => text.split('\n').filter((line) => line.trim() && !/^\s*(\/\/|#|<!--)/.test(line)).length

/** A text with the addresses and secrets of a test in the place of the examples'. */
const placed = (text, { login, shop, secret }) => text
  .replaceAll('https://login.example', login).replaceAll('https://shop.example', shop).replaceAll('CLIENT-SECRET', secret)

/** A program, so placed, that listens where the test's shop is. */
export function program(name, world) {
  const text = programs()[name]
  if (!text) throw new Error(`docs/howto.md has no block named ${name}`)
  const { port } = new URL(world.shop)
  return placed(text, world).replaceAll('listen(3000)', `listen(${port}, '127.0.0.1')`)
}
