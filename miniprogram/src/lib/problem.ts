// Everything that can go wrong, under one closed list of words.

/** The service's problem codes (`code` of an application/problem+json reply). */
export const SERVICE_CODES = [
  'invalid_request',
  'unknown_client',
  'origin_not_allowed',
  'unknown_scene',
  'unknown_short_code',
  'not_waiting',
  'browser_secret_required',
  'confirm_token_required',
  'invalid_wx_code',
  'scanned_by_another',
  'already_finished',
  'expired',
  'entry_scene_refused',
  'wechat_blocked_user',
  'wrong_match_number',
  'rate_limited',
  'wechat_quota',
  'wechat_unavailable',
  'wechat_timeout',
  'wechat_error',
  'store_unavailable',
  'body_too_large',
  'unsupported_media_type',
  'method_not_allowed',
  'not_found',
  'request_timeout',
  'shutting_down',
  'internal',
] as const

/** What the phone finds out by itself. */
export const PHONE_CODES = [
  'no_scene',
  'wx_login_failed',
  'interrupted',
  'network_timeout',
  'network_failed',
  'domain_not_listed',
  'unreadable_reply',
  'avatar_unreadable',
] as const

export type ServiceCode = (typeof SERVICE_CODES)[number]
export type PhoneCode = (typeof PHONE_CODES)[number]
/** `unknown` is a code from a newer service than this Mini Program. */
export type ProblemCode = ServiceCode | PhoneCode | 'unknown'

export interface Problem {
  code: ProblemCode
  /** The HTTP status; 0 when there was no reply. */
  status: number
  /** Seconds the service asked to wait, from Retry-After. */
  retryAfter: number | null
  /** The scene's state, with `already_finished` and `expired`. */
  state: string | null
  /** What to quote when reporting the trouble. */
  requestId: string | null
}

export function phoneProblem(code: PhoneCode): Problem {
  return { code, status: 0, retryAfter: null, state: null, requestId: null }
}

/** Maps `errMsg` of a failed wx.request: the only thing WeChat tells about a missing reply. */
export function networkProblem(errMsg: string): Problem {
  if (/interrupted/i.test(errMsg)) return phoneProblem('interrupted')
  if (/time(d )?\s?out/i.test(errMsg)) return phoneProblem('network_timeout')
  if (/domain list/i.test(errMsg)) return phoneProblem('domain_not_listed')
  return phoneProblem('network_failed')
}

/** Maps a reply that is no success. A proxy in between may answer without a problem body. */
export function replyProblem(status: number, header: Record<string, unknown>, body: unknown): Problem {
  const fields = isRecord(body) ? body : {}
  const text = (value: unknown) => (typeof value === 'string' ? value : null)
  return {
    code: codeOf(status, fields.code),
    status,
    retryAfter: retryAfterOf(header),
    state: text(fields.state),
    requestId: text(fields.request_id) ?? text(valueOf(header, 'x-request-id')),
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

function codeOf(status: number, code: unknown): ProblemCode {
  if (typeof code === 'string') return SERVICE_CODES.find((known) => known === code) ?? 'unknown'
  if (status === 413) return 'body_too_large'
  if (status === 429) return 'rate_limited'
  return 'unreadable_reply'
}

function retryAfterOf(header: Record<string, unknown>): number | null {
  const value = String(valueOf(header, 'retry-after') ?? '').trim()
  return /^\d{1,6}$/.test(value) ? Number(value) : null
}

/** Header names keep the case the server, its proxy or the phone gave them. */
function valueOf(header: Record<string, unknown>, name: string): unknown {
  const key = Object.keys(header).find((each) => each.toLowerCase() === name)
  return key === undefined ? undefined : header[key]
}
