// The short code for who cannot scan: as it is typed, shown and handed from page to page.

const LENGTH = 8
const GROUP = 4

/** What counts of what was typed: case, spaces and dashes do not, nor the width of a Chinese keyboard's letters. */
export function readShortCode(typed: string): string {
  return typed.normalize('NFKC').toUpperCase().replace(/[\s\-\u2010-\u2015\u2212]/g, '')
}

/** Whether it may be one. Which letters codes are made of is the service's to know. */
export function isShortCode(read: string): boolean {
  return read.length === LENGTH && /^[0-9A-Z]+$/.test(read)
}

/** In two groups, as the computer shows it. */
export function showShortCode(read: string): string {
  return read.length > GROUP ? `${read.slice(0, GROUP)}-${read.slice(GROUP)}` : read
}

let typed: string | null = null

/**
 * For the confirm page that opens next. Not by its query: other Mini Programs can open a page
 * with any query, and a code that nobody typed here would not tell how it came.
 */
export function handOverShortCode(read: string): void {
  typed = read
}

/** What was handed over, once. */
export function takeShortCode(): string | null {
  const taken = typed
  typed = null
  return taken
}
