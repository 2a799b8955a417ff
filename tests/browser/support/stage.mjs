// One service and one Chromium for all tests of a file.

import { after, before, test } from 'node:test'
import { Chromium } from './chromium.mjs'
import { Service } from './service.mjs'

/** Gives the file's `it`: each test plays on a stage of its own, with the service of these settings. */
export function withService(settings) {
  let chromium
  let service
  before(async () => {
    service = await Service.start(settings)
    chromium = await Chromium.launch()
  })
  after(async () => {
    await chromium?.close()
    await service?.stop()
  })
  return (name, play) => test(name, () => chromium.stage(name, (stage) => play(stage, service)))
}
