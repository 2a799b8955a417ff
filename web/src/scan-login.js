// <scan-login>: the code to scan with WeChat, and what comes of it. It decides nothing: the login does. See README.md.

import { Problem } from './calls.js';
import { Login, STATES } from './login.js';
import { STYLE } from './style.js';
import { WORDS } from './words.js';

const CIRCLE = 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z';
const NO = `${CIRCLE}m-3 6 6 6m0-6-6 6`;
const SEALS = {
  scanned: 'M7 3h10v18H7zm3.5 15.5h3m-3.9-7.7 1.8 1.8 3.2-3.4',
  confirmed: 'm5 12.5 4.5 4.5L19 7.5',
  declined: NO,
  cancelled: NO,
  expired: `${CIRCLE}m0 4v5.2l3.3 2`,
  error: 'M12 4 2.8 19.5h18.4zM12 10v4.5m0 2.4v.1',
  phone: 'M4 4h16v12H4zm4.5 16h7M12 16v4',
};

const COUNTING = ['loading', 'waiting', 'scanned'];
/** From here on it is said that time is short. */
const SHORT_SECONDS = 15;

const REQUEST = ['client-id', 'code-challenge', 'nonce', 'env-version', 'authorization-request'];
const RESTARTING = ['service', 'begin-url', ...REQUEST];

let sheet;

/** `h('p', {id: 'x'}, …)`: no markup is ever parsed, so it needs no leave of a Trusted Types policy. */
function h(name, attributes, ...children) {
  const element = document.createElementNS(`http://www.w3.org/${/^(svg|path|rect)$/.test(name) ? '2000/svg' : '1999/xhtml'}`, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  // What can be named can be dressed.
  if (attributes.id) element.setAttribute('part', `${attributes.id.replace('status-', '')} ${attributes.class ?? ''}`.trim());
  element.append(...children);
  return element;
}

/** Writes only what differs: a live region reads out again whatever is set again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const isPhone = () => /Mobi|Android/i.test(navigator.userAgent)
  || (matchMedia('(pointer: coarse)').matches && Math.min(screen.width, screen.height) < 600);

/** Where there is no page, as on a server that renders one, it can be imported all the same. */
const Base = globalThis.HTMLElement ?? class {};

export class ScanLogin extends Base {
  static observedAttributes = [...RESTARTING, 'lang', 'paused'];

  #login;
  #at = {};
  #words = {};
  #state;
  #connection;
  #announced;
  #queued;
  #leave;
  #confirmed;
  #timer;

  constructor() {
    super();
    this.#login = new Login({
      settings: () => this.#settings(),
      changed: () => this.#changed(),
      show: (url) => this.#show(url),
    });
    const root = this.attachShadow({ mode: 'open' });
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
    }
    root.adoptedStyleSheets = [sheet];
    root.append(this.#build());
    for (const element of root.querySelectorAll('[id]')) this.#at[element.id] = element;
    const { code, refresh } = this.#at;
    code.onload = () => this.#login.pictureLoaded();
    code.onerror = () => this.#login.pictureFailed();
    const acts = {
      refresh: () => refresh.ariaDisabled !== 'true' && this.#login.refresh(),
      show: () => this.#login.showAnyway(),
      type: () => this.#login.showShortCode(),
      cancel: () => this.#login.cancel(),
    };
    for (const [id, act] of Object.entries(acts)) this.#at[id].onclick = act;
  }

  #build() {
    const ring = { x: 3, y: 3, width: 274, height: 274, rx: 24 };
    return h(
      'div', { id: 'box', role: 'group', 'aria-labelledby': 'head' },
      h('slot', { name: 'logo' }),
      h('div', { id: 'head' }, h('slot', { name: 'heading' }, h('span', { id: 'heading' })), h('slot', { name: 'badge' })),
      h(
        'div', { id: 'tile' },
        h(
          'svg', { id: 'ring', viewBox: '0 0 280 280', 'aria-hidden': 'true' },
          h('rect', { id: 'track', ...ring }), h('rect', { id: 'left', pathLength: 100, ...ring }),
        ),
        h(
          'div', { id: 'plate' },
          h('img', { id: 'code', alt: '' }),
          h(
            'div', { id: 'veil', 'aria-hidden': 'true' },
            h('span', { id: 'match' }),
            h('span', { id: 'seal' }, h('svg', { viewBox: '0 0 24 24' }, h('path', {}))),
          ),
        ),
      ),
      h(
        'div', { id: 'words', role: 'status', 'aria-live': 'polite' },
        h('p', { id: 'status-title', tabindex: -1 }),
        h('p', { id: 'status-text' }),
        h('p', { id: 'short-code' }),
        h('p', { id: 'technical', lang: 'en' }),
      ),
      h(
        'p', { id: 'meta' },
        h('span', { id: 'countdown', role: 'timer' }), h('span', { id: 'connection', role: 'status' }),
      ),
      h(
        'div', { id: 'actions' },
        ...['refresh', 'show', 'type', 'cancel'].map(
          (id, at) => h('button', { id, type: 'button', class: at < 2 ? 'button primary' : 'button' }),
        ),
      ),
      h('slot', { name: 'footer' }),
    );
  }

  connectedCallback() {
    this.#leave = new AbortController();
    const { signal } = this.#leave;
    document.addEventListener('visibilitychange', () => this.#login.wake(), { signal });
    window.addEventListener('online', () => this.#login.wake(true), { signal });
    this.#changed();
    this.#startSoon();
  }

  disconnectedCallback() {
    this.#leave.abort();
    this.#queued = null;
    clearTimeout(this.#timer);
    this.#login.stop();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now || !this.#leave || this.#leave.signal.aborted) return;
    if (RESTARTING.includes(name)) this.#startSoon();
    else if (name === 'paused') this.#login.wake();
    else this.#changed();
  }

  /** The present state, as the attribute `state` and the events say it. */
  get state() { return this.#login.state; }

  /** The present scene, for a log: it opens nothing. */
  get scene() { return this.#login.kept?.scene ?? null; }

  /** Words of the page's own: `{en: {waiting: [title, text], cancel: text, …}, zh: {…}}`. */
  get words() { return this.#words; }

  set words(words) {
    this.#words = words ?? {};
    this.#changed();
  }

  /** Begins a new login. */
  refresh() {
    this.#queued = null;
    this.#login.refresh();
  }

  /** Shows that the page could not finish the login; the button does `again`, or starts over. */
  fail(problem = {}, again = null) {
    this.#queued = null;
    this.#login.fail(problem instanceof Problem ? problem : new Problem({ code: 'other', ...problem }), again);
  }

  /** Not at once: whoever sets several attributes begins one login. */
  #startSoon() {
    const queued = {};
    this.#queued = queued;
    queueMicrotask(() => {
      if (this.#queued === queued) this.#login.start();
    });
  }

  #settings() {
    // Where the page has a policy, the attribute `nonce` is emptied, and its value is only in the property (HTML, nonce hiding).
    const of = (name) => this.getAttribute(name) || this[name] || undefined;
    const url = (text) => new URL(text, document.baseURI);
    const refreshes = Number(of('auto-refresh') ?? 2);
    return {
      service: url(of('service') ?? import.meta.url).origin,
      beginUrl: of('begin-url') && url(of('begin-url')).href,
      request: Object.fromEntries(REQUEST.map((name) => [name.replaceAll('-', '_'), of(name)])),
      autoRefresh: refreshes >= 0 ? Math.min(refreshes, 100) : 2,
      paused: this.hasAttribute('paused'),
      phone: isPhone(),
    };
  }

  #show(url) {
    if (url) this.#at.code.src = url;
    else this.#at.code.removeAttribute('src');
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(`scan-login:${name}`, { bubbles: true, composed: true, detail }));
  }

  #changed() {
    this.#draw();
    const { state, connection, kept, data, problem } = this.#login;
    const { scene = null, begun = null } = kept ?? {};
    if (scene && scene !== this.#announced) {
      this.#announced = scene;
      this.#emit('ready', { scene, begun });
    }
    if (state === this.#state && connection === this.#connection) return;
    const isNew = state !== this.#state;
    this.#state = state;
    this.#connection = connection;
    this.setAttribute('state', state);
    this.#emit('change', { state, connection, scene });
    if (!isNew || (!STATES.includes(state) && state !== 'error')) return;
    // After an error that the page told of, it is seen again, but a code is told once.
    if (state === 'confirmed' && scene === this.#confirmed) return;
    if (state === 'confirmed') this.#confirmed = scene;
    const { code = null, profile = {}, redirect_to: redirectTo = null, match_number: matchNumber = null, reason } = data ?? {};
    this.#emit(state, {
      waiting: { scene },
      scanned: { scene, matchNumber },
      confirmed: { scene, code, profile, redirectTo, begun },
      expired: { scene, reason },
      error: { problem },
    }[state] ?? { scene, redirectTo, reason });
  }

  get #lang() {
    const tag = this.closest('[lang]')?.lang || navigator.languages.find((one) => /^(zh|en)/i.test(one)) || '';
    return /^zh/i.test(tag) ? 'zh' : 'en';
  }

  #draw() {
    const at = this.#at;
    const login = this.#login;
    const { state, data, problem, picture } = login;
    const lang = this.#lang;
    const own = (key) => this.#words[lang]?.[key] ?? WORDS[lang][key];
    const fill = (text, params) => text.replace(/\{(\w+)\}/g, (_, name) => params[name] ?? '');
    const t = (key, params = {}) => fill(own(key), params);
    const number = state === 'scanned' ? data.match_number : undefined;
    // Not their picture: it is elsewhere, where the page's policy may not let it come from.
    const nickname = state === 'confirmed' ? data.profile?.nickname : undefined;
    const focused = this.shadowRoot.activeElement;

    at.box.className = state;
    at.box.lang = lang === 'zh' ? 'zh-CN' : 'en';
    write(at.heading, t('heading'));

    // What is said of it.
    let key = state;
    if (state === 'error') {
      const known = !STATES.includes(problem.code) && Array.isArray(own(problem.code)) && problem.code;
      key = known || (problem.passing ? 'busy' : 'other');
    }
    if (data?.reason === 'wrong_number') key = 'mismatch';
    const short = state === 'waiting' ? login.shortCode : null;
    if (short) key = 'typing';
    let [title, text] = own(key);
    if (key === 'waiting' && login.anyway) text = own('phoneCode');
    if (number) text = own('match');
    if (short && login.miniProgram) text = own('typingIn');
    if (nickname) text = own('confirmedName');
    if (login.renewing) text = own('renewing');
    const params = { number, name: nickname, program: login.miniProgram, address: location.host };
    const said = state === 'error' ? problem : {};
    // Words that the page gave may be anybody's: in these nothing is filled in.
    [title, text] = said.words ?? [fill(title, params), fill(text, params)];
    write(at['status-title'], title);
    write(at['status-text'], text);
    write(at['short-code'], short ?? '');

    // For whoever runs the service: its own words, and what to look for in its log.
    const { detail, errcode, requestId } = said;
    const trace = [detail, errcode && `WeChat errcode ${errcode}`, requestId && `request ${requestId}`].filter(Boolean);
    write(at.technical, trace.join(' · '));

    at.code.classList.toggle('ready', picture === 'ready');
    at.code.alt = picture === 'ready' ? t('alt') : '';
    write(at.match, number ?? '');
    at.match.hidden = !number;
    at.seal.hidden = Boolean(number) || !SEALS[state];
    at.seal.firstChild.firstChild.setAttribute('d', SEALS[state] ?? '');

    const counts = data && COUNTING.includes(state);
    const seconds = Math.max(0, Math.ceil((login.deadline - Date.now()) / 1000));
    const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
    at.box.classList.toggle('short', counts && seconds <= SHORT_SECONDS);
    write(at.countdown, counts ? t('valid', { time }) : '');
    at.left.style.strokeDashoffset = counts ? Math.max(0, 100 - (seconds / login.kept.expires_in) * 100) : 100;
    write(at.connection, counts && /ing$/.test(login.connection ?? '') ? `\u2003${t(login.connection)}` : '');

    // Not `disabled`: that would throw away the focus of whoever waits on it.
    const wait = state === 'error' ? Math.ceil((problem.until - Date.now()) / 1000) : 0;
    const again = login.startsOver ? 'startOver' : 'retry';
    const label = state === 'error' ? again : 'refresh';
    write(at.refresh, wait > 0 ? `${t(label)} (${wait} s)` : t(label));
    at.refresh.ariaDisabled = wait > 0;
    clearTimeout(this.#timer);
    if (wait > 0 && this.isConnected) this.#timer = setTimeout(() => this.#draw(), 500);
    at.refresh.hidden = COUNTING.includes(state) || state === 'confirmed' || state === 'phone';
    write(at.show, t('show'));
    at.show.hidden = state !== 'phone';
    write(at.type, t('noCamera'));
    at.type.hidden = key !== 'waiting' || !login.kept.short_code_url;
    write(at.cancel, t('cancel'));
    at.cancel.hidden = !counts || state === 'loading';
    // Whoever uses a keyboard or a screen reader is never dropped at the top of the page.
    if (focused?.hidden) at['status-title'].focus();
  }
}

if (globalThis.customElements && !customElements.get('scan-login')) customElements.define('scan-login', ScanLogin);
