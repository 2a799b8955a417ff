// Apache with mod_auth_openidc, before something that knows nothing of logins.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { describe } from 'node:test'
import { freePort } from '../browser/support/service.mjs'
import { shows } from '../browser/support/chromium.mjs'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { program } from './support/howto.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const MODULES = '/usr/lib/apache2/modules'

/** What stands behind Apache says what it is told. */
async function answerer() {
  const server = http.createServer(({ headers }, reply) => {
    reply.setHeader('content-type', 'application/json').end(JSON.stringify({ sub: headers.oidc_claim_sub, nickname: headers.oidc_claim_nickname }))
  })
  server.unref()
  const port = await freePort()
  await new Promise((listening) => { server.listen(port, '127.0.0.1', listening) })
  return port
}

/** What Debian's own configuration says otherwise, and the authority of this test. */
const around = (world, port, lines) => `
ServerRoot ${world.dir}
ServerName localhost
Listen 127.0.0.1:${new URL(world.shop).port}
PidFile apache.pid
ErrorLog apache.log
${process.getuid() === 0 ? 'User www-data\nGroup www-data\n' : ''}
${['mpm_event', 'authn_core', 'authz_core', 'authz_user', 'proxy', 'proxy_http', 'rewrite', 'auth_openidc'].map((name) => `LoadModule ${name}_module ${MODULES}/mod_${name}.so\n`).join('')}
OIDCCABundlePath ${world.ca}
ProxyPass /callback !
ProxyPass / http://127.0.0.1:${port}/
${lines}`

async function open(world, change = (text) => text) {
  // Apache's children are nobody who may read what we wrote.
  fs.chmodSync(world.dir, 0o711)
  fs.chmodSync(world.ca, 0o644)
  world.behind ??= await answerer()
  const file = path.join(world.dir, 'apache.conf')
  fs.writeFileSync(file, change(around(world, world.behind, program('shop.conf', world))), { mode: 0o600 })
  // One process, so that its death is the end of it.
  return world.opens('apache2', ['-X', '-f', file])
}

const it = withShop(
  ({ secret }) => ({ client_secret: secret, id_token_signed_response_alg: 'RS256' }),
  async (world) => { world.apache = await open(world) },
)

const logIn = ({ shop }) => (page) => page.goto(`${shop}/members?a=b`)

describe('mod_auth_openidc', { timeout: 300_000 }, () => {
  it('logs a person in, and takes them where they wanted to go', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await computer.waitForURL(`${world.shop}/members?a=b`)
    assert.deepEqual(JSON.parse(await computer.innerText('body')), { sub: SUB, nickname: 'Alice' })
  })

  it('is told that the person said no', async (stage, world) => {
    stage.tolerate(/status of 4\d\d/)
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await shows(computer, 'body', 'access_denied')
  })

  it('is refused with a wrong secret', async (stage, world) => {
    stage.tolerate(/status of [45]\d\d/)
    await world.apache.end()
    world.apache = await open(world, (text) => text.replace(world.secret, 'a-secret-of-somebody-else'))
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer))
    await shows(computer, 'body', 'OpenID Connect Provider error')
    assert.match(fs.readFileSync(path.join(world.dir, 'apache.log'), 'utf8'), /invalid_client/)
  })
})
