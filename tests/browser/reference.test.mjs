// The page of the contract: everything of it is served by the service itself.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { DARK, LIGHT, MOBILE_PHONE, isAccessible, photograph } from './support/chromium.mjs'
import { withService } from './support/stage.mjs'

const it = withService()

/** Of an element that is a ground its own colour's brightness, of one that is written that of its ink. */
async function brightness(page, selector, property) {
  const colour = await page.locator(selector).first().evaluate((element, property) => getComputedStyle(element)[property], property)
  return colour.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)
}

async function isOf(scheme, page, ground, ink) {
  const [under, over] = [await brightness(page, ground, 'backgroundColor'), await brightness(page, ink, 'color')]
  assert.equal(under > over, scheme === 'light', `${over} on ${under}`)
}

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
    const { paths, webhooks } = await (await fetch(new URL('/openapi.json', service.url))).json()
    const calls = [...Object.values(paths), ...Object.values(webhooks)].flatMap((path) => Object.keys(path)).length
    await page.locator('.opblock').nth(calls - 1).waitFor()
    assert.equal(await page.locator('.opblock').count(), calls)
    await page.locator('.opblock-summary-path', { hasText: '/scenes/{scene}/scan' }).click()
    await page.getByText('wechat_blocked_user').first().waitFor()
    assert.equal(await page.locator('.try-out').count(), 0)
    assert.match(await page.title(), /scanlogin/)
    assert.deepEqual(elsewhere, [])
  })

  for (const [scheme, option] of Object.entries({ light: LIGHT, dark: DARK })) {
    it(`is made for a phone too, and is ${scheme} where the person wants that`, async (stage, service) => {
      const context = await stage.person({ ...MOBILE_PHONE, ...option })
      const page = await context.newPage()
      await page.goto(new URL('/openapi/', service.url).href)
      await page.locator('.opblock').first().waitFor()
      await photograph(page, `openapi-phone-${scheme}`)
      assert.equal(await page.evaluate(() => window.innerWidth), MOBILE_PHONE.viewport.width, 'it is not shrunk')
      await isOf(scheme, page, 'body', '.info .title')
    })
  }
})

describe('the page of what can go wrong', { timeout: 120_000 }, () => {
  for (const [scheme, option] of Object.entries({ light: LIGHT, dark: DARK })) {
    it(`says of each code what it means and what to do, on a phone and a computer: ${scheme}`, async (stage, service) => {
      const { components } = await (await fetch(new URL('/openapi.json', service.url))).json()
      const codes = components.schemas.Problem.properties.code.enum
      for (const [name, device] of Object.entries({ phone: MOBILE_PHONE, desktop: {} })) {
        const context = await stage.person({ ...device, ...option })
        const page = await context.newPage()
        // Where the `type` of a problem leads.
        const { type } = await (await fetch(new URL('/nowhere', service.url))).json()
        await page.goto(type)
        await page.locator('#not_found:target').waitFor()
        if (name === 'phone') assert.equal(await page.evaluate(() => window.innerWidth), 390, 'it is not shrunk')
        await isAccessible(page, `${name}, ${scheme}`)
        await photograph(page, `problems-${name}-${scheme}`)
        const said = await page.locator('main section').evaluateAll((all) => all.map(({ id, innerText }) => [id, innerText]))
        assert.deepEqual(said.map(([id]) => id).sort(), [...codes].sort())
        for (const [id, text] of said) assert.match(text, new RegExp(`^${id} [45]\\d\\d\\s+[A-Z].+\\. [A-Z].+\\.\\s+[A-Z].+\\.$`), id)
        await isOf(scheme, page, 'main section', 'h1')
      }
    })
  }
})
