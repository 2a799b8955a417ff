// WeChat uses the word twice. The scene in a page's *query* is what the service put into
// the code: the id of one login. The scene *entry value* (1047, 1048, ...) says how the
// Mini Program was opened. This file is the only one that reads either.

const SCENE_ID = /^[0-9a-f]{32}$/

/** The scene id from a page's query, or null when the page was opened without a proper one. */
export function sceneFromQuery(query: Record<string, string | undefined>): string | null {
  if (query.scene === undefined) return null
  try {
    const scene = decodeURIComponent(query.scene)
    return SCENE_ID.test(scene) ? scene : null
  } catch {
    return null // a lone % is no scene either
  }
}

interface EnterOptionsSource {
  getEnterOptionsSync(): { scene: number }
}

/**
 * How the Mini Program was opened this time. To be read anew at every scan: WeChat changes
 * it on a hot start, and an old value would vouch for an entry that it knows nothing of.
 */
export function entrySceneNow(wx: EnterOptionsSource): number | undefined {
  try {
    const { scene } = wx.getEnterOptionsSync()
    return Number.isInteger(scene) ? scene : undefined
  } catch {
    return undefined // the service counts an absent value as "other"
  }
}
