// Makes dist/scan-login.js of src/: `npm run build`.

import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'

/**
 * What the modules call each other by, and no page: as short in the file as #private names are. None of them may be a key of the
 * words, a place in them to fill in, an attribute or anything else that is also written in quotes.
 */
export const INTERNAL = [
  'anyway', 'autoRefresh', 'beginUrl', 'changed', 'deadline', 'end', 'feed', 'heard', 'kept', 'lastId', 'miniProgram', 'over',
  'passing', 'picture', 'pictureFailed', 'pictureLoaded', 'request', 'secret', 'settings', 'shortCode', 'showAnyway',
  'showShortCode', 'start', 'startsOver', 'stop', 'timeout', 'until', 'wait', 'wake',
]

/** The file's text. */
export function built() {
  const { outputFiles: [{ text }] } = buildSync({
    absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
    entryPoints: ['src/scan-login.js'],
    bundle: true,
    minify: true,
    mangleProps: new RegExp(`^(${INTERNAL.join('|')})$`),
    format: 'esm',
    target: 'es2022',
    charset: 'utf8',
    legalComments: 'none',
    write: false,
  })
  // Those within the style sheet, which esbuild takes for a text like any other.
  return text.replace(/(?<=[{};`])\n/g, '')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  fs.writeFileSync(new URL('dist/scan-login.js', import.meta.url), built())
}
