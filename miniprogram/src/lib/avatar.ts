// From the local file that chooseAvatar gives to a picture the service takes.

import type { Picture } from './api'

/** The service's limit; more is 413. */
const AVATAR_BYTES_MAX = 64 * 1024
const COMPRESSED_WIDTH_PX = 256
const COMPRESSED_QUALITY = 80

type Callbacks<T> = { success(result: T): void; fail(error: { errMsg: string }): void }

/** The part of wx that pictures need. */
export interface PictureSource {
  getFileSystemManager(): {
    readFile(options: { filePath: string } & Callbacks<{ data: string | ArrayBuffer }>): void
  }
  compressImage(
    options: { src: string; quality: number; compressedWidth: number } & Callbacks<{ tempFilePath: string }>,
  ): unknown
}

export type AvatarTrouble = 'avatar_unreadable' | 'unsupported_media_type' | 'body_too_large'

/** Reads the file; one that is too large is made smaller once. */
export async function loadAvatar(wx: PictureSource, filePath: string): Promise<Picture | AvatarTrouble> {
  try {
    const picture = pictureOf(await readFile(wx, filePath))
    if (picture !== 'body_too_large') return picture
    return pictureOf(await readFile(wx, await compress(wx, filePath)))
  } catch {
    return 'avatar_unreadable'
  }
}

function pictureOf(bytes: ArrayBuffer): Picture | AvatarTrouble {
  const mediaType = mediaTypeOf(bytes)
  if (mediaType === null) return 'unsupported_media_type'
  return bytes.byteLength <= AVATAR_BYTES_MAX ? { bytes, mediaType } : 'body_too_large'
}

/** By magic bytes, as the service does: the name of a temporary file proves nothing. */
export function mediaTypeOf(bytes: ArrayBuffer): string | null {
  const head = String.fromCharCode(...new Uint8Array(bytes.slice(0, 12)))
  if (head.startsWith('\xff\xd8\xff')) return 'image/jpeg'
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'image/png'
  if (head.startsWith('RIFF') && head.slice(8, 12) === 'WEBP') return 'image/webp'
  return null
}

function readFile(wx: PictureSource, filePath: string): Promise<ArrayBuffer> {
  return new Promise((resolve, reject) => {
    wx.getFileSystemManager().readFile({
      filePath,
      // Without an encoding WeChat gives bytes.
      success: ({ data }) => (typeof data === 'string' ? reject(new Error('not bytes')) : resolve(data)),
      fail: (error) => reject(new Error(error.errMsg)),
    })
  })
}

function compress(wx: PictureSource, src: string): Promise<string> {
  return new Promise((resolve, reject) => {
    wx.compressImage({
      src,
      quality: COMPRESSED_QUALITY,
      compressedWidth: COMPRESSED_WIDTH_PX,
      success: ({ tempFilePath }) => resolve(tempFilePath),
      fail: (error) => reject(new Error(error.errMsg)),
    })
  })
}
