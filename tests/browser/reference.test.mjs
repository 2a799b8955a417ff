// The page of the contract: everything of it is served by the service itself.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { withService } from './support/stage.mjs'

const it = withService()

describe('the page of the contract', { timeout: 120_000 }, () => {
  it('shows every call of the document, and asks nobody else for anything', async (stage, service) => {
    const context = await stage.person()
    const page = await context.newPage()
    const elsewhere = []
    page.on('request', (request) => {
      const url = new URL(request.url())
      if (url.protocol !== 'data:' && url.origin !== new URL(service.url).origin) elsewhere.push(request.url())
    })
    await page.goto(new URL('/openapi', service.url).href)
    const { paths } = await (await fetch(new URL('/openapi.json', service.url))).json()
    const calls = Object.values(paths).flatMap((path) => Object.keys(path)).length
    await page.locator('.opblock').nth(calls - 1).waitFor()
    assert.equal(await page.locator('.opblock').count(), calls)
    await page.locator('.opblock-summary-path', { hasText: '/scenes/{scene}/scan' }).click()
    await page.getByText('wechat_blocked_user').first().waitFor()
    assert.equal(await page.locator('.try-out').count(), 0)
    assert.deepEqual(elsewhere, [])
  })
})
