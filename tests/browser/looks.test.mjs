// Every state of both pages, on every kind of screen: accessible, and within the screen's width.
// With SCREENSHOTS set to a directory, each is photographed there.

import { describe } from 'node:test'
import {
  CHINESE, DARK, DESKTOP, ENGLISH, LIGHT, MOBILE_PHONE, SCREENSHOTS, isAccessible, part, photograph, reaches,
} from './support/chromium.mjs'
import { cameBy, gives, isAsked, numbersOn, picks } from './support/phone.mjs'
import { Service } from './support/service.mjs'
import { withChromium } from './support/stage.mjs'

/** Two tours see both schemes, both widths and both languages; the others are for pictures. */
const TOURS = {
  'desktop-light-en': [DESKTOP, LIGHT, ENGLISH],
  'phone-dark-zh': [MOBILE_PHONE, DARK, CHINESE],
  ...SCREENSHOTS && {
    'desktop-dark-zh': [DESKTOP, DARK, CHINESE],
    'phone-light-en': [MOBILE_PHONE, LIGHT, ENGLISH],
  },
}

const it = withChromium()

/** Keeps requests waiting until they are let go, so that what a page shows meanwhile can be looked at. */
async function hold(page, address) {
  let letGo
  const held = new Promise((resolve) => { letGo = resolve })
  await page.route(address, async (route) => {
    await held
    await route.continue()
  })
  return letGo
}

function guide(tour) {
  let number = 0
  return async (page, name) => {
    number += 1
    await isAccessible(page, `${name} (${tour})`)
    await photograph(page, `${tour}-${String(number).padStart(2, '0')}-${name}`)
  }
}

/** The way of a login, and then what may go wrong on the computer. */
async function seeComputer(stage, service, options, look, scanBy) {
  const context = await stage.person(...options)
  const computer = await context.newPage()
  const showPicture = await hold(computer, '**/scenes/*/code')
  await computer.goto(service.url)
  if (options.includes(MOBILE_PHONE)) {
    await reaches(computer, 'phone')
    await look(computer, 'phone')
    await part(computer, 'show').click()
  }
  await reaches(computer, 'loading')
  await look(computer, 'loading')
  showPicture()
  await reaches(computer, 'waiting')
  await look(computer, 'waiting')

  const phone = await scanBy(computer)
  await reaches(computer, 'scanned')
  await look(computer, 'scanned')
  const finish = await hold(computer, '**/demo/callback')
  await phone.getByTestId('confirm').click()
  await reaches(computer, 'confirmed')
  await look(computer, 'confirmed')
  finish()
  await reaches(computer, 'profile')
  await look(computer, 'profile')
  await reaches(phone, 'confirmed')
  await look(phone, 'p-confirmed')
  await computer.getByTestId('logout').click()
  await reaches(computer, 'waiting')
  return computer
}

async function seeEnds(stage, service, options, look, computer, scanBy) {
  await part(computer, 'cancel').click()
  await reaches(computer, 'cancelled')
  await look(computer, 'cancelled')
  await part(computer, 'refresh').click()
  await reaches(computer, 'waiting')
  await seeCautions(stage, options, look, computer)
  await part(computer, 'refresh').click()
  await reaches(computer, 'waiting')

  const phone = await scanBy(computer)
  await phone.getByTestId('not-me').click()
  await reaches(phone, 'declined')
  await look(phone, 'p-declined')
  await reaches(computer, 'declined')
  await look(computer, 'declined')

  await service.fault({ call: 'getwxacodeunlimit', errcode: 41030, times: 9 })
  await part(computer, 'refresh').click()
  await reaches(computer, 'error')
  await look(computer, 'error')
}

/** What somebody meets who came by a card, and who came by a picture: with as much on the screen as there can be. */
async function seeCautions(stage, options, look, computer) {
  const refused = await stage.phone(computer, ...options)
  await cameBy(refused, '1007')
  await refused.getByTestId('scan').click()
  await reaches(refused, 'error')
  await look(refused, 'p-refused')

  const phone = await stage.phone(computer, ...options)
  await phone.route('**/scan', async (route) => {
    const response = await route.fetch()
    const asked = await response.json()
    await route.fulfill({ response, json: { ...asked, browser: { ...asked.browser, place: options.includes(CHINESE) ? '中国 杭州' : 'Hangzhou, China' } } })
  })
  await cameBy(phone, '1048')
  await isAsked(phone)
  await reaches(computer, 'scanned')
  await look(computer, 'scanned-number')
  await look(phone, 'p-ask-warned')
  const right = await computer.locator('#match').innerText()
  const [first, second] = (await numbersOn(phone)).filter((number) => number !== right)
  await picks(phone, first)
  await phone.getByTestId('notice').waitFor()
  await look(phone, 'p-wrong-number')
  await picks(phone, second)
  await reaches(phone, 'declined')
  await look(phone, 'p-wrong-numbers')
  await reaches(computer, 'declined')
  await look(computer, 'wrong-numbers')
}

/** What the phone shows until it has asked. */
async function seePhone(stage, service, options, look, computer) {
  const phone = await stage.phone(computer, ...options)
  await reaches(phone, 'choose')
  await look(phone, 'p-choose')
  const answer = await hold(phone, '**/scan')
  await phone.getByTestId('scan').click()
  await reaches(phone, 'scanning')
  await look(phone, 'p-scanning')
  answer()
  await reaches(phone, 'ask')
  await look(phone, 'p-ask')
  await gives(phone)
  await look(phone, 'p-ask-given')
  return phone
}

async function seeExpiry(stage, options, look) {
  const service = await Service.start({ SCENE_TTL: 2 })
  try {
    const computer = await stage.computer(service.url, ...options)
    if (options.includes(MOBILE_PHONE)) await part(computer, 'show').click()
    // The third of them stays.
    await computer.locator('#app[data-state=expired] #status-text').filter({ hasNotText: /on its way|正在换新/ }).waitFor()
    await look(computer, 'expired')
    const context = await stage.person(...options)
    const phone = await context.newPage()
    await phone.goto(`${service.url}/simulator/phone`)
    await reaches(phone, 'choose')
    await look(phone, 'p-enter')
    await phone.goto(`${service.url}/simulator/phone?scene=${'0'.repeat(32)}&auto=1`)
    await reaches(phone, 'error')
    await look(phone, 'p-error')
  } finally {
    await service.stop()
  }
}

describe('every state', { concurrency: 2, timeout: 600_000 }, () => {
  for (const [tour, options] of Object.entries(TOURS)) {
    it(`is accessible and fits: ${tour}`, async (stage) => {
      stage.tolerate(/Failed to load resource/)
      const look = guide(tour)
      const service = await Service.start({ CLIENT_NUMBER_MATCHING: 'on_warning' })
      const scanBy = (computer) => seePhone(stage, service, options, look, computer)
      const again = async (computer) => {
        const phone = await stage.phone(computer, ...options)
        await phone.getByTestId('scan').click()
        await reaches(phone, 'ask')
        return phone
      }
      try {
        const computer = await seeComputer(stage, service, options, look, scanBy)
        await Promise.all([
          seeEnds(stage, service, options, look, computer, again),
          seeExpiry(stage, options, look),
        ])
      } finally {
        await service.stop()
      }
    })
  }
})
