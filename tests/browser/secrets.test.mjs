// No secret that a browser was given stands in what the service says.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { reaches } from './support/chromium.mjs'
import { confirms } from './support/phone.mjs'
import { leaks } from './support/service.mjs'
import { withService } from './support/stage.mjs'

const it = withService()

describe('the log', { timeout: 600_000 }, () => {
  it('T22: tells none of the secrets of a login, each of which would be found', async (stage, service) => {
    const context = await stage.person()
    const computer = await context.newPage()
    await computer.goto(service.url)
    await reaches(computer, 'waiting')
    const cookies = await context.cookies()
    await confirms(await stage.phone(computer))
    await reaches(computer, 'profile')
    cookies.push(...await context.cookies())
    await stage.heard()

    const { found, secrets } = leaks()
    assert.deepEqual(found, [])
    const kinds = ['a browser secret', 'a code of wx.login', 'a confirm token', 'a cookie', 'an authorization code']
    assert.deepEqual(Object.keys(secrets).sort(), kinds)
    assert.match(service.process.log, /route="?\/scenes\/\{scene\}\/confirm/, 'the log that is searched is of this login')
    for (const { name, value } of cookies) {
      for (const words of [value, encodeURIComponent(value), btoa(`site:${value}`)]) {
        assert.equal(leaks(`cookie: ${name}=${words}`).found.length, 1, `${name} is found`)
      }
    }
  })
})
