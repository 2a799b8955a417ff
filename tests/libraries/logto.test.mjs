// Logto's connector for OpenID Connect, with the settings that docs/howto.md has for Logto.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { shows } from '../browser/support/chromium.mjs'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { settingsOf } from './support/howto.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const PROGRAM = fileURLToPath(new URL('support/logto.mjs', import.meta.url))

const it = withShop(({ secret }) => ({ client_secret: secret }), (world) => {
  const { shop } = world
  return world.opens('node', [PROGRAM], { LOGTO: JSON.stringify({ settings: settingsOf('Logto', world), shop }) })
})

const logIn = ({ shop }) => (page) => page.goto(`${shop}/login`)

describe('Logto', { timeout: 300_000 }, () => {
  it('logs a person in', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await computer.waitForURL((url) => url.href.startsWith(`${world.shop}/callback?`))
    const { id, rawData, ...rest } = JSON.parse(await computer.innerText('body'))
    assert.deepEqual([id, rawData.iss, rawData.aud, rawData.nickname], [SUB, world.login, 'shop', 'Alice'])
    assert.deepEqual(rest, {}, 'it takes neither the nickname for a name nor anything else')
  })

  it('is told that the person said no', async (stage, world) => {
    stage.tolerate(/status of 403/)
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await shows(computer, 'body', 'Not logged in')
    await shows(computer, 'body', '"error":"access_denied"')
  })
})
