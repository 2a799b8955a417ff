// From the state of a login to exactly what the screen shows. Everything is a plain string,
// boolean or list: setData drops undefined, and the wxml decides nothing but visibility.

import type { LoginState } from './login'
import { messageFor } from './messages'
import type { Problem } from './problem'
import { WORDS, ago, browserOn } from './words'
import type { Language, Words } from './words'

export interface View {
  screen: 'scanning' | 'asking' | 'ended'
  clientName: string
  /** Stands where a logo is not. */
  clientInitial: string
  clientDomain: string
  logoUrl: string
  facts: { label: string; value: string }[]
  warning: string
  numbers: { number: string; chosen: boolean; wrong: boolean }[]
  noticeTitle: string
  noticeText: string
  /** Which button turns: '' when nothing is in flight. */
  acting: '' | 'scan' | 'confirm' | 'decline' | 'not_me'
  idle: boolean
  canConfirm: boolean
  avatarSent: boolean
  mood: 'good' | 'plain' | 'bad'
  title: string
  text: string
  reference: string
  canScanAgain: boolean
  /** Whether the way on is to type a code. */
  canTypeCode: boolean
}

export const BLANK: View = {
  screen: 'scanning',
  clientName: '',
  clientInitial: '',
  clientDomain: '',
  logoUrl: '',
  facts: [],
  warning: '',
  numbers: [],
  noticeTitle: '',
  noticeText: '',
  acting: '',
  idle: false,
  canConfirm: false,
  avatarSent: false,
  mood: 'plain',
  title: '',
  text: '',
  reference: '',
  canScanAgain: false,
  canTypeCode: false,
}

/** `typed`: the person came with a short code, and has none to scan. */
export function viewOf(state: LoginState, language: Language, now: number, typed = false): View {
  const { act, step } = state
  const words = WORDS[language]
  const idle = act === null && !state.held
  const shared: View = {
    ...BLANK,
    acting: act === null ? '' : act.kind === 'decline' && act.reason ? act.reason : act.kind,
    idle,
    avatarSent: state.avatarSent,
  }
  switch (step.at) {
    case 'scanning':
      return shared
    case 'asking':
      return { ...shared, ...asking(state, step, idle, language, now, typed) }
    case 'confirmed':
      return {
        ...shared,
        screen: 'ended',
        mood: 'good',
        title: words.confirmedTitle,
        text: step.avatarLeftOut ? `${words.confirmedText}${words.avatarLeftOut}` : words.confirmedText,
      }
    case 'declined':
      return { ...shared, screen: 'ended', title: words.declinedTitle, text: declinedText(step.because, words) }
    case 'stopped':
      return { ...shared, ...stopped(step.problem, language, typed), canScanAgain: step.scanAgain, canTypeCode: typed && !step.scanAgain }
  }
}

/** The end of a login that never began or cannot go on. */
export function stopped(problem: Problem, language: Language, typed: boolean): Partial<View> & { screen: 'ended' } {
  const { title, text } = messageFor(problem, language, typed)
  const canTypeCode = problem.code === 'no_scene'
  return { screen: 'ended', mood: 'bad', title, text, reference: problem.requestId ?? '', canTypeCode }
}

function asking(
  state: LoginState,
  step: Extract<LoginState['step'], { at: 'asking' }>,
  idle: boolean,
  language: Language,
  now: number,
  typed: boolean,
): Partial<View> {
  const { client, browser, match_choices: choices = [], warning = '' } = step.request
  const words = WORDS[language]
  const notice = state.notice && messageFor(state.notice, language, typed)
  const age = step.request.requested_seconds_ago + (now - step.since) / 1000
  const facts = [
    { label: words.browser, value: browserOn(browser, language) },
    { label: words.place, value: browser.place ?? '' },
    { label: words.address, value: browser.ip ?? '' },
    { label: words.requested, value: ago(age, language) },
  ]
  return {
    screen: 'asking',
    clientName: client.name,
    clientInitial: [...client.name.trim()][0] ?? '',
    clientDomain: client.domain ?? '',
    logoUrl: client.logo_url ?? '',
    facts: facts.filter(({ value }) => value !== ''),
    warning,
    numbers: choices.map((number) => ({
      number,
      chosen: number === state.chosenNumber,
      wrong: state.wrongNumbers.includes(number),
    })),
    noticeTitle: notice?.title ?? '',
    noticeText: notice?.text ?? '',
    canConfirm: idle && (choices.length === 0 || state.chosenNumber !== null),
  }
}

function declinedText(because: 'no' | 'not_me' | 'wrong_numbers', words: Words): string {
  if (because === 'not_me') return words.notMeText
  return because === 'wrong_numbers' ? words.wrongNumbersText : words.declinedText
}
