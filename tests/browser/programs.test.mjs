// Several Mini Programs: whoever types a code is told in which one, and the simulated phone opens the one that is chosen there.

import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe } from 'node:test'
import { ENGLISH, part, photograph, reaches, shows } from './support/chromium.mjs'
import { Installation } from './support/service.mjs'
import { withChromium } from './support/stage.mjs'

const it = withChromium()

const SITES = ['one', 'two'].map((name, n) => `
  [[mini_program]]
  appid = "wx${String(n + 1).repeat(16)}"
  secret = "the-app-secret-of-number-${name}-000"
  name = "Login ${name}"

  [[client]]
  client_id = "${name}"
  name = "Site ${name}"
  mini_program = "wx${String(n + 1).repeat(16)}"
  redirect_uris = ["https://${name}.example/callback"]
  client_secret = "the-secret-of-client-${name}-0000000"
  short_codes = true
`)

describe('of two Mini Programs', { timeout: 600_000 }, () => {
  it('a code is typed in the one that the page names', async (stage) => {
    stage.tolerate(/status of 404/)
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-browser-'))
    const file = path.join(dir, 'scanlogin.toml')
    fs.writeFileSync(file, SITES.join('\n'))
    const installation = await Installation.start({ CONFIG: file })
    try {
      const context = await stage.person(ENGLISH)
      const computers = []
      for (const site of ['one', 'two']) {
        const computer = await context.newPage()
        const redirectUri = `https://${site}.example/callback`
        await computer.goto(
          `${installation.wire.url}/authorize?client_id=${site}&response_type=code&scope=openid&redirect_uri=${redirectUri}`,
        )
        await reaches(computer, 'waiting')
        computers.push(computer)
      }
      const [first, computer] = computers
      const phone = await stage.phone(computer)
      for (const [page, name] of [[first, 'Login one'], [computer, 'Login two']]) {
        await part(page, 'type').click()
        await shows(page, '[part=text]', `Open the Mini Program “${name}”.`)
      }
      const code = await part(computer, 'short-code').innerText()

      await phone.goto(new URL('/simulator/phone', phone.url()).href)
      /** By whoever opened this Mini Program. */
      const types = async (appid) => {
        await phone.getByTestId('program').selectOption(appid)
        await phone.getByTestId('link').fill(code)
        await phone.getByTestId('enter').click()
        await phone.getByTestId('scan').click()
      }
      await types('wx1111111111111111')
      await shows(phone, 'h1', 'No such code')
      await phone.getByTestId('close').click()
      await photograph(phone, 'phone-mini-programs')
      await types('wx2222222222222222')
      await shows(phone, '[data-testid=site]', 'Site two')
      await reaches(computer, 'scanned')
      await stage.clear()
    } finally {
      await installation.stop()
      fs.rmSync(dir, { recursive: true })
    }
  })
})
