// The service's calls for the phone, over whatever does the request (wx.request in WeChat).

import { isRecord, networkProblem, phoneProblem, replyProblem } from './problem'
import type { Problem } from './problem'
import { isSceneId } from './scene'
import type { Target } from './scene'
import type { Language } from './words'

/** wx.request's own default is 60 s: too long for someone who holds a phone to a screen. */
const TIMEOUT_MS = 10_000

export interface RequestOptions {
  url: string
  method: 'POST' | 'PUT'
  header: Record<string, string>
  data: Record<string, unknown> | ArrayBuffer
  timeout: number
  /** Runs for every HTTP status: a 500 is a success to wx.request. */
  success(reply: { statusCode: number; header: Record<string, unknown>; data: unknown }): void
  fail(error: { errMsg: string }): void
}
export type Request = (options: RequestOptions) => unknown

/** The service's answer to a scan: what the person is asked to judge. */
export interface ScanReply {
  confirm_token: string
  client: { client_id: string; name: string; domain?: string; logo_url?: string }
  browser: { name: string; os: string; ip?: string; place?: string }
  requested_at: string
  requested_seconds_ago: number
  expires_in: number
  warning?: string
  match_choices?: string[]
  /** The login's id; told to who typed a short code. */
  scene?: string
}

export interface Finished {
  state: string
  version: number
}

export interface Picture {
  bytes: ArrayBuffer
  mediaType: string
}

export interface ConfirmBody {
  profile?: { nickname: string }
  match_number?: string
}

export type Outcome<T> = { ok: true; value: T } | { ok: false; problem: Problem }

export class Api {
  private readonly request: Request
  private readonly serviceUrl: string
  private readonly language: Language
  private target: Target

  constructor(request: Request, serviceUrl: string, target: Target, language: Language) {
    this.request = request
    this.serviceUrl = serviceUrl
    this.target = target
    this.language = language
  }

  /** `code` is from wx.login and good for this one call. */
  async scan(code: string, entryScene: number | undefined): Promise<Outcome<ScanReply>> {
    const { target } = this
    if ('shortCode' in target) {
      const body = { short_code: target.shortCode, code }
      const outcome = await this.send('POST', '/short-codes/scan', null, 'application/json', body, isShortCodeReply)
      // From here on it is a login like any other, also when it is scanned again.
      if (outcome.ok) this.target = { scene: outcome.value.scene, scancodeTime: null }
      // What is no code at all is, to who typed it, a code that nobody has.
      else if (outcome.problem.code === 'invalid_request') outcome.problem.code = 'unknown_short_code'
      return outcome
    }
    const body = {
      code,
      ...(entryScene !== undefined && { entry_scene: entryScene }),
      ...(target.scancodeTime !== null && { scancode_time: target.scancodeTime }),
    }
    return this.send('POST', this.scenePath('/scan'), null, 'application/json', body, isScanReply)
  }

  confirm(confirmToken: string, body: ConfirmBody): Promise<Outcome<Finished>> {
    return this.send('POST', this.scenePath('/confirm'), confirmToken, 'application/json', { ...body }, isFinished)
  }

  decline(confirmToken: string, reason: 'not_me' | null): Promise<Outcome<Finished>> {
    return this.send('POST', this.scenePath('/decline'), confirmToken, 'application/json', reason ? { reason } : {}, isFinished)
  }

  avatar(confirmToken: string, picture: Picture): Promise<Outcome<{ avatar_url: string }>> {
    return this.send('PUT', this.scenePath('/avatar'), confirmToken, picture.mediaType, picture.bytes, isAvatarReply)
  }

  /** Only who has scanned has a token to call these with, and by then the scene is known. */
  private scenePath(act: string): string {
    return 'scene' in this.target ? `/scenes/${this.target.scene}${act}` : act
  }

  private send<T>(
    method: 'POST' | 'PUT',
    path: string,
    confirmToken: string | null,
    contentType: string,
    data: Record<string, unknown> | ArrayBuffer,
    isValid: (body: unknown) => body is T,
  ): Promise<Outcome<T>> {
    // The service words its warning and names the place: in the language of the screen they stand on.
    const header: Record<string, string> = { 'Content-Type': contentType, 'Accept-Language': this.language }
    if (confirmToken !== null) header.Authorization = `Bearer ${confirmToken}`
    return new Promise((resolve) => {
      this.request({
        url: this.serviceUrl + path,
        method,
        header,
        data,
        timeout: TIMEOUT_MS,
        success: (reply) => resolve(read(reply, isValid)),
        fail: (error) => resolve({ ok: false, problem: networkProblem(error.errMsg) }),
      })
    })
  }
}

function read<T>(
  reply: { statusCode: number; header: Record<string, unknown>; data: unknown },
  isValid: (body: unknown) => body is T,
): Outcome<T> {
  const { statusCode, header, data } = reply
  if (statusCode !== 200) return { ok: false, problem: replyProblem(statusCode, header, data) }
  // A login page of a hotel's Wi-Fi also answers 200.
  return isValid(data) ? { ok: true, value: data } : { ok: false, problem: phoneProblem('unreadable_reply') }
}

function isScanReply(body: unknown): body is ScanReply {
  return (
    isRecord(body) &&
    typeof body.confirm_token === 'string' &&
    isRecord(body.client) &&
    typeof body.client.name === 'string' &&
    isRecord(body.browser) &&
    typeof body.browser.name === 'string' &&
    typeof body.browser.os === 'string' &&
    typeof body.requested_seconds_ago === 'number'
  )
}

function isShortCodeReply(body: unknown): body is ScanReply & { scene: string } {
  return isScanReply(body) && isSceneId(body.scene)
}

function isFinished(body: unknown): body is Finished {
  return isRecord(body) && typeof body.state === 'string'
}

function isAvatarReply(body: unknown): body is { avatar_url: string } {
  return isRecord(body) && typeof body.avatar_url === 'string'
}
