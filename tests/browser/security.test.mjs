// What a page must not let happen.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { part, reaches, shows } from './support/chromium.mjs'
import { confirms, gives, isAsked } from './support/phone.mjs'
import { withService } from './support/stage.mjs'

const it = withService()

describe('a page', { concurrency: 2, timeout: 600_000 }, () => {
  it('shows a nickname as text, whatever it is', async (stage, service) => {
    const nickname = '<img src=x onerror="document.title=\'owned\'"><script>document.title=1</script>'
    const computer = await stage.computer(service.url)
    // Keeps the name on the screen until it has been looked at.
    let goOn
    const looked = new Promise((resolve) => { goOn = resolve })
    await computer.route('**/demo/callback', async (route) => {
      await looked
      await route.continue()
    })
    const phone = await stage.phone(computer)
    await isAsked(phone)
    await gives(phone)
    await phone.getByTestId('nickname').evaluate((input, value) => {
      input.removeAttribute('maxlength')
      input.value = value
    }, nickname.slice(0, 64))
    await phone.getByTestId('confirm').click()
    await reaches(computer, 'confirmed')
    await shows(computer, '#status-text', nickname.slice(0, 64))
    goOn()
    await reaches(computer, 'profile')
    await shows(computer, '#profile-title', nickname.slice(0, 64))
    assert.equal(await computer.locator('img[src="x"]').count(), 0)
    assert.match(await computer.title(), /scanlogin/)
  })

  it('runs no script but the service\'s own', async (stage, service) => {
    stage.tolerate(/security policy|Content Security Policy/i)
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    for (const page of [computer, phone]) {
      const stopped = await page.evaluate(() => new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => resolve(effectiveDirective), { once: true })
        const script = document.createElement('script')
        script.textContent = 'window.owned = true'
        document.body.append(script)
      }))
      assert.equal(stopped, 'script-src-elem')
      assert.equal(await page.evaluate(() => window.owned), undefined)
    }
  })

  it('holds no secret where a script could read it', async (stage, service) => {
    const context = await stage.person()
    const computer = await context.newPage()
    const started = computer.waitForResponse((response) => response.url().endsWith('/scenes'))
    await computer.goto(service.url)
    const { browser_secret: secret } = await (await started).json()
    await reaches(computer, 'waiting')
    const readable = await computer.evaluate(() => [
      document.cookie, JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.documentElement.outerHTML,
    ].join())
    assert.ok(secret.length >= 22)
    assert.ok(!readable.includes(secret))
    assert.equal(await computer.evaluate(() => document.cookie), '')
    const cookies = await context.cookies()
    assert.deepEqual(cookies.filter(({ httpOnly, sameSite }) => !httpOnly || sameSite !== 'Lax'), [])
  })

  it('starts over when its code is refused', async (stage, service) => {
    stage.tolerate(/\/demo\/callback$/)
    const computer = await stage.computer(service.url)
    await computer.route('**/demo/callback', (route) => {
      const { code, state } = route.request().postDataJSON()
      return route.continue({ postData: JSON.stringify({ code: `${code.slice(0, -2)}AA`, state }) })
    })
    await confirms(await stage.phone(computer), 'Too late')
    await reaches(computer, 'error')
    await shows(computer, '#status-title', 'This login can no longer be finished')
    await shows(computer, '[part~=refresh]', 'Start over')
    await part(computer, 'refresh').click()
    await reaches(computer, 'waiting')
  })

  it('T7: takes no code that another browser was given (login CSRF)', async (stage, service) => {
    stage.tolerate(/\/demo\/callback$/)
    const attacker = await stage.computer(service.url)
    const victim = await stage.computer(service.url)
    await reaches(victim, 'waiting')

    // The attacker logs in with a phone of their own, and keeps the code to themselves.
    let release
    const held = new Promise((resolve) => { release = resolve })
    let given
    const presented = new Promise((resolve) => { given = resolve })
    await attacker.route('**/demo/callback', async (route) => {
      given(route.request().postDataJSON())
      await held
      await route.continue()
    })
    await confirms(await stage.phone(attacker), 'Mallory')
    const { code, state } = await presented

    const ownState = await victim.evaluate(() => JSON.parse(sessionStorage.getItem('scan-login')).begun.state)
    assert.notEqual(ownState, state)
    for (const planted of [state, ownState]) {
      const answer = await victim.evaluate(async (body) => {
        const reply = await fetch('/demo/callback', {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
        })
        return { status: reply.status, ...await reply.json() }
      }, { code, state: planted })
      assert.equal(answer.status, 400)
      assert.equal(answer.code, 'invalid_request')
    }
    const { profile } = await victim.evaluate(async () => (await fetch('/demo/profile')).json())
    assert.equal(profile, null, 'the victim is logged in as nobody')

    release()
    await reaches(attacker, 'profile')
    await shows(attacker, '#profile-title', 'Hello, Mallory')
  })
})
