// One login after the other, of one page. Nothing here knows how it looks.

import {
  ANSWER_MS, Problem, TRIES, ask, backoff, call, network, pause, problemFrom, problemIn, tries, watchdog,
} from './calls.js';
import { createEventParser } from './events.js';

const FINAL = ['confirmed', 'declined', 'cancelled', 'expired'];
export const STATES = ['waiting', 'scanned', ...FINAL];
const LOST = { state: 'expired', reason: 'lost', expires_in: 0 };

const POLL_SECONDS = 25;
/** A stream speaks at once, unless something in between holds it back. */
const FIRST_WORD_MS = 8_000;
/** It comments every 15 s, so after this long nobody is there. */
const SILENCE_MS = 45_000;
/** A stream that was heard within this time needs no look after a sleep. */
const FRESH_MS = 20_000;
/** A reconnect usually takes less than this; nobody needs to hear of it. */
const QUIET_MS = 2_000;
const RETRY_MS = 2_000;
const RENEW_MS = 1_500;
/** Streams in a row that say nothing, before it is asked instead. */
const DEAF = 2;
/** So many long-polls, before a stream is tried again. */
const POLLS = 10;
const KEY = 'scan-login';
/** Scenes that elements of this page show: no two go on with the same. */
const TAKEN = new Set();
const awake = () => !globalThis.document?.hidden;

/**
 * One login after the other, of one page. It asks the service, and says when there is something new to show.
 *
 * `settings()` gives `{service, beginUrl, request, autoRefresh, paused, phone}`, `changed()` is told of whatever is new, and
 * `show(url)` is to load the code's picture, or none.
 */
export class Login {
  data = null;
  problem = null;
  picture = 'none';
  connection = null;
  renewing = false;
  deadline = 0;
  /** Whether the person is on a phone and wants to see the code all the same. */
  anyway = false;
  /** What can be typed in place of a scan, once it was asked for. */
  shortCode = null;
  /** What was begun: what the service answered but for the secret, and `{key, begun}`. */
  kept = null;
  #secret;
  #settings;
  #changed;
  #show;
  #run = new AbortController();
  #attempt;
  #again;
  #hint = false;
  #dormant = false;
  #left;
  #lastId;
  #streamId;
  #heardAt = 0;
  #quiet;
  #clock;
  #tickedAt = 0;
  #askedAt = 0;
  #pictured = 0;

  constructor({ settings, changed, show }) {
    this.#settings = settings;
    this.#changed = changed;
    this.#show = show;
  }

  get state() {
    if (this.problem) return 'error';
    if (this.#hint) return 'phone';
    const state = this.data?.state ?? 'loading';
    return state === 'waiting' && this.picture !== 'ready' ? 'loading' : state;
  }

  /** What the button of an error does is to start over, not to try the same again. */
  get startsOver() { return !this.#again; }

  get #over() { return FINAL.includes(this.data?.state); }

  /** Goes on with the login that this tab began with the same settings, or begins one. */
  async start() {
    const key = this.#key();
    // Taken out of the page and put back when all was said: a code is not told twice.
    if (this.#over && this.data.state !== 'expired' && this.kept?.key === key) return;
    const kept = this.#find(key);
    const run = this.#reset();
    this.#left = this.#settings().autoRefresh;
    this.#dormant = !this.#mayBegin();
    this.#changed();
    if (this.#dormant) return;
    if (kept) {
      TAKEN.add(kept.scene);
      try {
        const data = await call('GET', kept.status_url, { secret: this.#secret, signal: run.signal });
        if (run.signal.aborted) return;
        if (!FINAL.includes(data.state) || data.code || data.redirect_to) {
          this.#open(kept, this.#secret, data);
          return;
        }
      } catch (problem) {
        if (run.signal.aborted) return;
        if (problem.passing) {
          this.kept = kept;
          this.fail(problem, () => this.start());
          return;
        }
      }
    }
    if (this.#settings().phone && !this.anyway) {
      this.#forget();
      this.#hint = true;
      this.#changed();
    } else {
      this.#begin();
    }
  }

  /** Begins a new login, as a click on the button does. */
  refresh() {
    this.#left = this.#settings().autoRefresh;
    const again = this.problem && this.#again;
    if (!again) {
      this.#begin();
      return;
    }
    this.problem = null;
    this.#changed();
    again();
  }

  /** On a phone, shows the code all the same. */
  showAnyway() {
    this.anyway = true;
    this.#begin();
  }

  /** Asks for a code to type, for who has no camera. */
  async showShortCode() {
    const { signal } = this.#run;
    try {
      const data = await call('POST', this.kept.short_code_url, { secret: this.#secret, signal });
      this.shortCode = data.short_code;
      this.miniProgram = data.mini_program;
      this.#changed();
      await pause(data.expires_in * 1000, signal);
      this.shortCode = null;
      this.#changed();
    } catch (problem) {
      // The picture is still there to be scanned; if it was just now, the stream says so.
      if (!signal.aborted && problem.status !== 410) this.#fail(problem, () => {});
    }
  }

  /** Nothing goes on any more. `start` goes on from here. */
  stop() {
    this.#run.abort();
    TAKEN.delete(this.kept?.scene);
    clearTimeout(this.#quiet);
    clearInterval(this.#clock);
    this.#quiet = null;
    this.picture = 'none';
    this.#show(null);
  }

  /** The page can be seen, or the network is back, or time jumped: asks again what may have been missed. */
  wake(force = false) {
    if (!this.#mayBegin()) return;
    if (this.#dormant) this.start();
    else if (this.problem?.code === 'network') this.refresh();
    else if (this.state === 'expired') this.#renewSoon();
    else if (force || Date.now() - this.#heardAt > FRESH_MS) this.#attempt?.end();
  }

  /** The person gives up. */
  async cancel() {
    const { signal } = this.#run;
    const asked = { secret: this.#secret, signal };
    let data = { state: 'cancelled', expires_in: 0 };
    try {
      await call('DELETE', this.kept.status_url, asked);
      data = await call('GET', this.kept.status_url, asked);
    } catch (problem) {
      // Too late: what became of it is told by the stream. Else this page gives it up, whatever the service makes of it.
      if (problem.status === 409) {
        this.wake(true);
        return;
      }
    }
    if (!signal.aborted && !this.#over) this.#take(data);
  }

  /** Shows what went wrong. The button then does `again`, or starts over. */
  fail(problem, again = null) {
    this.stop();
    this.#fail(problem, again);
  }

  #fail(problem, again) {
    this.problem = problem;
    this.#again = again;
    problem.until = Date.now() + (problem.retryAfter ?? 0) * 1000;
    this.#changed();
  }

  #mayBegin() {
    return awake() && !this.#settings().paused;
  }

  #key() {
    const { service, beginUrl, request } = this.#settings();
    return JSON.stringify([service, beginUrl, request]);
  }

  /** Where a reload finds it again: per tab, without a secret, so only where the cookie is the proof. */
  #find(key) {
    let kept = this.kept;
    try {
      kept ??= JSON.parse(sessionStorage.getItem(KEY));
    } catch {
      // Storage may be forbidden; then a reload starts anew.
    }
    return kept?.key === key && (this.kept || !TAKEN.has(kept.scene)) ? kept : null;
  }

  #store(kept) {
    try {
      if (kept && !this.#secret) sessionStorage.setItem(KEY, JSON.stringify(kept));
      else sessionStorage.removeItem(KEY);
    } catch {
      // See above.
    }
  }

  #forget() {
    this.#secret = null;
    this.kept = null;
    this.#store(null);
  }

  #reset() {
    this.stop();
    this.#run = new AbortController();
    this.#hint = false;
    this.#dormant = false;
    Object.assign(this, { data: null, problem: null, connection: null, renewing: false, shortCode: null });
    return this.#run;
  }

  async #begin() {
    const { signal } = this.#reset();
    this.#forget();
    const key = this.#key();
    const { service, beginUrl, request } = this.#settings();
    this.#dormant = !this.#mayBegin();
    this.#changed();
    if (this.#dormant) return;
    try {
      const begun = beginUrl ? await tries(signal, () => call('POST', beginUrl, { signal })).catch((problem) => {
        // Not the service's doing: whoever builds the site is told whose.
        problem.detail = `POST ${beginUrl}: ${problem.detail || problem.status || problem.code}`;
        problem.code ??= 'other';
        throw problem;
      }) : {};
      const json = {};
      for (const name in request) json[name] = begun[name] ?? request[name];
      if (json.code_challenge) json.code_challenge_method = 'S256';
      const scene = await tries(signal, () => call('POST', `${service}/scenes`, { json, signal }));
      const { browser_secret: secret, ...kept } = scene;
      if (signal.aborted) return;
      // In our own origin the HttpOnly cookie is the proof, and the secret stays unread. Within a frame there may be no cookie.
      const page = globalThis.location;
      const own = new URL(kept.status_url).origin === page?.origin && globalThis.top === globalThis.self;
      this.#open({ ...kept, key, begun }, own ? null : secret, kept);
    } catch (problem) {
      if (!signal.aborted) this.fail(problem, () => this.#begin());
    }
  }

  #open(kept, secret, data) {
    const { signal } = this.#run;
    this.#secret = secret;
    this.kept = kept;
    TAKEN.add(kept.scene);
    this.#store(kept);
    this.#lastId = data.id;
    this.#streamId = data.id;
    this.#tickedAt = Date.now();
    this.#take(data);
    if (signal.aborted || this.#over) return;
    this.#clock = setInterval(() => this.#tick(), 1000);
    this.#follow(signal);
  }

  #take(data) {
    this.data = data;
    this.#lastId = data.id ?? this.#lastId;
    this.deadline = Date.now() + data.expires_in * 1000;
    if (data.state !== 'waiting') this.problem = null;
    if (this.#over) {
      clearInterval(this.#clock);
      this.#connected(null);
      // One that was confirmed is looked for after a reload; what else it came to is told once.
      if (data.state !== 'confirmed') this.#store(null);
      this.#attempt?.end();
    }
    if (data.state === 'waiting' && this.picture === 'none') this.#loadPicture();
    if (data.state === 'expired') this.#renewSoon();
    this.#changed();
  }

  #renewSoon() {
    if (this.renewing || this.#left <= 0 || !this.#mayBegin()) return;
    const { signal } = this.#run;
    this.renewing = true;
    this.#changed();
    pause(RENEW_MS, signal).then(() => {
      if (signal.aborted) return;
      this.#left -= 1;
      this.#begin();
    });
  }

  #tick() {
    const now = Date.now();
    const left = this.deadline - now;
    // Timers stand still while a computer sleeps.
    if (now - this.#tickedAt > 10_000) this.wake();
    this.#tickedAt = now;
    // The service says when it is over; if it has not, its word may have been lost.
    if (left < -2_000 && this.connection === 'open' && now - this.#askedAt > 5_000) {
      this.#askedAt = now;
      this.wake(true);
    }
    // Even a code that was confirmed at the last moment is worth nothing now.
    if (left < -60_000) this.#take(LOST);
    else this.#changed();
  }

  // --- the picture

  #loadPicture() {
    this.picture = 'loading';
    this.problem = null;
    this.#pictured = 0;
    this.#show(this.kept.code_url);
    this.#changed();
  }

  pictureLoaded() {
    if (this.picture !== 'loading') return;
    this.picture = 'ready';
    this.#changed();
  }

  /** An image element does not tell why it failed; the same address does. */
  async pictureFailed() {
    const { signal } = this.#run;
    const { kept } = this;
    const isCurrent = () => !signal.aborted && this.picture === 'loading' && this.kept === kept;
    if (!isCurrent()) return;
    this.#pictured += 1;
    let problem = null;
    const dog = watchdog(signal);
    dog.wait(ANSWER_MS * 2);
    try {
      await ask(kept.code_url, { signal: dog.signal });
    } catch (error) {
      problem = problemIn(error);
    } finally {
      dog.end();
    }
    if (!isCurrent()) return;
    const soon = !problem || problem.status === 0 || problem.code === 'shutting_down';
    if (problem?.status === 410 || problem?.status === 404) {
      this.picture = 'none';
      this.wake(true);
    } else if (soon && this.#pictured < TRIES) {
      await pause(backoff(this.#pictured, problem?.retryAfter), signal);
      if (isCurrent()) this.#show(kept.code_url);
    } else {
      this.picture = 'failed';
      this.#fail(problem ?? new Problem({ code: 'other' }), () => this.#loadPicture());
    }
  }

  // --- what the service tells

  async #follow(signal) {
    let deaf = 0;
    let troubles = 0;
    let polls = 0;
    while (!signal.aborted && !this.#over) {
      const attempt = watchdog(signal);
      this.#attempt = attempt;
      let ms = 0;
      try {
        if (polls > 0) {
          // The first is only to see whether it is the service that is away, or what lies between.
          const first = deaf === DEAF;
          const asked = this.#lastId;
          if (!first && troubles === 0) this.#connected('polling');
          const data = await this.#poll(first ? 0 : POLL_SECONDS, attempt.signal);
          polls -= 1;
          troubles = 0;
          if (!first) this.#connected('polling');
          this.#take(data);
          // A replica that ends answers at once with what is known already.
          if (data.id === asked && !first) ms = backoff(1);
        } else {
          const { over, heard, unavailable, retry = RETRY_MS } = await this.#listen(attempt.signal);
          if (this.#over) break;
          if (unavailable) {
            troubles += 1;
            this.#troubled(0);
            ms = Math.max(retry, backoff(troubles, unavailable.retryAfter));
          } else if (over) {
            polls = POLLS;
            deaf = DEAF + 1;
          } else if (heard) {
            deaf = 0;
            troubles = 0;
            this.#troubled(QUIET_MS);
            ms = retry;
          } else {
            throw network();
          }
        }
      } catch (error) {
        if (signal.aborted) break;
        const problem = problemIn(error);
        // The scene is gone, or this browser can no longer prove that it is its own.
        if (problem.status === 404 || problem.status === 401) {
          this.#take(LOST);
        } else if (!problem.passing) {
          this.fail(problem);
        } else if (!attempt.signal.aborted) {
          this.#troubled(QUIET_MS);
          troubles += 1;
          ms = backoff(troubles, problem.retryAfter);
          if (polls === 0) {
            deaf += 1;
            if (deaf >= DEAF) {
              polls = deaf === DEAF ? 1 : POLLS;
              troubles = 0;
            }
          }
        }
      }
      if (!this.#over) await pause(ms, attempt.signal);
      attempt.end();
    }
  }

  #poll(wait, signal) {
    const after = this.#lastId ? `&after=${encodeURIComponent(this.#lastId)}` : '';
    return call('GET', `${this.kept.status_url}?wait=${wait}${after}`, {
      secret: this.#secret,
      signal,
      timeout: wait * 1000 + ANSWER_MS,
    }).then((data) => {
      this.#heardAt = Date.now();
      this.#streamId = data.id;
      return data;
    });
  }

  async #listen(signal) {
    const dog = watchdog(signal);
    const found = { heard: false };
    const parser = createEventParser(({ event, data }) => {
      if (event === 'unavailable') found.unavailable = problemFrom(JSON.parse(data), 503);
      else if (STATES.includes(event) && !signal.aborted) this.#take(JSON.parse(data));
    });
    try {
      dog.wait(ANSWER_MS);
      const response = await ask(this.kept.events_url, {
        secret: this.#secret,
        headers: { accept: 'text/event-stream', ...(this.#streamId && { 'last-event-id': this.#streamId }) },
        signal: dog.signal,
      });
      if (response.status === 204) return { over: true };
      if (!response.headers.get('content-type')?.startsWith('text/event-stream')) throw network();
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      dog.wait(FIRST_WORD_MS);
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        dog.wait(SILENCE_MS);
        this.#heardAt = Date.now();
        parser.feed(decoder.decode(value, { stream: true }));
        this.#streamId = parser.lastId ?? this.#streamId;
        if (this.#over) break;
        if (!found.unavailable) {
          found.heard = true;
          this.#connected('open');
        }
      }
    } catch (error) {
      // One that broke after it had been heard is only to be opened again.
      if (!found.heard) throw error;
    } finally {
      dog.end();
    }
    return { ...found, retry: parser.retry };
  }

  #connected(connection) {
    clearTimeout(this.#quiet);
    this.#quiet = null;
    if (this.connection === connection) return;
    this.connection = connection;
    this.#changed();
  }

  #troubled(ms) {
    if (ms === 0) this.#connected('reconnecting');
    this.#quiet ??= setTimeout(() => this.#connected('reconnecting'), ms);
  }
}
