// Alerts, their tests and runbooks, and the dashboard fit each other.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { ROOT, alerts, dashboard, groupings, panels, read } from './support/monitoring.mjs'

const TESTS = ['tests/metrics/alerts.test.yaml', 'tests/metrics/alerts-of-a-day.test.yaml']
const OF_A_SCRAPE = ['instance']

function run(program, ...args) {
  const { error, status, stdout, stderr } = spawnSync(program, args, { cwd: fileURLToPath(ROOT), encoding: 'utf8' })
  assert.ok(!error, `${program}: ${error?.message}`)
  assert.equal(status, 0, `${program} ${args.join(' ')}:\n${stdout}${stderr}`)
}

/** The sections below a heading of a document, by GitHub's anchor. */
function sectionsOf(file, heading) {
  const [, text] = read(file).split(new RegExp(`^## ${heading}$`, 'm'))
  assert.ok(text, `${file} has no ${heading}`)
  const found = text.split(/^## /m)[0].split(/^### /m).slice(1).map((section) => {
    const [title, ...lines] = section.split('\n')
    return [title.toLowerCase().replaceAll(/[^\w -]/g, '').replaceAll(' ', '-'), { title, text: lines.join('\n') }]
  })
  return Object.fromEntries(found)
}

describe('alerts', () => {
  it('are rules to Prometheus', () => run('promtool', 'check', 'rules', 'monitoring/alerts.yaml'))

  it('fire when they should, and not when they should not', () => run('promtool', 'test', 'rules', ...TESTS))

  it('are each tested both ways', () => {
    const tested = TESTS.flatMap((file) => parse(read(file)).tests)
    for (const { alert } of alerts) {
      const said = tested.filter(({ name }) => name === alert).flatMap((test) => test.promql_expr_test).filter(({ expr }) => expr.includes(`alertname="${alert}"`))
      assert.ok(said.some(({ exp_samples: samples }) => samples.length > 0), `${alert} is never seen to fire`)
      assert.ok(said.some(({ exp_samples: samples }) => samples.length === 0), `${alert} is never seen to be silent`)
    }
  })

  it('say how urgent they are, what a user sees, and where to read on', () => {
    for (const { alert, labels, annotations } of alerts) {
      assert.match(alert, /^Scanlogin[A-Z]\w+$/)
      assert.ok(['page', 'ticket'].includes(labels.severity), alert)
      assert.deepEqual(Object.keys(annotations).sort(), ['description', 'runbook_url', 'summary'], alert)
      for (const name of ['summary', 'description']) assert.ok(annotations[name].length > 20 && annotations[name].endsWith('.'), `${alert}: ${name}`)
    }
    assert.equal(new Set(alerts.map(({ alert }) => alert)).size, alerts.length)
  })

  it('say of labels only what they have', () => {
    for (const { alert, expr, annotations } of alerts) {
      const has = [...groupings(expr), ...OF_A_SCRAPE]
      for (const [, label] of Object.values(annotations).join(' ').matchAll(/\$labels\.(\w+)/g)) assert.ok(has.includes(label), `${alert}: ${label}`)
    }
  })

  it('have a runbook each, which says what a user sees, how to tell causes apart and what to do, and there are no others', () => {
    const sections = sectionsOf('docs/operations.md', 'Runbooks')
    const anchors = alerts.map(({ annotations }) => annotations.runbook_url.replace('docs/operations.md#', ''))
    assert.deepEqual(Object.keys(sections), anchors, 'in the order of the alerts')
    alerts.forEach(({ alert }, n) => {
      const { title, text } = sections[anchors[n]]
      assert.equal(title, alert)
      for (const part of ['**Seen.** ', '**Causes.** ', '**Do.** ']) assert.ok(text.includes(`\n${part}`), `${alert}: ${part}`)
    })
  })

  it('name panels in their runbooks that there are', () => {
    const [, text] = read('docs/operations.md').split(/^## Runbooks$/m)
    const named = [...text.matchAll(/(?:[Pp]anels?|and) \*([^*]+)\*/g)].map(([, title]) => title)
    assert.ok(named.length > 20, 'the panels are read')
    assert.deepEqual(named.filter((title) => !panels.some((panel) => panel.title === title)), [])
  })

  it("sort WeChat's error codes as src/wechat/errcode.rs does", () => {
    const codes = [...read('src/wechat/errcode.rs').matchAll(/^ {4}\w+ = (-?\d+), (\w+),/gm)]
    assert.ok(codes.length > 30, 'the codes are read')
    const of = (...classes) => codes.filter(([, , name]) => classes.includes(name)).map(([, code]) => code).sort()
    const matched = (name) => /errcode!?=?~"([^"]+)"/.exec(alerts.find(({ alert }) => alert === name).expr)[1].split('|').sort()
    assert.deepEqual(matched('ScanloginWeChatQuota'), of('Quota'))
    assert.deepEqual(matched('ScanloginWeChatRefuses'), of('Busy', 'TokenInvalid', 'CodeInvalid', 'Blocked', 'Quota'))
  })
})

describe('what is made of others', () => {
  it('is in step with them', () => run('node', 'monitoring/generate.mjs', '--check'))

  it('holds the same alerts for the Prometheus operator', () => {
    const { apiVersion, kind, spec } = parse(read('monitoring/prometheusrule.yaml'))
    assert.deepEqual({ apiVersion, kind }, { apiVersion: 'monitoring.coreos.com/v1', kind: 'PrometheusRule' })
    assert.deepEqual(spec, parse(read('monitoring/alerts.yaml')))
  })
})

describe('the dashboard', () => {
  it('says of each panel what it shows and what to do, in a unit, from the data source that is chosen', () => {
    for (const { title, description, fieldConfig, datasource, targets } of panels) {
      assert.ok(description.length > 60 && description.endsWith('.'), title)
      assert.ok(fieldConfig.defaults.unit, title)
      for (const source of [datasource, ...targets.map((target) => target.datasource)]) assert.deepEqual(source, { type: 'prometheus', uid: '${datasource}' })
    }
    const names = panels.map(({ title }) => title)
    assert.equal(new Set(names).size, names.length)
  })

  it('asks only for the replicas that are chosen', () => {
    const chosen = /\{namespace=~"\$namespace", job=~"\$job", instance=~"\$replica"/
    const wrong = panels.flatMap(({ title, targets }) => targets.flatMap(({ expr }) => [...expr.matchAll(/\b(?:scanlogin|process)_\w+(\{[^}]*\})?/g)]
      .filter(([, labels]) => !chosen.test(labels ?? '')).map(([selector]) => `${title}: ${selector}`)))
    assert.deepEqual(wrong, [])
  })

  it('has a place for each panel', () => {
    const taken = new Map()
    for (const { id, title, gridPos: { h, w, x, y } } of dashboard.panels) {
      assert.ok(x + w <= 24, title)
      for (let row = y; row < y + h; row += 1) {
        for (let column = x; column < x + w; column += 1) {
          assert.equal(taken.get(`${row},${column}`), undefined, `${title} lies on another`)
          taken.set(`${row},${column}`, id)
        }
      }
    }
    assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length)
  })

  it('fits into what kubectl writes beside an object', () => {
    assert.ok(fs.statSync(new URL('monitoring/dashboards/scanlogin.json', ROOT)).size < 200_000)
  })
})
