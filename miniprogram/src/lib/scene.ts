// WeChat uses the word twice. The scene in a page's *query* is what the service put into
// the code: the id of one login. The scene *entry value* (1047, 1048, ...) says how the
// Mini Program was opened. This file is the only one that reads either.

const SCENE_ID = /^[0-9a-f]{32}$/
/** What an ordinary-link QR holds; WeChat checked its host against the rules of the console. */
const LINK = /^https:\/\/[^/?#]+(?:\/[^?#]*)?\/s\/([0-9a-f]{32})\/?(?:[?#].*)?$/

/** Which login is meant: by its id, or by the short code that the person typed. */
export type Target =
  | {
      scene: string
      /** When a link's QR was scanned, in seconds since 1970; WeChat tells it for links alone. */
      scancodeTime: number | null
    }
  | { shortCode: string }

type Query = Record<string, string | undefined>

/** The login that a page was opened for, or null when its query names none. */
export function targetFromQuery(query: Query): Target | null {
  const { scene, q } = query
  try {
    if (scene !== undefined) {
      const id = decodeURIComponent(scene)
      return isSceneId(id) ? { scene: id, scancodeTime: null } : null
    }
    const id = q === undefined ? undefined : LINK.exec(decodeURIComponent(q))?.[1]
    return id === undefined ? null : { scene: id, scancodeTime: scancodeTimeOf(query) }
  } catch {
    return null // a lone % is no scene either
  }
}

export function isSceneId(value: unknown): value is string {
  return typeof value === 'string' && SCENE_ID.test(value)
}

/** A query holds nothing but text. */
function scancodeTimeOf({ scancode_time: text = '' }: Query): number | null {
  return /^\d{1,12}$/.test(text) ? Number(text) : null
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
