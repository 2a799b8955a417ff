// One login on the phone, from the scan to its end. The page makes one per scene and
// disposes of it when another scene comes; answers that arrive later are dropped.
//
//   scanning --> asking --> confirmed | declined
//      |           |
//      +-----------+--> stopped (sometimes with a button that scans again)

import { phoneProblem } from './problem'
import type { Problem } from './problem'
import type { Api, ConfirmBody, Outcome, Picture, ScanReply } from './api'

/** Longer waits than this are left to the person: a login lives two minutes. */
const AUTOMATIC_WAIT_MAX_S = 10
/** For a 503 that does not say how long. */
const UNTOLD_WAIT_S = 2

/** What the login needs of the phone. */
export interface Phone {
  /** A new wx.login code; null when WeChat gives none. */
  freshCode(): Promise<string | null>
  entryScene(): number | undefined
  wait(ms: number): Promise<void>
  now(): number
}

export type Step =
  | { at: 'scanning' }
  | { at: 'asking'; request: ScanReply; since: number }
  | { at: 'confirmed'; avatarLeftOut: boolean }
  | { at: 'declined'; because: 'no' | 'not_me' | 'wrong_numbers' }
  | { at: 'stopped'; problem: Problem; scanAgain: boolean }

export type Act =
  | { kind: 'scan' }
  | { kind: 'confirm'; body: ConfirmBody; avatar: Picture | null; avatarLeftOut: boolean }
  | { kind: 'decline'; reason: 'not_me' | null }

export interface LoginState {
  step: Step
  /** The act in flight: there is never a second one. */
  act: Act | null
  /** A failure that leaves the question open. */
  notice: Problem | null
  /** True while the service's Retry-After runs. */
  held: boolean
  chosenNumber: string | null
  wrongNumbers: string[]
  /** The service has the avatar: it cannot be taken back any more. */
  avatarSent: boolean
}

export class Login {
  readonly state: LoginState = {
    step: { at: 'scanning' },
    act: null,
    notice: null,
    held: false,
    chosenNumber: null,
    wrongNumbers: [],
    avatarSent: false,
  }
  private readonly api: Pick<Api, 'scan' | 'confirm' | 'decline' | 'avatar'>
  private readonly phone: Phone
  private readonly changed: (state: LoginState) => void
  private disposed = false
  private hidden = false
  /** Whether the app was in the background at any time since the last request was sent. */
  private wasHidden = false
  private wake: (() => void) | null = null

  constructor(api: Login['api'], phone: Phone, changed: (state: LoginState) => void) {
    this.api = api
    this.phone = phone
    this.changed = changed
  }

  scan(): Promise<void> {
    const { step } = this.state
    const allowed = step.at === 'scanning' || (step.at === 'stopped' && step.scanAgain)
    return allowed ? this.run({ kind: 'scan' }) : Promise.resolve()
  }

  choose(number: string): void {
    const { step, act, wrongNumbers } = this.state
    if (act || step.at !== 'asking' || !step.request.match_choices?.includes(number)) return
    if (!wrongNumbers.includes(number)) this.update({ chosenNumber: number })
  }

  confirm(nickname: string, avatar: Picture | null): Promise<void> {
    const { step, chosenNumber } = this.state
    if (step.at !== 'asking') return Promise.resolve()
    const body: ConfirmBody = {}
    if (nickname !== '') body.profile = { nickname }
    if (step.request.match_choices) {
      if (chosenNumber === null) return Promise.resolve()
      body.match_number = chosenNumber
    }
    return this.run({ kind: 'confirm', body, avatar, avatarLeftOut: false })
  }

  decline(reason: 'not_me' | null): Promise<void> {
    return this.state.step.at === 'asking' ? this.run({ kind: 'decline', reason }) : Promise.resolve()
  }

  hide(): void {
    this.hidden = true
    this.wasHidden = true
  }

  show(): void {
    this.hidden = false
    this.wake?.()
  }

  dispose(): void {
    this.disposed = true
  }

  private async run(act: Act): Promise<void> {
    if (this.disposed || this.state.act || this.state.held) return
    this.update({ act, notice: null, ...(act.kind === 'scan' && { step: { at: 'scanning' } }) })
    let problem = await this.attempt(act)
    let codesLeft = 1
    let waitsLeft = 1
    while (problem && !this.disposed) {
      if (problem.status === 0 && this.wasHidden) {
        // The background cut the request off, and nobody knows whether the service got it.
        // The same act once more is safe: confirm and decline are idempotent with their
        // token, and a scan takes a new code. The failure may be told before or after onShow.
        // Each repeat needs an absence of its own, so there is no storm.
      } else if (problem.code === 'invalid_wx_code' && codesLeft > 0) {
        codesLeft -= 1
      } else if (waitsLeft > 0 && automaticWait(problem) !== null) {
        waitsLeft -= 1
        await this.phone.wait(automaticWait(problem)! * 1000)
      } else if (act.kind === 'confirm' && act.avatar && !this.state.avatarSent && isTroubleOfService(problem)) {
        // No other picture would fare better, and the login is what the person came for.
        act = { ...act, avatar: null, avatarLeftOut: true }
        waitsLeft = 1
      } else {
        break
      }
      await this.shown()
      if (!this.disposed) problem = await this.attempt(act)
    }
    if (this.disposed) return
    if (problem) this.fail(act, problem)
    this.update({ act: null })
  }

  /** Sends once; null is success. */
  private async attempt(act: Act): Promise<Problem | null> {
    this.wasHidden = false
    if (act.kind === 'scan') return this.attemptScan()
    const { step } = this.state
    if (step.at !== 'asking') return null
    const token = step.request.confirm_token
    if (act.kind === 'decline') {
      return this.settle(await this.api.decline(token, act.reason), () =>
        this.update({ step: { at: 'declined', because: act.reason ?? 'no' } }),
      )
    }
    if (act.avatar && !this.state.avatarSent) {
      const sent = this.settle(await this.api.avatar(token, act.avatar), () => this.update({ avatarSent: true }))
      if (sent || this.disposed) return sent
    }
    const { avatarLeftOut } = act
    return this.settle(await this.api.confirm(token, act.body), () =>
      this.update({ step: { at: 'confirmed', avatarLeftOut } }),
    )
  }

  private async attemptScan(): Promise<Problem | null> {
    const code = await this.phone.freshCode()
    if (this.disposed) return null
    if (code === null) return phoneProblem('wx_login_failed')
    const outcome = await this.api.scan(code, this.phone.entryScene())
    return this.settle(outcome, (request) =>
      this.update({ step: { at: 'asking', request, since: this.phone.now() }, chosenNumber: null }),
    )
  }

  private settle<T>(outcome: Outcome<T>, succeed: (value: T) => void): Problem | null {
    if (!outcome.ok) return outcome.problem
    if (!this.disposed) succeed(outcome.value)
    return null
  }

  private fail(act: Act, problem: Problem): void {
    if (problem.retryAfter) void this.hold(problem.retryAfter)
    if (act.kind === 'scan') {
      this.update({ step: { at: 'stopped', problem, scanAgain: !isFinal(problem) } })
    } else if (problem.code === 'wrong_match_number' && act.kind === 'confirm') {
      this.numberWasWrong(act.body.match_number ?? '', problem)
    } else if (problem.code === 'already_finished' && problem.state === 'declined' && this.state.wrongNumbers.length > 0) {
      this.update({ step: { at: 'declined', because: 'wrong_numbers' } })
    } else if (problem.code === 'confirm_token_required') {
      // The same person scanned again, perhaps on another phone: this token is dead.
      this.update({ step: { at: 'stopped', problem, scanAgain: true } })
    } else if (isFinal(problem)) {
      this.update({ step: { at: 'stopped', problem, scanAgain: false } })
    } else {
      this.update({ notice: problem })
    }
  }

  /** The service declines at the second different wrong number, and says so: who scanned again may have forgotten the first. */
  private numberWasWrong(number: string, problem: Problem): void {
    const wrongNumbers = [...new Set([...this.state.wrongNumbers, number])]
    if (problem.state !== 'declined') {
      this.update({ wrongNumbers, chosenNumber: null, notice: problem })
    } else {
      this.update({ wrongNumbers, step: { at: 'declined', because: 'wrong_numbers' } })
    }
  }

  private async hold(seconds: number): Promise<void> {
    this.update({ held: true })
    await this.phone.wait(seconds * 1000)
    this.update({ held: false })
  }

  /** Nothing is repeated from the background: WeChat would cut it off again. */
  private async shown(): Promise<void> {
    while (this.hidden) await new Promise<void>((resolve) => (this.wake = resolve))
    this.wake = null
  }

  private update(change: Partial<LoginState>): void {
    if (this.disposed) return
    Object.assign(this.state, change)
    this.changed(this.state)
  }
}

/** Seconds after which to try once more without asking; null when the person decides. */
function automaticWait(problem: Problem): number | null {
  if (problem.status !== 503 && problem.status !== 429) return null
  const seconds = problem.retryAfter ?? (problem.status === 503 ? UNTOLD_WAIT_S : null)
  return seconds !== null && seconds <= AUTOMATIC_WAIT_MAX_S ? seconds : null
}

/** Problems that are nothing of what was sent. */
function isTroubleOfService(problem: Problem): boolean {
  return problem.status >= 500 || problem.status === 429
}

/** Problems that no further try of this scene can cure. */
function isFinal(problem: Problem): boolean {
  switch (problem.code) {
    case 'unknown_scene':
    case 'unknown_short_code':
    case 'scanned_by_another':
    case 'already_finished':
    case 'expired':
    case 'entry_scene_refused':
    case 'wechat_blocked_user':
    case 'domain_not_listed':
    case 'no_scene':
      return true
    default:
      return false
  }
}
