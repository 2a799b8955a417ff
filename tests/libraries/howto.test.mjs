// What the documents say of the programs here, and of the tests.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { Service } from '../browser/support/service.mjs'
import { howto } from '../browser/support/site.mjs'
import {
  codesIn, linesOf, measured, measuredOfComponent, nameless, ofComponent, products, programs,
} from './support/howto.mjs'

const here = (name) => new URL(name, import.meta.url)
/** The text of each test in a directory, but for this one's. */
const textsIn = (directory, end) => fs.readdirSync(here(directory)).filter((name) => name.endsWith(end) && name !== 'howto.test.mjs')
  .map((name) => fs.readFileSync(here(`${directory}/${name}`), 'utf8'))

describe('docs/howto.md', () => {
  test('has a test for each of its programs', () => {
    const sources = textsIn('.', '.test.mjs')
    assert.ok(Object.keys(programs()).length > 0)
    assert.equal(Object.keys(programs()).length, sources.filter((text) => !text.includes("settingsOf('Logto'")).length)
    for (const name of Object.keys(programs())) {
      assert.equal(sources.filter((text) => text.includes(`'${name}'`)).length, 1, `${name} is run by one test`)
    }
  })

  test('has a test that names the section of every other block, or says that it has none', () => {
    const sources = [...textsIn('../browser', '.test.mjs'), ...textsIn('../it', '.rs'), fs.readFileSync(here('howto.test.mjs'), 'utf8')]
    const blocks = nameless()
    assert.ok(blocks.length > 0)
    const named = ({ heading }) => sources.some((text) => text.includes(`howto('${heading}')`) || text.includes(`\\n## ${heading}\\n`))
    const untold = blocks.filter((block) => !named(block) && !block.text.includes('*No test ran'))
    assert.deepEqual(untold.map(({ heading, line }) => `${heading}: ${line}`), [])
  })

  test('has a table of a client that the service takes', async (t) => {
    const [table] = howto('How to log people in')
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-howto-'))
    t.after(() => fs.rmSync(dir, { recursive: true }))
    const [secret, settings] = ['shop', 'scanlogin.toml'].map((name) => path.join(dir, name))
    fs.writeFileSync(secret, randomBytes(24).toString('hex'), { mode: 0o600 })
    fs.writeFileSync(settings, table.replace('/run/secrets/shop', secret).replace(/^# (?=id_token)/m, ''), { mode: 0o600 })
    const service = await Service.start({ CONFIG: settings, SIMULATOR: 'true' })
    t.after(() => service.kill())
    const [, redirectUri] = /redirect_uris = \["([^"]+)"\]/.exec(table)
    for (const [uri, status] of [[redirectUri, 200], [`${redirectUri}/`, 400]]) {
      const query = new URLSearchParams({ client_id: 'shop', redirect_uri: uri, response_type: 'code', scope: 'openid' })
      const page = await fetch(`${service.url}/authorize?${query}`, { redirect: 'manual' })
      assert.equal(page.status, status, uri)
      assert.equal((await page.text()).includes('The Shop'), status === 200, uri)
    }
  })

  test('needs as many lines as docs/measurements.md says', () => {
    const lines = Object.entries(programs()).map(([name, text]) => [name, linesOf(text)])
    assert.deepEqual(measured(), Object.fromEntries(lines))
  })

  test('and so does the page with the web component, and its backend', () => {
    assert.deepEqual(measuredOfComponent(), ofComponent().map(linesOf))
  })
})

/** All that a site is told of a person who gives what can be given. */
async function claimsFrom(service) {
  const call = async (address, body, bearer) => {
    const headers = { ...(body && { 'content-type': 'application/json' }), ...(bearer && { authorization: `Bearer ${bearer}` }) }
    const reply = await fetch(`${service.url}${address}`, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body) })
    assert.ok(reply.ok, `${address}: ${reply.status}`)
    return reply.json()
  }
  const verifier = randomBytes(32).toString('base64url')
  const challenge = createHash('sha256').update(verifier).digest('base64url')
  const { scene, browser_secret: secret } = await call('/scenes', { code_challenge: challenge, code_challenge_method: 'S256' })
  const { code: wxCode } = await call('/simulator/login', {})
  const { confirm_token: token } = await call(`/scenes/${scene}/scan`, { code: wxCode, entry_scene: 1047 })
  await call(`/scenes/${scene}/confirm`, { profile: { nickname: 'Alice', avatar_url: 'https://thirdwx.qlogo.cn/a/132' } }, token)
  const { code } = await call(`/scenes/${scene}`, null, secret)
  const body = new URLSearchParams({ grant_type: 'authorization_code', code, code_verifier: verifier, client_id: 'demo' })
  const { access_token: access } = await (await fetch(`${service.url}/token`, { method: 'POST', body })).json()
  return call('/userinfo', null, access)
}

describe('the table of docs/howto.md for products', () => {
  const LOGIN = 'https://login.example'
  let [service, metadata] = []
  before(async () => {
    service = await Service.start({ SIMULATOR: 'true' })
    metadata = await (await fetch(`${service.url}/.well-known/openid-configuration`)).json()
  })
  after(() => service?.kill())

  /** What is in the cells of this row, in which column it may be. */
  const codesOf = (what) => {
    const { what: own, ...cells } = products().find((row) => row.what === what)
    return Object.values(cells).flatMap(codesIn)
  }

  test('has the addresses that discovery has', () => {
    const written = products().flatMap(({ what }) => codesIn(what)).filter((code) => code.startsWith(LOGIN))
    const { issuer, authorization_endpoint: page, token_endpoint: token, userinfo_endpoint: userinfo, jwks_uri: keys } = metadata
    const own = [`${issuer}/.well-known/openid-configuration`, issuer, page, token, userinfo, keys]
    assert.deepEqual(written.map((address) => address.replace(LOGIN, service.url.replace(/\/$/, ''))), own)
  })

  test('names claims that a site is told', async () => {
    const told = await claimsFrom(service)
    const names = codesOf('claims')
    assert.deepEqual([...new Set(names)].sort(), ['nickname', 'picture', 'sub'])
    for (const name of names) {
      assert.ok(metadata.claims_supported.includes(name), `discovery has no ${name}`)
      assert.ok(told[name], `nobody is told ${name}`)
    }
  })

  test('asks for what there is', () => {
    const scopes = codesOf('scopes').filter((code) => code !== 'scope')
    assert.deepEqual(scopes, Array(3).fill('openid profile'))
    assert.deepEqual(metadata.scopes_supported, ['openid', 'profile'])
    assert.ok(metadata.token_endpoint_auth_methods_supported.includes(codesOf('how the client proves itself').at(-1)))
    assert.deepEqual(codesOf('PKCE'), metadata.code_challenge_methods_supported)
  })
})

test('docs/openid-conformance.md names tests that there are', () => {
  const named = fs.readFileSync(here('../../docs/openid-conformance.md'), 'utf8').matchAll(/`(\w+)::(\w+)`/g)
  const missing = [...named].filter(([, file, name]) => !fs.readFileSync(here(`../it/${file}.rs`), 'utf8').includes(`async fn ${name}(`))
  assert.deepEqual(missing.map(([found]) => found), [])
})
