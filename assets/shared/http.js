// One way to call the service: JSON in, JSON out, every failure a `Problem`.

/** An RFC 9457 problem, or what stands in for one when no answer came. */
export class Problem extends Error {
  constructor({ status = 0, code, title, detail, errcode, state, requestId, retryAfter }) {
    super(detail || title || code);
    Object.assign(this, { status, code, title, detail, errcode, state, requestId, retryAfter });
  }

  /** No answer, or one that says "later": the same call may succeed. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

function retryAfterOf(response) {
  const value = response.headers.get('retry-after') ?? '';
  return /^\d+$/.test(value) ? Number(value) : null;
}

/** Reads a failed response; proxies in between may answer without a problem body. */
export async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  return new Problem({
    status: response.status,
    code: body.code ?? body.error ?? 'unexpected',
    title: body.title,
    detail: body.detail ?? body.error_description,
    errcode: body.errcode,
    state: body.state,
    requestId: body.request_id ?? response.headers.get('x-request-id'),
    retryAfter: retryAfterOf(response),
  });
}

/**
 * @returns {Promise<object | null>} the JSON of a 2xx answer, null when it has none
 * @throws {Problem}
 */
export async function request(method, url, { json, body, bearer, language, timeout = 15_000, signal } = {}) {
  const headers = { accept: 'application/json' };
  if (json !== undefined) headers['content-type'] = 'application/json';
  if (body?.type) headers['content-type'] = body.type;
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  if (language) headers['accept-language'] = language;

  const abort = new AbortController();
  const giveUp = () => abort.abort();
  const timer = setTimeout(giveUp, timeout);
  signal?.addEventListener('abort', giveUp);
  try {
    const response = await fetch(url, {
      method,
      headers,
      body: json === undefined ? body : JSON.stringify(json),
      cache: 'no-store',
      signal: abort.signal,
    });
    if (!response.ok) throw await problemOf(response);
    const text = await response.text();
    return text ? JSON.parse(text) : null;
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem({ code: 'network' });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', giveUp);
  }
}

export const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/** Exponential, capped and spread, so that a crowd of pages does not return as one. */
export function backoff(failures, retryAfter) {
  const base = retryAfter ?? Math.min(2 ** failures, 20);
  return base * (1 + Math.random() * 0.5);
}
