// Alerts and dashboard as they stand in monitoring/, and what they ask of Prometheus.

import fs from 'node:fs'
import { parse } from 'yaml'

export const ROOT = new URL('../../../', import.meta.url)
export const read = (name) => fs.readFileSync(new URL(name, ROOT), 'utf8')

export const alerts = parse(read('monitoring/alerts.yaml')).groups.flatMap(({ rules }) => rules)
export const dashboard = JSON.parse(read('monitoring/dashboards/scanlogin.json'))
export const panels = dashboard.panels.filter(({ type }) => type !== 'row')

/** What Grafana puts in for its variables: all of everything, over `range`. */
export const filledIn = (expr, range) => expr
  .replaceAll(/\$(namespace|job|replica|client)\b/g, '.*')
  .replaceAll('$__rate_interval', '30s')
  .replaceAll('$__range', range)

/** Everything that is asked: where, and how. */
export function questions(range) {
  const asked = alerts.map(({ alert, expr }) => ({ where: alert, expr, alert }))
  for (const { title, targets } of panels) {
    asked.push(...targets.map(({ expr, legendFormat }) => ({ where: `panel ${title}`, expr: filledIn(expr, range), panel: title, legendFormat })))
  }
  asked.push(...dashboard.annotations.list.map(({ name, expr }) => ({ where: `annotation ${name}`, expr: filledIn(expr, range) })))
  return asked
}

/** The metrics that an expression names, each with its labels: what Prometheus must have seen for it to mean anything. */
export const selectors = (expr) => [...expr.matchAll(/\b(?:scanlogin|process)_\w+\s*(?:\{[^{}]*\})?|\b(?:up|ALERTS)\b(?:\{[^{}]*\})?/g)].map(([selector]) => selector)

/** The labels that it groups or joins by. */
export const groupings = (expr) => [...expr.matchAll(/\b(?:by|on|without|ignoring) \(([^)]*)\)/g)].flatMap(([, labels]) => labels.split(/,\s*/))

/** The metrics that a document names, each with the labels and the values that stand behind it in the same sentence or cell: as a selector,
 * as what it counts by, or as words of code. */
export const mentions = (text) => text.split(/(?<=[.;])\s+|\|/).flatMap((sentence) => {
  const [, ...parts] = sentence.split(/\b(scanlogin_[a-z_]+)\b/)
  return parts.flatMap((name, n) => {
    if (n % 2 === 1) return []
    const rest = parts[n + 1]
    const [selector = ''] = /^\{[^}]*\}/.exec(rest) ?? []
    const pairs = [...selector.matchAll(/(\w+)!?=~?"([^"]*)"/g)]
    const [by = ''] = /\bby `\w+`(?:(?:, | and )`\w+`)*/.exec(rest) ?? []
    const words = (code) => [...code.matchAll(/`([a-z_]+)`/g)].map(([, word]) => word)
    return [{
      name,
      labels: [...pairs.map(([, label]) => label), ...words(by)],
      values: [...pairs.map(([, , value]) => value).filter(Boolean), ...words(rest.replace(by, ''))],
    }]
  })
})

/** A metric's name without what a histogram's series add to it. */
export const family = (name) => name.replace(/_(bucket|count|sum)$/, '')
