// With Redis, as in production: what a page does while something is away, and after.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { part, passes, reaches, sceneOf, shows } from './support/chromium.mjs'
import { confirms, isAsked } from './support/phone.mjs'
import { Installation } from './support/service.mjs'
import { withChromium } from './support/stage.mjs'
import { until } from './support/until.mjs'

/** Chromium tells of every request that failed. */
const FAILED_REQUESTS = /Failed to load resource/

const play = withChromium()

/** Each has an installation of its own to break. */
const it = (name, story) => play(name, async (stage) => {
  stage.tolerate(FAILED_REQUESTS)
  const installation = await Installation.start()
  try {
    await story(stage, installation)
  } catch (error) {
    error.message += `\n${installation.service.process.log}`
    throw error
  } finally {
    await installation.stop()
  }
})

const isConnected = (page, how) => page.locator(`#app[data-connection="${how}"]`).waitFor()

describe('a login', { concurrency: 3, timeout: 600_000 }, () => {
  it('goes on by itself when the store was away and is back', async (stage, { redis, wire }) => {
    const computer = await stage.computer(wire.url)
    await reaches(computer, 'waiting')
    await isConnected(computer, 'open')
    const scene = await sceneOf(computer)
    redis.freeze()
    wire.cut()
    wire.mend()
    await isConnected(computer, 'reconnecting')
    await shows(computer, '[part=connection]', 'Reconnecting…')
    redis.thaw()
    await isConnected(computer, 'open')
    assert.equal(await sceneOf(computer), scene)
    await confirms(await stage.phone(computer), 'Patient')
    await reaches(computer, 'profile')
  })

  it('that begins while the store is away says so, and goes on by one click', async (stage, { redis, wire }) => {
    const computer = await stage.computer(wire.url)
    await reaches(computer, 'waiting')
    const scene = await sceneOf(computer)
    redis.freeze()
    await computer.reload()
    await reaches(computer, 'error')
    await shows(computer, '#status-title', 'The service is catching its breath')
    redis.thaw()
    // Playwright clicks a button as soon as it is enabled: here, when Retry-After is over.
    await part(computer, 'refresh').click()
    await reaches(computer, 'waiting')
    assert.equal(await sceneOf(computer), scene, 'the login that was under way')
  })

  it('is confirmed although the store was away when the person said yes', async (stage, { redis, wire }) => {
    const computer = await stage.computer(wire.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    redis.freeze()
    await phone.getByTestId('confirm').click()
    await reaches(phone, 'error')
    await shows(phone, 'h1', 'The service is catching its breath')
    redis.thaw()
    await phone.getByTestId('retry').click()
    await reaches(phone, 'confirmed')
    await reaches(computer, 'profile')
  })

  it('that Redis forgot is told as lost, and a new code comes by itself', async (stage, { redis, wire }) => {
    const computer = await stage.computer(wire.url)
    await reaches(computer, 'waiting')
    await isConnected(computer, 'open')
    const scene = await sceneOf(computer)
    await redis.kill()
    await redis.run()
    await passes(computer, 'expired')
    await until('a new code', async () => (await sceneOf(computer) ?? scene) !== scene)
    await reaches(computer, 'waiting')
    await confirms(await stage.phone(computer), 'Again')
    await reaches(computer, 'profile')
  })

  it('confirmed while the browser\'s connection was cut arrives', async (stage, { wire }) => {
    const computer = await stage.computer(wire.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    wire.cut()
    await phone.getByTestId('confirm').click()
    await reaches(phone, 'confirmed')
    await isConnected(computer, 'reconnecting')
    wire.mend()
    await reaches(computer, 'profile')
  })

  it('survives the death of its server', async (stage, { service, wire }) => {
    const computer = await stage.computer(wire.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    await service.kill()
    await isConnected(computer, 'reconnecting')
    await service.run()
    await isConnected(computer, 'open')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'profile')
  })

  it('survives a restart that nobody was to notice', async (stage, { service, wire }) => {
    const computer = await stage.computer(wire.url)
    await reaches(computer, 'waiting')
    await isConnected(computer, 'open')
    await service.stop()
    await service.run()
    await confirms(await stage.phone(computer), 'Unaware')
    await reaches(computer, 'profile')
    const shown = new Set(computer.passed)
    shown.delete('scanned') // told only if the stream is back before the person confirms
    assert.deepEqual([...shown], ['loading', 'waiting', 'confirmed', 'profile'])
  })
})
