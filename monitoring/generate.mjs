#!/usr/bin/env node
// Writes what others read in a form of their own: Grafana's dashboard of dashboard.mjs, and the Prometheus operator's rules of alerts.yaml.
//   monitoring/generate.mjs           writes them
//   monitoring/generate.mjs --check   fails where they are not what they would be

import fs from 'node:fs'
import { dashboard } from './dashboard.mjs'

const place = (name) => new URL(name, import.meta.url)

// Neither kustomize nor Prometheus can put the one file into the other.
const groups = fs.readFileSync(place('alerts.yaml'), 'utf8').split(/^(?=groups:$)/m)[1].trimEnd().replace(/^(?=.)/gm, '  ')
const files = {
  'dashboards/scanlogin.json': `${JSON.stringify(dashboard, null, 2)}\n`,
  'prometheusrule.yaml': `# Made by generate.mjs of alerts.yaml, which says why each is as it is.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: scanlogin
spec:
${groups}
`,
}

for (const [name, text] of Object.entries(files)) {
  if (!process.argv.includes('--check')) fs.writeFileSync(place(name), text)
  else if (fs.readFileSync(place(name), 'utf8') !== text) {
    console.error(`monitoring/${name} is out of step: run monitoring/generate.mjs`)
    process.exitCode = 1
  }
}
