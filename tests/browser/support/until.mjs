// Waiting for a condition: no test here sleeps for luck.

const STEP_MS = 50

export const DEADLINE_MS = 30_000

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

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
