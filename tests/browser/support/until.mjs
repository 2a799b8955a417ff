// Waiting for a condition: no test here sleeps for luck.

import { setTimeout } from 'node:timers/promises'

const STEP_MS = 50

export const DEADLINE_MS = 30_000

export const pause = (ms) => setTimeout(ms)

/** Asks `condition` again and again until it gives something truthy, and gives that. */
export async function until(what, condition, deadlineMs = DEADLINE_MS) {
  const end = performance.now() + deadlineMs
  for (;;) {
    const found = await condition()
    if (found) return found
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`)
    await pause(STEP_MS)
  }
}

/** What `promise` gives, unless that takes longer: some of a browser's answers never come, and have no deadline of their own. */
export async function within(what, promise, deadlineMs = DEADLINE_MS) {
  const late = new AbortController()
  const tooLate = setTimeout(deadlineMs, null, { signal: late.signal }).then(() => { throw new Error(`not within ${deadlineMs} ms: ${what}`) })
  try {
    return await Promise.race([promise, tooLate])
  } finally {
    late.abort()
  }
}
