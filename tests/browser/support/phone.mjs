// A phone: its camera reads the code from the computer's screen, and what the code says is opened.

import fs from 'node:fs'
import { createRequire } from 'node:module'
import { part } from './chromium.mjs'
import { until } from './until.mjs'

const DECODER = fs.readFileSync(createRequire(import.meta.url).resolve('jsqr/dist/jsQR.js'), 'utf8')

export class Camera {
  static async open(browser) {
    const camera = new Camera()
    camera.page = await browser.newPage()
    await camera.page.evaluate(DECODER)
    return camera
  }

  /** What the code on the computer's screen says: not its file, but what can be seen of it. */
  async read(computer) {
    await computer.locator('scan-login[state="waiting"]').waitFor()
    const screen = part(computer, 'tile')
    return until('the camera reads the code', async () => this.decode(await screen.screenshot()))
  }

  /** What a QR code in a picture (PNG) says, or null. */
  async decode(picture) {
    const pixels = await this.#pixels(picture)
    return pixels.evaluate(({ data, width, height }) => window.jsQR(data, width, height)?.data ?? null)
  }

  /** How wide and tall, in a picture (PNG), what is of this colour is. */
  async extent(picture, colour) {
    const pixels = await this.#pixels(picture)
    return pixels.evaluate(({ data, width }, wanted) => {
      const [xs, ys] = [new Set(), new Set()]
      for (let at = 0; at < data.length; at += 4) {
        if (wanted.some((value, channel) => data[at + channel] !== value)) continue
        xs.add((at / 4) % width)
        ys.add(Math.floor(at / 4 / width))
      }
      return { width: xs.size, height: ys.size }
    }, colour)
  }

  #pixels(picture) {
    return this.page.evaluateHandle(async (base64) => {
      const image = new Image()
      image.src = `data:image/png;base64,${base64}`
      await image.decode()
      const context = new OffscreenCanvas(image.width, image.height).getContext('2d')
      context.drawImage(image, 0, 0)
      return context.getImageData(0, 0, image.width, image.height)
    }, picture.toString('base64'))
  }
}

/** The person on the phone scans as who they are, and is asked. */
export async function isAsked(phone) {
  await phone.getByTestId('scan').click()
  await phone.locator('#app[data-state="ask"]').waitFor()
}

/** WeChat says that the Mini Program was opened so. */
export async function cameBy(phone, entryScene) {
  await phone.locator('details').evaluate((details) => { details.open = true })
  await phone.getByTestId('entry-scene').selectOption(entryScene)
}

/** The numbers that the phone offers. */
export function numbersOn(phone) {
  return phone.getByTestId('match-choice').allInnerTexts()
}

/** Picks that number, and confirms. */
export async function picks(phone, number) {
  await phone.getByTestId('match-choice').filter({ hasText: number }).click()
  await phone.getByTestId('confirm').click()
}

/** Switches on that the site is given something, as the person's own name. */
export async function gives(phone, nickname) {
  await phone.getByTestId('give').check()
  if (nickname !== undefined) await phone.getByTestId('nickname').fill(nickname)
}

/** The whole of it: scan, and confirm, with a nickname if there is one. */
export async function confirms(phone, nickname) {
  await isAsked(phone)
  if (nickname !== undefined) await gives(phone, nickname)
  await phone.getByTestId('confirm').click()
}
