// npm openid-client, in a shop on Express.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { shows } from '../browser/support/chromium.mjs'
import { confirms, isAsked } from '../browser/support/phone.mjs'
import { SUB, sentToLogin, withShop } from './support/world.mjs'

const it = withShop(({ secret }) => ({ client_secret: secret }), (world) => world.opens('node', [world.write('openid-client.mjs')]))

const logIn = ({ shop }) => (page) => page.goto(`${shop}/login`)

describe('openid-client', { timeout: 300_000 }, () => {
  it('logs a person in, by both replicas', async (stage, world) => {
    const before = await world.answered()
    const computer = await sentToLogin(stage, logIn(world))
    await confirms(await stage.phone(computer), 'Alice')
    await computer.waitForURL(`${world.shop}/`)
    const person = JSON.parse(await computer.innerText('body'))
    assert.deepEqual([person.sub, person.nickname, person.wechat_openid], [SUB, 'Alice', SUB])
    const after = await world.answered()
    after.forEach((answers, replica) => assert.ok(answers > before[replica] + 2, `replica ${replica} answered ${answers} after ${before[replica]}`))
  })

  it('is told that the person said no', async (stage, world) => {
    stage.tolerate(/status of 403/)
    const computer = await sentToLogin(stage, logIn(world))
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await phone.getByTestId('decline').click()
    await shows(computer, 'body', 'Not logged in: access_denied')
  })

  it('takes no answer of another issuer', async (stage, world) => {
    stage.tolerate(/status of 403/)
    const computer = await sentToLogin(stage, logIn(world))
    await computer.route(`${world.shop}/callback?*`, (route, request) => {
      const answer = new URL(request.url())
      assert.equal(answer.searchParams.get('iss'), world.login)
      answer.searchParams.set('iss', 'https://login.evil.example')
      return route.continue({ url: answer.href })
    })
    await confirms(await stage.phone(computer))
    await shows(computer, 'body', 'Not logged in: unexpected "iss" (issuer) response parameter value')
  })

  it('takes no answer that was asked for by another browser', async (stage, world) => {
    stage.tolerate(/status of 403/)
    const computer = await sentToLogin(stage, logIn(world))
    const stranger = await sentToLogin(stage, logIn(world))
    const [answer] = await Promise.all([
      computer.waitForRequest((request) => request.url().startsWith(`${world.shop}/callback`)),
      stage.phone(computer).then((phone) => confirms(phone)),
    ])
    await stranger.goto(answer.url())
    await shows(stranger, 'body', 'Not logged in: unexpected "state" response parameter value')
  })
})
