// What the compiler does not see: JSON, WXML and WXSS, and what they say about each other.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { projectDir, read, readJson, sourceDir } from './support/project.mjs'
import { Phone } from './support/wechat.mjs'
import { everyNode, expressions, parse } from './support/wxml.mjs'

const app = readJson('app.json')
const sources = fs.readdirSync(sourceDir, { recursive: true }).filter((name) => fs.statSync(path.join(sourceDir, name)).isFile())

test('every page of app.json has its four files, and no page is left out', () => {
  for (const page of app.pages) for (const ext of ['ts', 'wxml', 'wxss', 'json']) assert.ok(sources.includes(`${page}.${ext}`), `${page}.${ext}`)
  assert.deepEqual([...app.pages].sort(), sources.filter((name) => name.endsWith('.wxml')).map((name) => name.slice(0, -5)).sort())
  assert.ok(app.pages.includes('pages/confirm/confirm'), 'the page that the service writes into codes')
})

test('every JSON file parses, and every theme variable has both its colours', () => {
  for (const name of sources.filter((each) => each.endsWith('.json'))) readJson(name)
  const theme = readJson(app.themeLocation)
  for (const value of Object.values(app.window).filter((each) => each.startsWith('@'))) {
    for (const mode of ['light', 'dark']) assert.ok(theme[mode][value.slice(1)], `${mode} ${value}`)
  }
  const project = JSON.parse(fs.readFileSync(path.join(projectDir, 'project.config.json'), 'utf8'))
  assert.equal(path.join(projectDir, project.miniprogramRoot), `${sourceDir}/`)
  assert.deepEqual(project.setting.useCompilerPlugins, ['typescript'])
})


for (const page of app.pages) {
  test(`${page}.wxml: handlers exist, names are declared, classes are styled`, () => {
    const root = parse(read(`${page}.wxml`))
    const options = new Phone({ serviceUrl: 'https://login.example' }).options[page]
    const styles = read('app.wxss') + read(`${page}.wxss`)
    for (const { tag, attributes } of everyNode(root)) {
      for (const [name, value] of Object.entries(attributes)) {
        if (/^(bind|catch)/.test(name)) assert.equal(typeof options[value], 'function', `${name}="${value}"`)
      }
      if (tag === 'input') assert.ok(attributes.name, 'an input in a form has a name')
      for (const name of (attributes.class ?? '').replace(/\{\{(.+?)\}\}/g, (_, inner) => [...inner.matchAll(/'([\w-]*-[\w-]*)'/g)].map((each) => each[1]).join(' ')).split(/\s+/)) {
        if (name && !name.endsWith('-')) assert.match(styles, new RegExp(`\\.${name}\\b`), `class ${name}`)
      }
    }
    for (const expression of expressions(root)) {
      const bare = expression.replace(/'[^']*'/g, "''")
      for (const [name] of bare.matchAll(/(?<![.\w])[a-zA-Z_]\w*/g)) {
        assert.ok(name in options.data || ['item', 'index', 'true', 'false'].includes(name), `{{${expression}}}: ${name}`)
      }
      for (const [, word] of bare.matchAll(/(?<![.\w])t\.(\w+)/g)) assert.ok(word in options.data.t, `t.${word}`)
    }
  })
}

test('WXSS: braces close, variables have a value in light and in dark', () => {
  const [light, dark] = read('app.wxss').split('@media (prefers-color-scheme: dark)')
  for (const name of sources.filter((each) => each.endsWith('.wxss'))) {
    const style = read(name)
    assert.equal(style.split('{').length, style.split('}').length, `${name}: braces`)
    for (const [, variable] of style.matchAll(/var\((--[\w-]+)\)/g)) {
      assert.ok(light.includes(`${variable}:`) && dark.includes(`${variable}:`), `${name}: ${variable}`)
    }
    if (name !== 'app.wxss') assert.doesNotMatch(style, /#[0-9a-f]{3,8}\b/i, `${name}: colours belong to app.wxss`)
  }
})

test('what must never be in it is not in it', () => {
  for (const name of sources) {
    assert.doesNotMatch(read(name), /rich-text|getUserProfile|getUserInfo|getPhoneNumber|onShareAppMessage|setStorage|innerHTML/, name)
  }
})

test('it is small: people wait for it with a phone in their hand', () => {
  const sizes = sources.map((name) => fs.statSync(path.join(sourceDir, name)).size)
  assert.ok(sizes.reduce((sum, size) => sum + size) < 100 * 1024, 'all of it, before anything is compressed')
  assert.deepEqual(sources.filter((name) => !/\.(ts|wxml|wxss|json)$/.test(name)), [], 'no pictures and no libraries')
})

test('the lock file names no registry', () => {
  assert.doesNotMatch(fs.readFileSync(path.join(projectDir, 'package-lock.json'), 'utf8'), /resolved|https?:\/\/registry/)
})
