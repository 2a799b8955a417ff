// npm oidc-client-ts: a page is the client, and there is no backend.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import { describe } from 'node:test'
import { shows } from '../browser/support/chromium.mjs'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { program } from './support/howto.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const { resolve } = createRequire(import.meta.url)
/** What a bundler would put into one file. */
const MODULES = {
  'oidc-client-ts': resolve('oidc-client-ts').replace(/dist\/.*/, 'dist/esm/oidc-client-ts.js'),
  'jwt-decode': resolve('jwt-decode').replace(/build\/.*/, 'build/esm/index.js'),
}

const page = () => {
  const imports = Object.fromEntries(Object.keys(MODULES).map((name) => [name, `/${name}.js`]))
  return `<!doctype html><title>The Shop</title><link rel="icon" href="data:,"><script type="importmap">${JSON.stringify({ imports })}</script>
<button id="login">Log in</button><p id="who"></p><script type="module" src="/page.js"></script>`
}

/** Nothing but files. */
function serve(world) {
  const files = { '/page.js': program('page.js', world) }
  for (const [name, file] of Object.entries(MODULES)) files[`/${name}.js`] = fs.readFileSync(file, 'utf8')
  const server = http.createServer((request, reply) => {
    const { pathname } = new URL(request.url, world.shop)
    reply.setHeader('content-type', files[pathname] ? 'text/javascript' : 'text/html')
    reply.end(files[pathname] ?? page())
  })
  server.unref()
  return new Promise((listening) => { server.listen(new URL(world.shop).port, '127.0.0.1', listening) })
}

const it = withShop(({ shop }) => ({ origins: [shop] }), serve)

const logIn = ({ shop }) => async (page) => {
  await page.goto(`${shop}/`)
  await page.getByRole('button').click()
}

describe('oidc-client-ts', { timeout: 300_000 }, () => {
  it('logs a person in', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await shows(computer, '#who', SUB)
    const kept = await computer.evaluate(() => JSON.parse(Object.values({ ...sessionStorage }).find((text) => text.includes('access_token'))))
    assert.deepEqual([kept.profile.iss, kept.profile.aud, kept.profile.nickname], [world.login, 'shop', 'Alice'])
    assert.match(JSON.parse(Buffer.from(kept.id_token.split('.')[1], 'base64url')).nonce, /^[0-9a-f-]{36}$/)
  })

  it('is told that the person said no', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await shows(computer, '#who', 'Not logged in: access_denied')
  })

  it('takes no answer that it did not ask for', async (stage, world) => {
    const visitor = await stage.computer(`${world.shop}/callback?code=x&state=y`)
    await shows(visitor, '#who', 'Not logged in: No matching state found in storage')
  })
})
