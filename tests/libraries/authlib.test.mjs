// Python's Authlib, in a shop on Flask.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { shows } from '../browser/support/chromium.mjs'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const FLASK = fileURLToPath(new URL('../../target/libraries/bin/flask', import.meta.url))

const open = (world, change) => world.opens(FLASK, ['--app', world.write('shop.py', change), 'run', '--port', new URL(world.shop).port])

const it = withShop(({ secret }) => ({ client_secret: secret }), async (world) => { world.flask = await open(world) })

const logIn = ({ shop }) => (page) => page.goto(`${shop}/login`)

describe('Authlib', { timeout: 300_000 }, () => {
  it('logs a person in', async (stage, world) => {
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await computer.waitForURL(`${world.shop}/`)
    const person = JSON.parse(await computer.innerText('body'))
    assert.deepEqual([person.sub, person.nickname], [SUB, 'Alice'])
  })

  it('is told that the person said no', async (stage, world) => {
    stage.tolerate(/status of 403/)
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await shows(computer, 'body', 'Not logged in: access_denied')
  })

  it('is refused with a wrong secret', async (stage, world) => {
    stage.tolerate(/status of 403/)
    await world.flask.end()
    world.flask = await open(world, (text) => text.replace(world.secret, 'a secret of somebody else'))
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer))
    await shows(computer, 'body', 'Not logged in: invalid_client')
  })
})
