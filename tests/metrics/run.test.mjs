// Whatever dashboard, alerts and documents ask for is there once a real Prometheus has watched two replicas through everything.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { after, before, describe, it } from 'node:test'
import { ROOT, alerts, dashboard, family, filledIn, groupings, mentions, panels, questions, read, selectors } from './support/monitoring.mjs'
import { World } from './support/world.mjs'

/** What a run here can't bring about, and why. */
const UNSEEN = {
  'scanlogin_store_waits_total{outcome="vouched"}': 'only under Sentinel',
  'scanlogin_store_waits_total{outcome="not_wanted"}': 'only where SCANLOGIN_REDIS_WAIT is 0',
  'scanlogin_webhooks_total{result="elsewhere"}': 'only of a replica that stood still',
  'ALERTS{alertname="ScanloginRedisReplicaMissing", alertstate="firing"}': 'only after ten minutes',
}
/** What no panel shows, and why. */
const UNSHOWN = {
  process_virtual_memory_bytes: 'address space is no memory',
}
/** What Prometheus or Kubernetes gives. */
const OF_WHO_LOOKS = ['namespace', 'pod', 'job', 'instance']
/** Names that begin as our metrics do. */
const NO_METRICS = /^scanlogin_(demo|browser|keys|client)/

describe('a Prometheus that watched it all', { timeout: 600_000 }, () => {
  let world
  let asked
  let families
  before(async () => {
    world = await World.start()
    await world.live()
    asked = questions(`${Math.ceil(Date.now() / 1000 - world.prometheus.since)}s`)
    families = new Set([...world.metrics.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name))
  })
  after(() => world?.stop())

  it('has every metric of src/telemetry.rs', () => {
    const fields = [...read('src/telemetry.rs').matchAll(/^ {4}pub (\w+): (?:Int)?(?:Counter|Gauge|Histogram)(?:Vec)?,$/gm)]
    assert.ok(fields.length > 25, 'the fields are read')
    assert.deepEqual(fields.map(([, name]) => `scanlogin_${name}`).filter((name) => !families.has(name)), [])
  })

  it('has every series that is asked for, by these labels', async () => {
    const wanted = new Map(asked.flatMap(({ where, expr }) => selectors(expr).map((selector) => [selector, where])))
    const found = await Promise.all([...wanted].map(async ([selector, where]) => ({ selector, where, series: await world.prometheus.series(selector) })))
    const missing = found.filter(({ selector, series }) => series.length === 0 && !(selector in UNSEEN)).map(({ selector, where }) => `${where}: ${selector}`)
    assert.deepEqual(missing, [])
  })

  it('finds every label that is grouped by, but for the namespace, which only Kubernetes gives', async () => {
    const known = await world.prometheus.ask('labels')
    const unknown = asked.flatMap(({ where, expr }) => groupings(expr).filter((label) => label && ![...known, 'namespace'].includes(label)).map((label) => `${where}: ${label}`))
    assert.deepEqual(unknown, [])
  })

  it('answers each panel with something, and its legend has the labels that it names', async () => {
    const wrong = []
    for (const { where, panel, expr, legendFormat } of asked) {
      const series = await world.prometheus.queryRange(expr)
      if (panel && series.length === 0) wrong.push(`${where}: nothing for ${expr}`)
      for (const [, label] of (legendFormat ?? '').matchAll(/\{\{(\w+)\}\}/g)) {
        if (!series.some(({ metric }) => label in metric)) wrong.push(`${where}: no label ${label}`)
      }
    }
    assert.deepEqual(wrong, [])
  })

  it('has loaded each alert, and evaluates it', async () => {
    const { groups } = await world.prometheus.get('rules')
    const rules = groups.flatMap((group) => group.rules)
    assert.deepEqual(rules.map(({ name }) => name), alerts.map(({ alert }) => alert))
    assert.deepEqual(rules.filter(({ health }) => health !== 'ok').map(({ name, lastError }) => `${name}: ${lastError}`), [])
    // What this run did is nothing less than these; others take longer, or more.
    const told = new Set((await world.prometheus.series('ALERTS')).map(({ alertname }) => alertname))
    const expected = ['Simulated', 'SettingsRefused', 'ReplicaSilent', 'Errors', 'InternalErrors', 'StoreUnavailable', 'StoreFull', 'ScenesUnheard',
      'NoDurableWrites', 'WeChatRefuses', 'WeChatQuota', 'Sheds', 'LimitsAlone', 'WebhooksLost']
    assert.deepEqual(expected.filter((name) => !told.has(`Scanlogin${name}`)), [])
  })

  it('knows what the variables at the top choose from', async () => {
    for (const { name, query } of dashboard.templating.list.filter(({ type }) => type === 'query')) {
      const [, selector, label] = /^label_values\((.+), (\w+)\)$/.exec(filledIn(query.query, '1m'))
      const series = await world.prometheus.series(selector)
      assert.ok(series.length > 0, `${name}: ${selector}`)
      if (label !== 'namespace') assert.ok(series.some((one) => label in one), `${name}: ${label}`)
    }
  })

  it('shows each metric on the dashboard', () => {
    const shown = new Set(panels.flatMap(({ targets }) => targets.flatMap(({ expr }) => selectors(expr))).map((selector) => family(/^\w+/.exec(selector)[0])))
    const all = [...families]
    assert.ok(all.length > 35, 'the metrics are read')
    assert.deepEqual(all.filter((name) => !shown.has(name) && !(name in UNSHOWN)), [])
    assert.deepEqual(Object.keys(UNSHOWN).filter((name) => !families.has(name) || shown.has(name)), [])
  })

  it('has each metric that a document names, with the labels that it gives there', () => {
    const documents = ['README.md', 'CHANGELOG.md', 'k8s/README.md', ...fs.readdirSync(new URL('docs', ROOT)).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)]
    const named = documents.flatMap((file) => mentions(read(file)).map((mention) => ({ file, ...mention })))
      .filter(({ name }) => !NO_METRICS.test(name))
    assert.ok(named.length > 20 && named.flatMap(({ labels }) => labels).length > 5, 'the documents are read')
    assert.deepEqual(named.filter(({ name }) => !families.has(name) && !families.has(family(name))), [])
    const series = [...world.metrics.split('\n'), ...Object.keys(UNSEEN)]
    const pairsOf = (name) => series.filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name}_count{`))
      .flatMap((line) => [...line.matchAll(/(\w+)="([^"]*)"/g)].map(([, label, value]) => ({ label, value })))
    const unknown = named.flatMap(({ file, name, labels, values }) => {
      const pairs = pairsOf(name)
      return [
        ...labels.filter((label) => !OF_WHO_LOOKS.includes(label) && !pairs.some((pair) => pair.label === label)),
        ...values.filter((value) => !pairs.some((pair) => pair.value === value)),
      ].map((word) => `${file}: ${name}: ${word}`)
    })
    assert.deepEqual(unknown, [])
  })

  it('is told of each metric in a way that promtool has nothing against', () => {
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: world.metrics, encoding: 'utf8' })
    assert.deepEqual({ status, said: stdout + stderr }, { status: 0, said: '' })
  })
})
