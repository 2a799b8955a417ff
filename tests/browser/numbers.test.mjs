// A site that asks for a number, and for more where somebody came by a picture or a card.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import {
  CHINESE, ENGLISH, MOBILE_PHONE, isInSight, part, reaches, shows, tabTo,
} from './support/chromium.mjs'
import { cameBy, isAsked, numbersOn, picks } from './support/phone.mjs'
import { Service } from './support/service.mjs'
import { withService } from './support/stage.mjs'

const it = withService({ CLIENT_NUMBER_MATCHING: 'on_warning' })

/** Where every login asks for a number. */
async function always(play) {
  const service = await Service.start({ CLIENT_NUMBER_MATCHING: 'on' })
  try {
    await play(service)
  } finally {
    await service.stop()
  }
}

/** With an address that has a place: as much on the screen as there can be. */
async function isPlaced(phone) {
  await phone.route('**/scan', async (route) => {
    const response = await route.fetch()
    const asked = await response.json()
    await route.fulfill({ response, json: { ...asked, browser: { ...asked.browser, place: '中国 杭州' } } })
  })
}

/** What there is to judge by, which nothing lies over before the page is scrolled: the answers stand below it or come after it. */
async function canJudge(phone, when) {
  const foot = await phone.locator('.foot').boundingBox()
  for (const id of ['site', 'warning', 'browser', 'place', 'ip', 'asked']) {
    const box = await phone.getByTestId(id).boundingBox()
    assert.ok(box.y >= 0 && box.y + box.height <= foot.y, `${id}, ${when}: ${box.y} and ${box.height} tall, the answers begin at ${foot.y}`)
  }
}

/** What there is to answer with, and how to. */
async function canAnswer(phone, when) {
  for (const id of ['decline', 'confirm', 'not-me', 'numbers']) await isInSight(phone.getByTestId(id), `${id}, ${when}`)
  await isInSight(phone.locator('#numbers-hint'), `the hint, ${when}`)
}

/** The number on the computer's screen, which its words say too. */
async function numberOn(computer) {
  await reaches(computer, 'scanned')
  const number = await computer.locator('#match').innerText()
  assert.match(number, /^\d\d$/)
  await shows(computer, '#status-text', number)
  return number
}

/** Nothing is left to do on this phone, and nothing is offered. */
async function onlyCloses(phone) {
  assert.deepEqual(await phone.locator('.foot button').filter({ visible: true }).evaluateAll((all) => all.map(({ id }) => id)), ['close'])
}

async function isLoggedIn(computer) {
  const { profile } = await computer.evaluate(async () => (await fetch('/demo/profile')).json())
  return profile !== null
}

describe('a number', { concurrency: 2, timeout: 600_000 }, () => {
  it('is shown once the code is scanned, and whoever picks it on the phone is logged in', (stage) => always(async (service) => {
    const computer = await stage.computer(service.url)
    await reaches(computer, 'waiting')
    assert.equal(await computer.locator('#match').isVisible(), false)
    const phone = await stage.phone(computer, MOBILE_PHONE)
    await isAsked(phone)
    const number = await numberOn(computer)
    const offered = await numbersOn(phone)
    assert.equal(new Set(offered).size, 3, offered.join())
    assert.ok(offered.includes(number), `${number} of ${offered}`)
    await shows(phone, '#numbers-hint', 'does not prove that this login is yours')
    assert.ok(await phone.getByTestId('confirm').isDisabled(), 'nothing is confirmed without one')
    await computer.reload()
    assert.equal(await numberOn(computer), number, 'it stays the same')

    await picks(phone, number)
    await reaches(phone, 'confirmed')
    await reaches(computer, 'profile')
    assert.ok(await isLoggedIn(computer))
  }))

  it('that is wrong twice declines the login on both', (stage) => always(async (service) => {
    stage.tolerate(/status of 403/)
    for (const [language, once, twice, onComputer, what] of [
      [ENGLISH, 'If it shows none of these numbers, decline.', 'do not scan codes that others send you', 'The numbers did not match', 'start again'],
      [CHINESE, '如果电脑上没有这些数字，请拒绝。', '不要扫描别人发来的登录码', '数字不一致', '请重新开始'],
    ]) {
      const computer = await stage.computer(service.url, language)
      const phone = await stage.phone(computer, MOBILE_PHONE, language)
      await isAsked(phone)
      const number = await numberOn(computer)
      const [first, second] = (await numbersOn(phone)).filter((offered) => offered !== number)
      await picks(phone, first)
      await shows(phone, '[data-testid=notice]', once)
      await canAnswer(phone, 'after a wrong one')
      assert.equal(await phone.evaluate(() => document.activeElement.id), 'notice')
      assert.equal(await numberOn(computer), number, 'one is forgiven')
      assert.ok(await phone.getByTestId('match-choice').filter({ hasText: first }).isDisabled())
      await picks(phone, second)
      await reaches(phone, 'declined')
      await shows(phone, '#text', twice)
      await onlyCloses(phone)
      await reaches(computer, 'declined')
      await shows(computer, '#status-title', onComputer)
      await shows(computer, '#status-text', what)
      assert.equal(await isLoggedIn(computer), false)
    }
  }))

  it('that is wrong once leaves it to the person to decline, and then their no is all that is said', (stage) => always(async (service) => {
    stage.tolerate(/status of 403/)
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer, MOBILE_PHONE)
    await isAsked(phone)
    const number = await numberOn(computer)
    await picks(phone, (await numbersOn(phone)).find((offered) => offered !== number))
    await shows(phone, '[data-testid=notice]', 'That was not the number')
    await phone.getByTestId('decline').click()
    await reaches(phone, 'declined')
    await shows(phone, '#text', 'The computer will not be logged in.')
    await reaches(computer, 'declined')
    await shows(computer, '#status-title', 'Declined on the phone')
  }))

  it('stands on a small screen with its hint, whatever the person is warned of', async (stage, service) => {
    stage.tolerate(/status of 403/)
    for (const language of [ENGLISH, CHINESE]) {
      const computer = await stage.computer(service.url, language)
      const phone = await stage.phone(computer, MOBILE_PHONE, language)
      await isPlaced(phone)
      await cameBy(phone, '1048')
      await isAsked(phone)
      await shows(phone, '[data-testid=place]', '杭州')
      await canAnswer(phone, 'at once')
      for (const id of ['site', 'warning', 'browser', 'place', 'ip', 'asked']) await isInSight(phone.getByTestId(id), id)
      await canJudge(phone, 'at once')
      const number = await numberOn(computer)
      await picks(phone, (await numbersOn(phone)).find((offered) => offered !== number))
      await phone.evaluate(() => scrollTo(0, 0))
      await canJudge(phone, 'after a wrong one')
      await phone.locator('.foot').evaluate((foot) => foot.scrollIntoView({ block: 'end' }))
      await isInSight(phone.getByTestId('notice'), 'what was wrong')
      await canAnswer(phone, 'after a wrong one')
    }
  })

  it('is asked for after a warning, and not without', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    await isAsked(phone)
    assert.equal(await phone.getByTestId('warning').isVisible(), false)
    assert.deepEqual(await numbersOn(phone), [])
    await shows(computer, '#status-text', 'Now confirm on your phone.')
    await phone.getByTestId('decline').click()
    await reaches(computer, 'declined')
    await part(computer, 'refresh').click()

    for (const [language, words] of [[ENGLISH, 'if somebody sent you this code'], [CHINESE, '如果这个码是别人发给你的']]) {
      const warned = await stage.phone(computer, language)
      await cameBy(warned, '1048')
      await isAsked(warned)
      await shows(warned, '[data-testid=warning]', words)
      const number = await numberOn(computer)
      await picks(warned, number)
      await reaches(computer, 'profile')
      await computer.getByTestId('logout').click()
      await reaches(computer, 'waiting')
    }
  })

  it('and a warning are in the language of the page, whatever the browser\'s', async (stage, service) => {
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer, CHINESE)
    await phone.getByTestId('lang').click()
    await cameBy(phone, '1049')
    await isAsked(phone)
    await shows(phone, '[data-testid=warning]', 'That alone proves nothing')
  })

  it('helps nobody who was sent a card: that is refused, and the camera still welcome', async (stage, service) => {
    stage.tolerate(/status of 403/)
    const computer = await stage.computer(service.url)
    const phone = await stage.phone(computer)
    await cameBy(phone, '1007')
    await phone.getByTestId('scan').click()
    await reaches(phone, 'error')
    await shows(phone, 'h1', 'Scan the code on the computer')
    await onlyCloses(phone)
    await reaches(computer, 'waiting')
    await isAsked(await stage.phone(computer))
    await reaches(computer, 'scanned')
  })

  it('and all that is asked leave no as near as yes: as large, first in the order, on the same screen', async (stage, service) => {
    for (const [device, language] of [[{}, ENGLISH], [MOBILE_PHONE, CHINESE], [MOBILE_PHONE, ENGLISH]]) {
      const computer = await stage.computer(service.url)
      const phone = await stage.phone(computer, device, language)
      await cameBy(phone, '1048')
      await isAsked(phone)
      const [no, yes] = await Promise.all(['decline', 'confirm'].map((id) => phone.getByTestId(id).boundingBox()))
      assert.deepEqual([no.width, no.height, no.y], [yes.width, yes.height, yes.y])
      assert.ok(no.x < yes.x, 'no comes first')
      const type = (id) => phone.getByTestId(id).evaluate((button) => {
        const { fontSize, fontWeight, visibility, opacity } = getComputedStyle(button)
        return { fontSize, fontWeight, visibility, opacity }
      })
      // What can't be pressed yet may look paler.
      await phone.getByTestId('match-choice').first().click()
      assert.deepEqual(await type('decline'), await type('confirm'))
      await phone.locator('#title').focus()
      await tabTo(phone, 'decline')
      await phone.keyboard.press('Tab')
      assert.equal(await phone.evaluate(() => document.activeElement.id), 'confirm')
      await phone.keyboard.press('Tab')
      assert.equal(await phone.evaluate(() => document.activeElement.id), 'not-me')
    }
  })
})
