// Follows one scene until its final state: over an EventSource, and by asking
// again and again where a stream cannot be had.

import { backoff, pause, request } from '../shared/http.js';

const STATES = ['waiting', 'scanned', 'confirmed', 'declined', 'cancelled', 'expired'];
const FINAL = new Set(['confirmed', 'declined', 'cancelled', 'expired']);
const LOST = { state: 'expired', reason: 'lost' };

/** A reconnect usually takes less than this; nobody needs to hear of it. */
const QUIET_MS = 2000;
/** An `unavailable` stream opens too: only one that stays open is news. */
const SETTLE_MS = 300;

const isFinal = (data) => FINAL.has(data.state);

/** The scene is gone, or this browser can no longer prove that it is its own. */
const isGone = (problem) => problem.status === 404 || problem.status === 401;

/**
 * @param session the answer to `POST /scenes`
 * @param onState called with the data of every event
 * @param onConnection called with `open`, `reconnecting` or `polling`
 */
export function watchScene(session, { onState, onConnection }) {
  const { events_url: eventsUrl, status_url: statusUrl } = session;
  const abort = new AbortController();
  let source = null;
  let lastId = session.id;
  let taken = 0;
  let polling = false;
  let closed = false;
  let quiet = null;
  let settling = null;

  function close() {
    closed = true;
    clearTimeout(quiet);
    clearTimeout(settling);
    source?.close();
    abort.abort();
  }

  function take(data) {
    if (closed) return;
    taken += 1;
    lastId = data.id;
    if (isFinal(data)) close();
    onState(data);
  }

  function disturbed(after) {
    clearTimeout(settling);
    quiet ??= setTimeout(() => onConnection('reconnecting'), after);
  }

  function settled(after) {
    clearTimeout(settling);
    settling = setTimeout(() => {
      clearTimeout(quiet);
      quiet = null;
      onConnection('open');
    }, after);
  }

  function listen() {
    source = new EventSource(eventsUrl);
    source.addEventListener('open', () => settled(SETTLE_MS));
    source.addEventListener('unavailable', () => {
      clearTimeout(quiet);
      quiet = null;
      disturbed(0);
    });
    source.addEventListener('error', () => {
      if (source.readyState === EventSource.CLOSED) poll();
      else disturbed(QUIET_MS);
    });
    for (const state of STATES) {
      source.addEventListener(state, (event) => {
        settled(0);
        take(JSON.parse(event.data));
      });
    }
  }

  async function poll() {
    if (polling || closed) return;
    polling = true;
    let failures = 0;
    clearTimeout(quiet);
    onConnection('polling');
    while (!closed) {
      const asked = lastId;
      const after = asked ? `&after=${encodeURIComponent(asked)}` : '';
      try {
        const data = await request('GET', `${statusUrl}?wait=25${after}`, {
          timeout: 35_000,
          signal: abort.signal,
        });
        failures = 0;
        take(data);
        // A draining replica answers at once with what is known already.
        if (data.id === asked) await pause(backoff(0));
      } catch (problem) {
        if (isGone(problem)) return take(LOST);
        failures += 1;
        await pause(backoff(failures, problem.retryAfter));
      }
    }
  }

  /** Asks for the state now: after sleep, or when the clock says that it must have changed. */
  async function resync() {
    if (closed) return;
    const before = taken;
    try {
      const data = await request('GET', statusUrl, { signal: abort.signal });
      // An event that came meanwhile may be newer than this answer.
      if (taken === before) take(data);
    } catch (problem) {
      if (isGone(problem)) take(LOST);
    }
  }

  listen();
  return { resync, close };
}

/** What a reload finds: the state to go on with, or null to start anew. */
export async function resumeScene(session) {
  try {
    const data = await request('GET', session.status_url);
    const resumable = !isFinal(data) || (data.state === 'confirmed' && data.code);
    return resumable ? data : null;
  } catch (problem) {
    if (problem.passing) throw problem;
    return null;
  }
}
