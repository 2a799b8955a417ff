// Words that somebody else chose, on every place of both pages that shows any: as they are, as text, and as nothing else (T19).

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { describe } from 'node:test'
import { reaches } from './support/chromium.mjs'
import { gives, isAsked } from './support/phone.mjs'
import { withService } from './support/stage.mjs'

const PAYLOADS = JSON.parse(fs.readFileSync(new URL('../payloads.json', import.meta.url)))
const ALL = Object.values(PAYLOADS).flat()

/** The longest nickname that the service takes. */
const CODE_POINTS = 64

const it = withService()

/** Lets the page draw itself with the words in the place of everything that somebody else words. Runs in the page. */
async function drawn({ kind, all }) {
  const { createI18n } = await import(kind === 'phone' ? '/simulator/assets/shared/i18n.js' : '/assets/shared/i18n.js')
  const { strings } = await import(kind === 'phone' ? '/simulator/assets/phone/strings.js' : '/assets/demo/strings.js')
  const { createView } = await import(kind === 'phone' ? '/simulator/assets/phone/view.js' : '/assets/demo/view.js')
  const i18n = createI18n(strings, () => {})
  const view = createView(i18n, () => {}, () => {})
  const text = (id) => document.getElementById(id).textContent
  const wanted = (key, words) => i18n.t(key, words)
  const elements = () => document.querySelectorAll('body *').length

  const asPhone = (words) => {
    const person = { openid: words, name: words, picture: words }
    const asked = {
      client: { name: words, domain: words, logo_url: words },
      browser: { name: words, os: words, ip: words, place: words },
      warning: words,
      match_choices: [words, words, words],
    }
    const model = { screen: 'ask', scene: 'x', person, people: [person], asked, number: null, wrong: new Set(), busy: false, problem: null }
    view.render(model)
    const seen = [
      [text('title'), wanted('askTitle')],
      ...['site-name', 'site-domain'].map((id) => [text(id), words]),
      [text('fact-browser'), wanted('browserOn', asked.browser)],
      ...['fact-ip', 'fact-place', 'warning-text', 'bar-name', 'openid'].map((id) => [text(id), words]),
      [text('choices'), words + words + words],
    ]
    view.render({ ...model, screen: 'choose' })
    seen.push([document.querySelector('#people label > span:not(.avatar)').textContent, words])
    view.render({ ...model, screen: 'error', problem: { code: words, state: words, errcode: words, requestId: words } })
    seen.push([text('title'), wanted('problem_other')[0]])
    seen.push([text('technical'), `${wanted('errcode', { errcode: words })} · ${wanted('requestId', { id: words })}`])
    return seen
  }

  /** The demo site's own page; what <scan-login> shows is tried by itself. */
  const asComputer = (words) => {
    const profile = { nickname: words, picture: words, sub: words, wechat_openid: words, amr: [words], auth_time: 0 }
    view({ state: 'profile', connection: words, scene: words, profile })
    return [[text('profile-title'), wanted('profileTitle', { name: words })], [text('openid'), words]]
  }

  const draw = kind === 'phone' ? asPhone : asComputer
  draw('Nobody')
  const count = elements()
  const title = document.title
  return all.flatMap((words) => {
    try {
      const wrong = draw(words).filter(([found, expected]) => found !== expected)
      if (elements() !== count) wrong.push(`${elements() - count} elements more`)
      if (document.title !== title) wrong.push(document.title)
      return wrong.length ? [{ words, wrong }] : []
    } catch (error) {
      return [{ words, wrong: String(error) }]
    }
  })
}

/** Lets <scan-login> live through a login whose service words everything so. Runs in the page. */
async function told({ all }) {
  const urls = Object.fromEntries(['code', 'events', 'status'].map((what) => [`${what}_url`, `${location.origin}/told/${what}`]))
  let words
  let state
  window.fetch = async (url) => {
    const answer = state()
    if (String(url).endsWith('/scenes')) return Response.json({ scene: words, id: words, state: 'waiting', expires_in: 60, browser_secret: words, ...urls })
    if (!String(url).endsWith('/told/events')) return Response.json({})
    const events = answer.map((data) => `event: ${data.state}\nid: ${data.state}\ndata: ${JSON.stringify({ ...data, expires_in: 60 })}\n\n`)
    return new Response(events.join(''), { headers: { 'content-type': 'text/event-stream' } })
  }
  const wrong = []
  for (words of all) {
    // A stand-in for the code would only be asked for in vain.
    const profile = { nickname: words, avatar_url: words }
    state = () => [{ state: 'scanned', match_number: words }, { state: 'confirmed', profile, code: words }]
    const login = Object.assign(document.createElement('scan-login'), { lang: 'en' })
    const shown = (part) => login.shadowRoot.querySelector(`[part~=${part}]`).textContent
    const elements = () => login.shadowRoot.querySelectorAll('*').length
    const count = elements()
    const seen = []
    const see = (name, look) => new Promise((resolve) => {
      login.addEventListener(`scan-login:${name}`, () => {
        seen.push(...look())
        resolve()
      })
    })
    const ends = [
      see('scanned', () => [[shown('match'), words], [shown('text'), `Choose ${words} on the phone in your own hand, and tell it to nobody.`]]),
      see('confirmed', () => [[shown('text'), words ? `Logging in as ${words}…` : 'Logging you in…']]),
    ]
    document.body.append(login)
    await Promise.all(ends)
    login.fail({ code: words, detail: words, words: [words, words] })
    seen.push([shown('title'), words], [shown('text'), words], [shown('technical'), words])
    const differing = seen.filter(([found, expected]) => found !== expected)
    if (elements() !== count) differing.push(`${elements() - count} elements more`)
    if (differing.length) wrong.push({ words, differing })
    login.remove()
  }
  return wrong
}

describe('words of somebody else', { concurrency: 2, timeout: 600_000 }, () => {
  it('are text on the computer\'s page', async (stage, service) => {
    assert.ok(ALL.length >= 200)
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    assert.deepEqual(await computer.evaluate(drawn, { kind: 'computer', all: ALL }), [])
  })

  it('are text in the web component', async (stage, service) => {
    // Of its picture there is none.
    stage.tolerate(/\/told\/code$/)
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    assert.deepEqual(await computer.evaluate(told, { all: ALL }), [])
  })

  it('are text on the phone\'s page', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    assert.deepEqual(await phone.evaluate(drawn, { kind: 'phone', all: ALL }), [])
  })

  for (const [kind, [words]] of Object.entries(PAYLOADS)) {
    it(`are text as a nickname all the way: ${kind}`, async (stage, service) => {
      const computer = await stage.computer(service.url)
      const phone = await stage.phone(computer)
      await isAsked(phone)
      const given = Array.from(words).slice(0, CODE_POINTS).join('')
      await gives(phone)
      await phone.getByTestId('nickname').evaluate((input, value) => {
        input.removeAttribute('maxlength')
        input.value = value
      }, given)
      await phone.getByTestId('confirm').click()
      await reaches(computer, 'profile')
      const { profile } = await computer.evaluate(async () => (await fetch('/demo/profile')).json())
      // What hides or turns round is left out before anybody is told.
      const kept = given.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, '').normalize('NFC').trim()
      assert.equal(profile.nickname, kept)
      const title = computer.locator('#profile-title')
      assert.equal(await title.evaluate((element) => element.textContent), `Hello, ${kept}`)
      assert.equal(await title.evaluate((element) => element.childElementCount), 0)
    })
  }
})
