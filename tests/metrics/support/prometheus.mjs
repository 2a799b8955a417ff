// A real Prometheus, by the very files that docker-compose.yml gives its own. What differs is where the replicas are, and that it looks
// every second.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parse, stringify } from 'yaml'
import { Process, freePort } from '../../browser/support/service.mjs'
import { until } from '../../browser/support/until.mjs'
import { ROOT, read } from './monitoring.mjs'

/** What docker-compose.yml puts where in a service's container. */
const mounts = (name) => Object.fromEntries(parse(read('docker-compose.yml'), { merge: true }).services[name].volumes
  .map((mount) => mount.split(':')).filter(([source]) => source.startsWith('./')).map(([source, place]) => [place, source]))

/** On a machine that has much else to do. */
export const PATIENCE_MS = 120_000

export class Prometheus {
  static async start(targets) {
    const prometheus = new Prometheus()
    try {
      await prometheus.#start(targets)
    } catch (error) {
      await prometheus.stop()
      throw error
    }
    return prometheus
  }

  async #start(targets) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-metrics-'))
    const config = parse(read(mounts('prometheus')['/etc/prometheus/prometheus.yml']))
    const rules = config.rule_files.map((file) => new URL(mounts('prometheus')[`/etc/prometheus/${file}`], ROOT).pathname)
    const { dns_sd_configs: found, ...scraped } = config.scrape_configs[0]
    assert.ok(found.length === 1 && config.scrape_configs.length === 1, 'who is scraped is known here')
    const file = path.join(this.dir, 'prometheus.yml')
    fs.writeFileSync(file, stringify({
      global: { scrape_interval: '1s', evaluation_interval: '1s' },
      rule_files: rules,
      scrape_configs: [{ ...scraped, static_configs: [{ targets }] }],
    }))
    const port = await freePort()
    this.url = `http://127.0.0.1:${port}`
    this.process = new Process('prometheus', [
      `--config.file=${file}`, `--storage.tsdb.path=${this.dir}/data`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn',
    ])
    this.since = Date.now() / 1000
    await until('Prometheus sees each replica', async () => {
      if (this.process.how !== undefined) throw new Error(`Prometheus ended (${this.process.how}):\n${this.process.log}`)
      const seen = await this.query('up == 1').catch(() => [])
      return seen.length === targets.length
    }, PATIENCE_MS)
  }

  /** What its API says. */
  async ask(call, parameters = {}) {
    const response = await fetch(new URL(`/api/v1/${call}`, this.url), { method: 'POST', body: new URLSearchParams(parameters) })
    const { status, data, error } = await response.json()
    if (status !== 'success') throw new Error(`${call} ${JSON.stringify(parameters)}: ${error}`)
    return data
  }

  async query(query) {
    return (await this.ask('query', { query })).result
  }

  /** The series of it since the start, second by second, without those that have no number. */
  async queryRange(query) {
    const { result } = await this.ask('query_range', { query, start: this.since, end: Date.now() / 1000, step: 1 })
    return result.filter(({ values }) => values.some(([, value]) => Number.isFinite(Number(value))))
  }

  /** The series that such a selector has chosen since the start. */
  series(selector) {
    return this.ask('series', { 'match[]': selector, start: this.since, end: Date.now() / 1000 + 1 })
  }

  /** What its API tells by GET alone. */
  async get(call) {
    return (await (await fetch(new URL(`/api/v1/${call}`, this.url))).json()).data
  }

  async stop() {
    await this.process?.end()
    fs.rmSync(this.dir, { recursive: true })
  }
}
