// One way to call the service: JSON in, JSON out, every failure a `Problem`. And how long to wait for it, and after it.

export const ANSWER_MS = 15_000;
export const TRIES = 3;

/** An RFC 9457 problem, or what stands in for one when no answer came; without a `code` where whoever answered gave none. */
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
    code: body.code,
    detail: body.detail,
    errcode: body.errcode,
    requestId: body.request_id ?? headers?.get('x-request-id'),
    // A date is none.
    retryAfter: Number(headers?.get('retry-after')) || null,
  });
}

/** What came in the place of an answer. */
export function problemIn(error) {
  if (error instanceof Problem) return error;
  return error instanceof SyntaxError ? new Problem({ detail: 'no JSON' }) : network();
}

/** Aborts with `parent`, or when it was given too little time by the last `wait`. */
export function watchdog(parent) {
  const own = new AbortController();
  const { signal } = own;
  let timer;
  /** Also ends what still goes on with its signal. */
  const end = () => {
    clearTimeout(timer);
    own.abort();
  };
  parent.addEventListener('abort', end, { signal });
  if (parent.aborted) end();
  return {
    signal,
    end,
    wait(ms) {
      clearTimeout(timer);
      if (!signal.aborted) timer = setTimeout(end, ms);
    },
  };
}

/** An answer that is no problem. */
export async function ask(url, { secret, headers, ...options }) {
  const response = await fetch(url, {
    cache: 'no-store',
    // Cookies go where they are ours, and nowhere else.
    credentials: 'same-origin',
    headers: { ...headers, ...(secret && { authorization: `Bearer ${secret}` }) },
    ...options,
  });
  if (response.ok) return response;
  // Proxies in between may answer without a problem.
  throw problemFrom(await response.json().catch(() => null) ?? {}, response.status, response.headers);
}

/** JSON in, JSON out; every failure is a `Problem`. */
export async function call(method, url, { json, secret, signal, timeout = ANSWER_MS }) {
  const dog = watchdog(signal);
  dog.wait(timeout);
  try {
    const response = await ask(url, {
      method,
      secret,
      headers: { accept: 'application/json', ...(json && { 'content-type': 'application/json' }) },
      body: json && JSON.stringify(json),
      signal: dog.signal,
    });
    const text = await response.text();
    return (text ? JSON.parse(text) : null) ?? {};
  } catch (error) {
    throw problemIn(error);
  } finally {
    dog.end();
  }
}

/** Ends early with `parent`. */
export const pause = (ms, parent) => new Promise((resolve) => {
  const { signal, wait } = watchdog(parent);
  signal.addEventListener('abort', resolve);
  wait(ms);
  if (signal.aborted) resolve();
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
