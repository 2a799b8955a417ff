// The event stream's parser: whatever the stream is cut at, the same events come out.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createEventParser } from '../src/events.js'

/** What a parser tells that is fed these pieces. */
function parsed(...pieces) {
  const told = []
  const parser = createEventParser((event) => told.push(event))
  for (const piece of pieces) parser.feed(piece)
  return { told, lastId: parser.lastId, retry: parser.retry }
}

const STREAM = [
  ': a comment', 'retry: 1500', 'event: waiting', 'id: a.1', 'data: {"state":"waiting"}', '',
  ':', '', 'event:scanned', 'data:{"a":1,', 'data: "b": "x: y"}', 'id: a.2', '',
  'event: kept', 'id: a.3', '', 'data', '', 'unknown: x', 'data:  two', '', '',
]
const EVENTS = [
  { event: 'waiting', data: '{"state":"waiting"}' },
  { event: 'scanned', data: '{"a":1,\n"b": "x: y"}' },
  { event: 'message', data: '' },
  { event: 'message', data: ' two' },
]

for (const [name, end] of [['LF', '\n'], ['CRLF', '\r\n'], ['CR', '\r']]) {
  const text = STREAM.join(end)

  test(`a stream whose lines end with ${name} is read`, () => {
    assert.deepEqual(parsed(text), { told: EVENTS, lastId: 'a.3', retry: 1500 })
  })

  test(`wherever one with ${name} is cut`, () => {
    assert.deepEqual(parsed(...text), { told: EVENTS, lastId: 'a.3', retry: 1500 }, 'into single characters')
    for (let first = 0; first <= text.length; first += 1) {
      const second = Math.min(text.length, first + 1 + (first % 5))
      const pieces = [text.slice(0, first), text.slice(first, second), '', text.slice(second)]
      assert.deepEqual(parsed(...pieces), { told: EVENTS, lastId: 'a.3', retry: 1500 }, `at ${first} and ${second}`)
    }
  })
}

test('what is not finished is not told', () => {
  assert.deepEqual(parsed('event: waiting\ndata: 1\n').told, [])
  assert.deepEqual(parsed('event: waiting\ndata: 1\n', '\n').told, [{ event: 'waiting', data: '1' }])
  assert.equal(parsed('id: 1\n').lastId, undefined)
})

test('an event without data is told to nobody, but its id is kept', () => {
  assert.deepEqual(parsed('id: replaced.1\n\n'), { told: [], lastId: 'replaced.1', retry: undefined })
  assert.deepEqual(parsed('event: x\n\ndata: y\n\n').told, [{ event: 'message', data: 'y' }], 'nor does its name go on')
})

test('an id goes on until there is another', () => {
  assert.equal(parsed('id: 1\ndata: x\n\ndata: y\n\n').lastId, '1')
  assert.equal(parsed('id: 1\ndata: x\n\nid\n\n').lastId, '')
  assert.equal(parsed('id: 1\n\nid: a\0b\n\n').lastId, '1')
})

test('only a whole number of milliseconds is a time to wait', () => {
  for (const [said, retry] of [['10', 10], ['1e3', undefined], ['-1', undefined], ['', undefined], ['x', undefined]]) {
    assert.equal(parsed(`retry: ${said}\n\n`).retry, retry, said)
  }
})
