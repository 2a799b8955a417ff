// A login by a client that is generated from the contract: that it compiles says that the document has the types of each call.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { after, before, test } from 'node:test'
import createClient from 'openapi-fetch'
import type { paths } from './build/contract.js'
// @ts-expect-error: it is JavaScript, of the pages' tests.
import { Service } from '../../../browser/support/service.mjs'

let service: { url: string, stop(): Promise<void> }
before(async () => {
  service = await Service.start()
})
after(() => service.stop())

/** What both have who speak to the service, whatever else they send. */
function clientOf(bearer?: string) {
  const headers = bearer === undefined ? {} : { Authorization: `Bearer ${bearer}` }
  return createClient<paths>({ baseUrl: service.url, headers })
}

/** What a call gave, if it did what it is for. */
function done<T>({ data, error }: { data?: T, error?: unknown }): T {
  assert.equal(error, undefined, JSON.stringify(error))
  assert(data !== undefined)
  return data
}

test('a person logs in by a generated client', async () => {
  const verifier = randomBytes(32).toString('base64url')
  const challenge = createHash('sha256').update(verifier).digest('base64url')
  const { scene, browser_secret } = done(await clientOf().POST('/scenes', { body: { code_challenge: challenge } }))
  const path = { scene }

  const wechat = await fetch(new URL('/simulator/login', service.url), { method: 'POST' })
  const { code: wxCode, openid } = await wechat.json() as { code: string, openid: string }
  const scanned = done(await clientOf().POST('/scenes/{scene}/scan', { params: { path }, body: { code: wxCode, entry_scene: 1047 } }))
  assert.equal(scanned.client.client_id, 'demo')
  const confirmed = done(await clientOf(scanned.confirm_token).POST('/scenes/{scene}/confirm', { params: { path }, body: {} }))
  assert.equal(confirmed.state, 'confirmed')

  const { code } = done(await clientOf(browser_secret).GET('/scenes/{scene}', { params: { path } }))
  assert(typeof code === 'string')
  const tokens = done(await clientOf().POST('/token', {
    body: { grant_type: 'authorization_code', code, code_verifier: verifier, client_id: 'demo' },
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
  }))
  const claims = done(await clientOf(tokens.access_token).GET('/userinfo'))
  assert.equal(claims.sub, openid)
})

test('what is refused is a problem of the contract', async () => {
  const { error } = await clientOf().GET('/scenes/{scene}', { params: { path: { scene: '0'.repeat(32) } } })
  assert.equal(error?.code, 'unknown_scene')
})

test('the served document says where the service is', async () => {
  const served = await (await fetch(new URL('/openapi.json', service.url))).json() as { servers: unknown }
  assert.deepEqual(served.servers, [{ url: service.url.replace(/\/$/, '') }])
})
