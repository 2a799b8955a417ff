// One Chromium for all tests of a file, and what they play with.

import { after, before, test } from 'node:test'
import { Chromium } from './chromium.mjs'
import { Service } from './service.mjs'
import { Site } from './site.mjs'

/** Gives the file's `it`: each test plays on a stage of its own. */
export function withChromium() {
  let chromium
  before(async () => {
    chromium = await Chromium.launch()
  })
  after(() => chromium?.close())
  return (name, play) => test(name, () => chromium.stage(name, play))
}

/** Likewise, with one service of these settings for all of them. */
export function withService(settings) {
  let service
  before(async () => {
    service = await Service.start(settings)
  })
  const it = withChromium()
  after(() => service?.stop())
  return (name, play) => it(name, (stage) => play(stage, service))
}

/** Likewise, each with a site, and beside it a service, of its own. */
export function withSites() {
  const it = withChromium()
  return (name, play, settings) => it(name, async (stage) => {
    const site = await Site.start(settings)
    try {
      await play(stage, site)
      // Before the service goes away, which a page would complain of.
      await stage.clear()
    } finally {
      await site.stop()
    }
  })
}
