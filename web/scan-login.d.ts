// <scan-login>: log in by scanning a code with WeChat. What each part is for is in README.md.

/** What the element shows. */
export type ScanLoginState =
  | 'loading' | 'waiting' | 'scanned' | 'confirmed' | 'declined' | 'cancelled' | 'expired' | 'phone' | 'error';

/** How it hears of news. */
export type ScanLoginConnection = 'open' | 'polling' | 'reconnecting' | null;

/** What the person gave of themselves: their own words, no proof of anything. */
export interface ScanLoginProfile {
  nickname?: string;
  avatar_url?: string;
}

/** What the address in `begin-url` answered, as it is. */
export type ScanLoginBegun = Record<string, unknown>;

/** What went wrong: an RFC 9457 problem of the service's, or what the page gave to `fail`. */
export interface ScanLoginProblem {
  /** 0 where no answer came. */
  status?: number;
  /** The service's stable word, `network`, or one of the page's own. */
  code?: string;
  /** For whoever runs the site, in English. */
  detail?: string;
  errcode?: number;
  requestId?: string | null;
  /** In seconds. */
  retryAfter?: number | null;
  /** Title and text to show in the place of those that `code` has. */
  words?: [title: string, text: string];
}

/** Title and text, or a text alone, by key; `{name}` and the like are filled in. */
export type ScanLoginWords = Record<string, string | [title: string, text: string]>;

/** The `detail` of each event. */
export interface ScanLoginEvents {
  /** A login was begun, or found again after a reload. */
  'scan-login:ready': { scene: string; begun: ScanLoginBegun };
  /** The code is on the screen. */
  'scan-login:waiting': { scene: string };
  'scan-login:scanned': { scene: string; matchNumber: string | null };
  /** `code` is for the site's backend. It is null where it was redeemed before. */
  'scan-login:confirmed': {
    scene: string;
    code: string | null;
    profile: ScanLoginProfile;
    redirectTo: string | null;
    begun: ScanLoginBegun;
  };
  /** By the person, or by two wrong numbers. */
  'scan-login:declined': { scene: string; redirectTo: string | null; reason?: 'wrong_number' };
  'scan-login:cancelled': { scene: string; redirectTo: string | null };
  'scan-login:expired': { scene: string; reason: 'time' | 'lost' };
  'scan-login:error': { problem: ScanLoginProblem };
  /** Whatever of it changed. */
  'scan-login:change': { state: ScanLoginState; connection: ScanLoginConnection; scene: string | null };
}

/** What can be written in markup, for the types of a framework's templates. */
export interface ScanLoginAttributes {
  service?: string;
  'client-id'?: string;
  'begin-url'?: string;
  'code-challenge'?: string;
  nonce?: string;
  'env-version'?: 'release' | 'trial' | 'develop';
  'authorization-request'?: string;
  lang?: string;
  'auto-refresh'?: number | `${number}`;
  paused?: boolean;
}

export class ScanLogin extends HTMLElement {
  /** What is shown now; the attribute `state` says it too. */
  readonly state: ScanLoginState;
  /** The present scene, for a log: it opens nothing. */
  readonly scene: string | null;
  /** The page's own words. */
  words: { en?: ScanLoginWords; zh?: ScanLoginWords };
  /** Begins a new login. */
  refresh(): void;
  /** Shows that the page could not finish the login. The button then does `again`, or starts over. */
  fail(problem?: ScanLoginProblem, again?: (() => void) | null): void;

  addEventListener<Name extends keyof ScanLoginEvents>(
    type: Name,
    listener: (this: ScanLogin, event: CustomEvent<ScanLoginEvents[Name]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    'scan-login': ScanLogin;
  }
}
