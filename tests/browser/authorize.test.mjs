// The page of /authorize: where a site sends its people that uses OpenID Connect, and how they come back.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import {
  CHINESE, DARK, ENGLISH, LIGHT, MOBILE_PHONE, isAccessible, part, photograph, reaches, sceneOf, shows,
} from './support/chromium.mjs'
import { confirms, gives, isAsked } from './support/phone.mjs'
import { claimsOf, howto } from './support/site.mjs'
import { withSites } from './support/stage.mjs'
import { until } from './support/until.mjs'

const it = withSites()

/** What the site is told when the browser is back. */
async function answer(page, site) {
  await page.waitForURL((url) => url.href.startsWith(`${site.origin}/callback?`))
  return Object.fromEntries(new URL(page.url()).searchParams)
}

/** The site sends the browser on, from a page of its own. */
async function sent(stage, site, more = {}, ...options) {
  const context = await stage.person(...options)
  const page = await context.newPage()
  await page.goto(`${site.origin}/callback`)
  await page.goto(site.authorizeUrl(more))
  return page
}

describe('the page of /authorize', { concurrency: 2, timeout: 600_000 }, () => {
  it('says whose login it is, and ends at the site with a code that is good there', async (stage, site) => {
    const computer = await sent(stage, site)
    await reaches(computer, 'waiting')
    await shows(computer, 'h1', 'Log in to The Shop')
    assert.equal(await computer.title(), 'Log in to The Shop')
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await shows(phone, '[data-testid=site]', 'The Shop')
    await reaches(computer, 'scanned')
    await gives(phone, 'Alice')
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'confirmed')
    await shows(computer, '[part=text]', 'Taking Alice back to the site…')
    const { code, ...rest } = await answer(computer, site)
    assert.deepEqual(rest, { state: 'a state', iss: site.service.url })
    const redeemed = await site.redeem(code, { redirect_uri: `${site.origin}/callback` })
    const claims = claimsOf(redeemed.id_token)
    assert.deepEqual([claims.sub, claims.nonce, claims.nickname], ['o-simulated-xiaoming', 'n-1', 'Alice'])
    // The page is not in the way of who goes back.
    await computer.goBack()
    assert.equal(computer.url(), `${site.origin}/callback`)
  })

  for (const [name, no] of Object.entries({
    'a no on the phone': async (computer, stage) => {
      const phone = await stage.phone(computer)
      await isAsked(phone)
      await phone.getByTestId('decline').click()
    },
    'a click on Cancel': (computer) => part(computer, 'cancel').click(),
  })) {
    it(`${name} ends at the site with access_denied`, async (stage, site) => {
      const computer = await sent(stage, site)
      await reaches(computer, 'waiting')
      await no(computer, stage)
      const { error, state, iss, code } = await answer(computer, site)
      assert.deepEqual({ error, state, iss, code }, { error: 'access_denied', state: 'a state', iss: site.service.url, code: undefined })
    })
  }

  it('keeps to what was asked for when the code is renewed', async (stage, site) => {
    const computer = await sent(stage, site)
    await reaches(computer, 'waiting')
    const before = await sceneOf(computer)
    await until('another code', async () => ![before, null].includes(await sceneOf(computer)))
    await confirms(await stage.phone(computer), 'Late')
    const { code, state } = await answer(computer, site)
    assert.equal(state, 'a state')
    const redeemed = await site.redeem(code, { redirect_uri: `${site.origin}/callback` })
    assert.equal(claimsOf(redeemed.id_token).nonce, 'n-1')
  }, { SCENE_TTL: 6 })

  for (const [policy, knows] of Object.entries({ none: true, 'same-origin-allow-popups': true, 'same-origin': false })) {
    it(`in a window of its own, of a page whose opener policy is ${policy}`, async (stage, site) => {
      const [script, back] = howto('In a window of its own')
      site.lines = `<button id="login">Log in</button><script>${script}</script>`
      site.back = back
      if (policy !== 'none') site.headers['cross-origin-opener-policy'] = policy
      const page = await stage.computer(site.origin)
      const [login] = await Promise.all([page.context().waitForEvent('page'), page.locator('#login').click()])
      await reaches(login, 'waiting')
      assert.equal(await login.evaluate(() => Boolean(window.opener)), knows)
      await confirms(await stage.phone(login), 'Alice')
      await shows(knows ? page : login, '#who', 'Alice (o-simulated-xiaoming)')
      if (knows) await until('the window is gone', () => login.isClosed())
      else assert.equal(await page.locator('#who').count(), 0, 'the page was told nothing')
    })
  }

  it('goes on after a reload with the code that was scanned', async (stage, site) => {
    const computer = await sent(stage, site)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await reaches(computer, 'scanned')
    const before = await sceneOf(computer)
    await computer.reload()
    await reaches(computer, 'scanned')
    assert.equal(await sceneOf(computer), before)
    await phone.getByTestId('confirm').click()
    assert.ok((await answer(computer, site)).code)
  })

  it('of two tabs with one login, one goes back to the site', async (stage, site) => {
    const computer = await sent(stage, site)
    await reaches(computer, 'waiting')
    // As a duplicate of a tab, it has what the first one stored.
    const opened = computer.context().waitForEvent('page')
    await computer.evaluate(() => { window.open(location.href) })
    const duplicate = await opened
    await reaches(duplicate, 'waiting')
    assert.equal(await sceneOf(duplicate), await sceneOf(computer))
    const pages = [computer, duplicate]
    await confirms(await stage.phone(computer), 'Twin')
    const isBack = (page) => page.url().startsWith(`${site.origin}/callback?`)
    const stays = async (page) => !isBack(page) && await page.locator('h1').innerText() === 'Another tab goes on with this login'
    await until('both know', async () => pages.some(isBack) && (await Promise.all(pages.map(stays))).some(Boolean))
    const { code } = await answer(pages.find(isBack), site)
    await site.redeem(code, { redirect_uri: `${site.origin}/callback` })
    const other = pages.find((page) => !isBack(page))
    await shows(other, '#leave', 'It does not? Go on in this tab')
    await other.getByTestId('lang').click()
    await shows(other, 'h1', '已在另一个标签页中继续登录')
    await other.getByTestId('leave').click()
    assert.equal((await answer(other, site)).code, code)
  })

  it('speaks as the site asks, and at a click otherwise', async (stage, site) => {
    const computer = await sent(stage, site, { ui_locales: 'zh-CN en' })
    await reaches(computer, 'waiting')
    await shows(computer, 'h1', '登录“The Shop”')
    await shows(computer, '[part=title]', '等待扫码')
    await shows(computer, '#simulator-title', '微信是模拟的')
    const before = await sceneOf(computer)
    await computer.getByTestId('lang').click()
    await shows(computer, 'h1', 'Log in to The Shop')
    await shows(computer, '[part=title]', 'Waiting for your scan')
    assert.equal(await sceneOf(computer), before)
    // Whatever the site asks for, this is what the person picked.
    await computer.reload()
    await reaches(computer, 'waiting')
    await shows(computer, 'h1', 'Log in to The Shop')
    await shows(computer, '[part=title]', 'Waiting for your scan')
    await shows(computer, '#lang', '中文')
  })

  it('says that WeChat is simulated, and offers the phone', async (stage, site) => {
    const computer = await sent(stage, site)
    await reaches(computer, 'waiting')
    await shows(computer, '#simulator', 'WeChat is simulated')
    const [phone] = await Promise.all([computer.context().waitForEvent('page'), computer.getByTestId('open-phone').click()])
    await confirms(phone, 'Clicked')
    assert.ok((await answer(computer, site)).code)
  })

  it('writes the site\'s name as text', async (stage, site) => {
    const computer = await sent(stage, site)
    await reaches(computer, 'waiting')
    const name = '<img src=x onerror="document.title=1"> {name} {person} "x" & \'y\''
    assert.equal(await computer.locator('h1').innerText(), `Log in to ${name}`)
    assert.equal(await computer.locator('img[src="x"]').count(), 0)
    await shows(computer, '#logo', '<')
  }, { CLIENT_NAME: '<img src=x onerror="document.title=1"> {name} {person} "x" & \'y\'' })

  const LOGO = 'https://static.shop.example/logo.svg'
  const withLogo = { table: { logo_url: LOGO } }

  for (const [shape, [width, height]] of Object.entries({ wide: [240, 60], tall: [60, 240], square: [100, 100] })) {
    it(`shows the whole of the site's picture: ${shape}`, async (stage, site) => {
      const context = await stage.person()
      const body = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="100%" height="100%" fill="#f00"/></svg>`
      const asked = []
      await context.route(LOGO, (route, request) => {
        asked.push(request.headers().referer)
        return route.fulfill({ contentType: 'image/svg+xml', body })
      })
      const page = await context.newPage()
      await page.goto(site.authorizeUrl())
      await reaches(page, 'waiting')
      await page.locator('#logo img').waitFor()
      assert.deepEqual(asked, [undefined], 'once, and without the address of this page, which says who logs in where')
      await photograph(page, `authorize-logo-${shape}`)
      const seen = await stage.camera.extent(await page.locator('#logo').screenshot(), [255, 0, 0])
      assert.ok(Math.abs(seen.width / seen.height / (width / height) - 1) < 0.15, `it is ${seen.width} by ${seen.height}`)
      assert.ok(Math.max(seen.width, seen.height) >= 44, `it is ${seen.width} by ${seen.height}`)
    }, withLogo)
  }

  it('has a letter where the site\'s picture does not come', async (stage, site) => {
    stage.tolerate(/Failed to load resource.*logo\.svg$/)
    const context = await stage.person()
    const failed = context.waitForEvent('requestfailed', (request) => request.url() === LOGO)
    await context.route(LOGO, (route) => route.abort('connectionrefused'))
    const page = await context.newPage()
    await page.goto(site.authorizeUrl())
    await failed
    await reaches(page, 'waiting')
    await shows(page, '#logo', 'T')
    assert.equal(await page.locator('#logo img').count(), 0)
  }, withLogo)

  it('tells a visitor on a phone to open the site on a computer', async (stage, site) => {
    const visitor = await sent(stage, site, {}, MOBILE_PHONE)
    await reaches(visitor, 'phone')
    await shows(visitor, '[part=title]', 'Open the site on a computer')
    await part(visitor, 'show').click()
    await reaches(visitor, 'waiting')
    // Beside a code the component's own way out is the one.
    assert.ok(!await visitor.getByTestId('leave').isVisible())
    assert.ok(await part(visitor, 'cancel').isVisible())
  })

  it('lets a visitor on a phone go back to the site', async (stage, site) => {
    const visitor = await sent(stage, site, {}, MOBILE_PHONE)
    await reaches(visitor, 'phone')
    const leave = visitor.getByTestId('leave')
    assert.equal(await leave.innerText(), 'Cancel and go back to the site')
    const { y, height } = await leave.boundingBox()
    assert.ok(y + height <= visitor.viewportSize().height, 'on the first screen')
    await leave.click()
    const { error, state, iss, code } = await answer(visitor, site)
    assert.deepEqual({ error, state, iss, code }, { error: 'access_denied', state: 'a state', iss: site.service.url, code: undefined })
  })

  for (const [tour, options] of Object.entries({
    'desktop-light-en': [LIGHT, ENGLISH], 'desktop-dark-en': [DARK, ENGLISH], 'phone-dark-zh': [MOBILE_PHONE, DARK, CHINESE], 'phone-light-en': [MOBILE_PHONE, LIGHT, ENGLISH],
  })) {
    it(`is accessible and fits in every state: ${tour}`, async (stage, site) => {
      stage.tolerate(/Failed to load resource/)
      const look = async (name) => {
        await isAccessible(computer, `${name} (${tour})`)
        await photograph(computer, `authorize-${tour}-${name}`)
      }
      // Nobody is sent back while they are looked at.
      const context = await stage.person(...options)
      await context.addInitScript(() => {
        const wait = window.setTimeout
        window.setTimeout = (what, ms, ...rest) => (ms === 900 ? 0 : wait(what, ms, ...rest))
      })
      const computer = await context.newPage()
      await computer.goto(site.authorizeUrl({ ui_locales: options.includes(CHINESE) ? 'zh' : 'en' }))
      if (options.includes(MOBILE_PHONE)) {
        await reaches(computer, 'phone')
        await look('phone')
        await part(computer, 'show').click()
      }
      await reaches(computer, 'waiting')
      await look('waiting')
      const phone = await stage.phone(computer)
      await isAsked(phone)
      await reaches(computer, 'scanned')
      await look('scanned')
      await phone.getByTestId('decline').click()
      await reaches(computer, 'declined')
      await look('declined')
      await part(computer, 'refresh').click()
      await confirms(await stage.phone(computer), '小明 🐼')
      await reaches(computer, 'confirmed')
      await look('confirmed')
      await service429(computer)
      await reaches(computer, 'error')
      await look('error')
    })
  }
})

/** The next login is refused as one too many. */
async function service429(computer) {
  await computer.route('**/scenes', (route) => route.fulfill({
    status: 429, headers: { 'retry-after': '9' }, contentType: 'application/problem+json', body: '{"code":"rate_limited","detail":"Too many logins were started from this address."}',
  }))
  await computer.evaluate(() => document.querySelector('scan-login').refresh())
}
