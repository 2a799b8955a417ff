// A code that nobody scans in time.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { part, passes, reaches, sceneOf, shows } from './support/chromium.mjs'
import { withService } from './support/stage.mjs'

const AUTOMATIC = 2

const it = withService({ SCENE_TTL: 2 })

describe('a code that expires', { concurrency: 2, timeout: 600_000 }, () => {
  it('is renewed twice by itself, then by one click', async (stage, service) => {
    const context = await stage.person()
    const computer = await context.newPage()
    const scenes = []
    computer.on('response', (response) => {
      if (response.request().method() === 'POST' && response.url().endsWith('/scenes')) scenes.push(response.status())
    })
    await computer.goto(service.url)
    // While a new one comes by itself, the page says that instead.
    await shows(computer, '#status-text', 'A code works only for a short while')
    await reaches(computer, 'expired')
    assert.equal(scenes.length, 1 + AUTOMATIC)
    assert.equal(computer.passed.filter((state) => state === 'expired').length, 1 + AUTOMATIC)

    const seen = computer.passed.length
    await part(computer, 'refresh').click()
    await passes(computer, 'waiting', seen)
    assert.equal(scenes.length, 2 + AUTOMATIC)
  })

  it('has expired on the phone too', async (stage, service) => {
    stage.tolerate(/status of 410/)
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    const context = await stage.person()
    const phone = await context.newPage()
    // Scans by itself, and is asked in time or told that it is too late.
    await phone.goto(`${service.url}/simulator/phone?scene=${await sceneOf(computer)}&auto=1`)
    await phone.locator('#app[data-code=expired]').waitFor()
    await shows(phone, 'h1', 'The code has expired')
    assert.equal(await phone.getByTestId('retry').isVisible(), false, 'trying again would be in vain')
    await passes(computer, 'expired')
  })
})
