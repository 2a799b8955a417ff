// Auth.js (@auth/express), with the service as a provider of type "oidc".

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const it = withShop(
  ({ shop, secret }) => ({ client_secret: secret, redirect_uris: [`${shop}/auth/callback/scanlogin`] }),
  async (world) => { world.program = await world.opens('node', [world.write('auth.mjs')]) },
)

/** The library's own page has one button for each provider. */
const logIn = ({ shop }) => async (page) => {
  // With a picture that is at the library's makers.
  await page.route('https://authjs.dev/**', (route) => route.fulfill({ contentType: 'image/svg+xml', body: '<svg xmlns="http://www.w3.org/2000/svg"/>' }))
  await page.goto(`${shop}/auth/signin`)
  await page.getByRole('button', { name: 'Sign in with WeChat' }).click()
}

describe('Auth.js', { timeout: 300_000 }, () => {
  it('logs a person in', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await computer.waitForURL(`${world.shop}/`)
    assert.deepEqual(JSON.parse(await computer.innerText('body')), { id: SUB, name: 'Alice' })
  })

  it('is told that the person said no', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await computer.waitForURL(`${world.shop}/auth/signin?error=OAuthCallbackError`)
    assert.match(world.program.log, /OAuthCallbackError: OAuth Provider returned an error/)
    await computer.goto(`${world.shop}/`)
    assert.equal(await computer.innerText('body'), '{}')
  })
})
