// Server-Sent Events, of a stream that `fetch` reads: an EventSource can send no Authorization.

/**
 * Reads an event stream (WHATWG HTML §9.2.6) from pieces of text, cut anywhere.
 * `told` gets `{event, data}`; `lastId` and `retry` are what the stream said last.
 */
export function createEventParser(told) {
  let line = '';
  let afterReturn = false;
  let event = '';
  let data = [];
  let id;
  const parser = { feed };

  function field(text) {
    const [, name, value] = /^([^:]*):? ?(.*)/s.exec(text);
    if (name === 'event') event = value;
    else if (name === 'data') data.push(value);
    else if (name === 'id' && !value.includes('\0')) id = value;
    else if (name === 'retry' && /^\d+$/.test(value)) parser.retry = Number(value);
  }

  function dispatch() {
    parser.lastId = id;
    if (data.length > 0) told({ event: event || 'message', data: data.join('\n') });
    event = '';
    data = [];
  }

  function feed(text) {
    for (const [piece, end] of text.matchAll(/[^\r\n]*(\r\n|\r|\n|$)/g)) {
      // The second half of an end of line that two pieces of text were cut at.
      if (piece === '' || (afterReturn && piece === '\n')) {
        afterReturn &&= piece === '';
        continue;
      }
      afterReturn = end === '\r';
      line += end ? piece.slice(0, -end.length) : piece;
      if (!end) continue;
      const whole = line;
      line = '';
      if (whole) field(whole);
      else dispatch();
    }
  }

  return parser;
}
