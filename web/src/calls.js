// One way to call the service: JSON in, JSON out, every failure a `Problem`. And how long to wait for it, and after it.

export const ANSWER_MS = 15_000;
export const TRIES = 3;

/** An RFC 9457 problem, or what stands in for one when no answer came. */
export class Problem extends Error {
  constructor(fields) {
    super(fields.detail || fields.code);
    Object.assign(this, { status: 0 }, fields);
  }

  /** No answer, or one that says "later": the same call may succeed. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export const network = () => new Problem({ code: 'network' });

export function problemFrom(body, status, headers) {
  return new Problem({
    status,
    code: body.code ?? 'unexpected',
    detail: body.detail,
    errcode: body.errcode,
    requestId: body.request_id ?? headers?.get('x-request-id'),
    // A date is none.
    retryAfter: Number(headers?.get('retry-after')) || null,
  });
}

/** Proxies in between may answer without a problem. */
export const problemOf = async (response) => (
  problemFrom(await response.json().catch(() => ({})), response.status, response.headers)
);

/** Aborts with `parent`, or when it was given too little time by the last `wait`. */
export function watchdog(parent) {
  const own = new AbortController();
  const abort = () => own.abort();
  let timer;
  parent.addEventListener('abort', abort);
  if (parent.aborted) abort();
  return {
    signal: own.signal,
    wait(ms) {
      clearTimeout(timer);
      timer = setTimeout(abort, ms);
    },
    /** Also ends what still goes on with its signal. */
    end() {
      clearTimeout(timer);
      parent.removeEventListener('abort', abort);
      abort();
    },
  };
}

export const bearer = (secret) => (secret ? { authorization: `Bearer ${secret}` } : {});
/** Cookies go where they are ours, and nowhere else. */
export const HOW = { cache: 'no-store', credentials: 'same-origin' };

/** JSON in, JSON out; every failure is a `Problem`. */
export async function call(method, url, { json, secret, signal, timeout = ANSWER_MS }) {
  const dog = watchdog(signal);
  dog.wait(timeout);
  try {
    const response = await fetch(url, {
      ...HOW,
      method,
      headers: { accept: 'application/json', ...(json && { 'content-type': 'application/json' }), ...bearer(secret) },
      body: json && JSON.stringify(json),
      signal: dog.signal,
    });
    if (!response.ok) throw await problemOf(response);
    const text = await response.text();
    return text ? JSON.parse(text) : {};
  } catch (error) {
    throw error instanceof Problem ? error : network();
  } finally {
    dog.end();
  }
}

/** Ends early with `signal`. */
export const pause = (ms, signal) => new Promise((resolve) => {
  const done = () => {
    clearTimeout(timer);
    signal.removeEventListener('abort', done);
    resolve();
  };
  const timer = setTimeout(done, ms);
  signal.addEventListener('abort', done);
  if (signal.aborted) done();
});

/** In ms: exponential, capped and spread, so that a crowd of pages does not return as one. */
export function backoff(failures, retryAfter) {
  const seconds = retryAfter ?? Math.min(2 ** (failures - 1), 20);
  return seconds * 1000 * (1 + Math.random() * 0.5);
}

/** A server that is being replaced is back soon: then nobody needs to hear of it. */
export async function tries(signal, attempt) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await attempt();
    } catch (problem) {
      const soon = (problem.status === 0 || problem.status === 503) && !(problem.retryAfter > 5);
      if (failures === TRIES || signal.aborted || !soon) throw problem;
      await pause(backoff(failures, problem.retryAfter), signal);
    }
  }
}
