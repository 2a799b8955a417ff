// docker-compose.yml and Dockerfile, as they stand there.

import fs from 'node:fs'
import { parse } from 'yaml'

export const ROOT = new URL('../../../', import.meta.url)
export const read = (name) => fs.readFileSync(new URL(name, ROOT), 'utf8')

const variables = /\$\{(\w+)(?::([-?])([^}]*))?\}/g

/** Each `${NAME}` of a file, with what stands for it where it is not set. */
export const variablesOf = (name) => [...read(name).matchAll(variables)].map(([, variable, how, text]) => ({ variable, how, text }))

/** A file's services where nothing is set outside, or only that. */
export function services(name, set = {}) {
  const text = read(name).replace(variables, (_, variable, how, text) => {
    if (set[variable]) return set[variable]
    if (how !== '-') throw new Error(`${name} needs ${variable}, which ${text}`)
    return text
  })
  return parse(text, { merge: true }).services
}

/** The services of several files where nothing is set outside: what a later one says of a service stands in the place of the earlier's. */
export function merged(files) {
  const all = {}
  for (const [name, service] of files.flatMap((file) => Object.entries(services(file)))) {
    const { environment, ...had } = all[name] ?? {}
    all[name] = { ...had, ...service, environment: { ...environment, ...service.environment } }
  }
  return all
}

/** `15s` and the like, in milliseconds. */
export const ms = (duration) => Number(/^(\d+)s$/.exec(duration)[1]) * 1000

/** What the last stage of Dockerfile says of each container: its ENV, and how its health is asked for. */
export function image() {
  const stage = read('Dockerfile').split(/^FROM scratch$/m)[1]
  const settings = [...stage.matchAll(/^ENV (.+)$/gm)].flatMap(([, line]) => line.split(' ').map((setting) => setting.split('=')))
  const [, options, test] = /^HEALTHCHECK (.+) CMD (\[.+\])$/m.exec(stage)
  const healthcheck = Object.fromEntries(options.split(' ').map((option) => /^--([a-z-]+)=(.+)$/.exec(option).slice(1)))
  const [version] = /(?<=^ARG VERSION=).+$/m.exec(stage)
  return { environment: Object.fromEntries(settings), healthcheck: { ...healthcheck, test: ['CMD', ...JSON.parse(test)] }, version }
}
