// What the component does about what the service says and does not say, with a clock that the test turns.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { backoff } from '../src/calls.js'
import { pass, problem, SERVICE, settle, sleep, World } from './support.mjs'

const NETWORK = async () => { throw new TypeError('Failed to fetch') }

async function waiting(t, settings) {
  const world = new World(t, settings)
  world.login.start()
  await settle()
  assert.equal(world.login.state, 'waiting')
  assert.equal(world.open.length, 1)
  return world
}

test('a login is begun with what the page says, and followed by its Bearer from another origin', async (t) => {
  const world = await waiting(t, { request: { client_id: 'shop', code_challenge: 'c', nonce: 'n', env_version: undefined } })
  const [start, stream, ...rest] = world.calls
  assert.deepEqual(start.body, { client_id: 'shop', code_challenge: 'c', nonce: 'n', code_challenge_method: 'S256' })
  assert.equal(start.credentials, 'same-origin', 'another origin gets no cookies and sets none')
  assert.equal(stream.headers.authorization, 'Bearer secret-1')
  assert.equal(stream.headers['last-event-id'], '1.1', 'what is known is not told again')
  assert.deepEqual(rest, [])
  await world.streams[0].tell({ state: 'scanned', id: '1.2', match_number: '42' })
  assert.equal(world.login.data.match_number, '42')
  await world.streams[0].tell({ state: 'confirmed', id: '1.3', code: 'x' })
  assert.equal(world.login.data.code, 'x')
  assert.equal(world.open.length, 0, 'nothing is read after the end')
  await pass(300_000)
  assert.equal(world.calls.length, 2, 'nor asked')
  assert.equal(world.login.connection, null)
  assert.deepEqual(world.states, ['loading', 'waiting', 'scanned', 'confirmed'])
})

test('a code to type is asked for by a click, and gone when its time is over', async (t) => {
  const world = await waiting(t)
  assert.equal(world.login.shortCode, null)
  world.login.showShortCode()
  await settle()
  assert.deepEqual([world.login.shortCode, world.login.miniProgram], ['K7WM-P3XQ', '扫码登录'])
  const [asked] = world.of('short')
  assert.equal(`${asked.method} ${asked.url} ${asked.headers.authorization}`, `POST ${SERVICE}/scenes/1/short-code Bearer secret-1`)
  assert.equal(world.login.state, 'waiting')
  await pass(60_500)
  assert.equal(world.login.shortCode, null)
  world.login.showShortCode()
  await settle()
  world.login.refresh()
  await settle()
  assert.equal(world.login.shortCode, null, 'that of another scene')
})

test('where there is no code to type, the picture stays to be scanned', async (t) => {
  const world = await waiting(t)
  world.answers.short = [async () => problem(429, 'rate_limited', 5), async () => problem(410, 'not_waiting')]
  world.login.showShortCode()
  await settle()
  assert.equal(world.login.state, 'error')
  assert.equal(world.open.length, 1, 'it is listened to all the same')
  await pass(6_000)
  world.login.refresh()
  await settle()
  assert.equal(world.login.state, 'waiting')
  assert.equal(world.scenes, 1)
  // It was scanned just now: the stream says so.
  world.login.showShortCode()
  await settle()
  assert.equal(world.login.state, 'waiting')
  await world.open[0].tell({ state: 'scanned', id: '1.2' })
  assert.equal(world.login.state, 'scanned')
})

test('what the page\'s backend begins with wins, and is kept for the page', async (t) => {
  const world = new World(t, { beginUrl: `${SERVICE}/begin`, request: { client_id: 'site', code_challenge: undefined, nonce: 'own' } })
  world.begin = async () => Response.json({ code_challenge: 'begun', state: 'of the backend' })
  world.login.start()
  await settle()
  assert.deepEqual(world.of('start')[0].body, { client_id: 'site', code_challenge: 'begun', nonce: 'own', code_challenge_method: 'S256' })
  assert.equal(world.login.kept.begun.state, 'of the backend')
  world.login.refresh()
  await settle()
  assert.equal(world.of('begin').length, 2, 'each login is begun anew')
})

for (const [what, answer, code, said] of [
  ['fails', () => new Response('<h1>500</h1>', { status: 500 }), 'other', '500'],
  ['is not there', () => new Response('<h1>404</h1>', { status: 404 }), 'other', '404'],
  ['answers by a page', () => new Response('<!doctype html>'), 'other', 'no JSON'],
  ['says why', () => Response.json({ detail: 'Closed.' }, { status: 403 }), 'other', 'Closed.'],
  ['answers by a problem of its own', () => Response.json({ code: 'closed', detail: 'Closed.' }, { status: 503, headers: { 'retry-after': '9' } }), 'closed', 'Closed.'],
  ['answers nothing', () => new Response('null', { status: 500 }), 'other', '500'],
  ['can\'t be reached', () => { throw new TypeError('Failed to fetch') }, 'network', 'network'],
]) {
  test(`that the page's backend ${what} is not said of the service, and who builds the site is told`, async (t) => {
    const world = new World(t, { beginUrl: `${SERVICE}/begin` })
    world.begin = async () => answer()
    world.login.start()
    await pass(10_000)
    const { problem } = world.login
    assert.deepEqual([problem.code, problem.detail], [code, `POST ${SERVICE}/begin: ${said}`])
    assert.equal(world.scenes, 0)
    world.begin = async () => Response.json({})
    world.login.refresh()
    await settle()
    assert.equal(world.login.state, 'waiting', 'the button begins again')
  })
}

test('a code that expires is renewed so often as is allowed, and by a click so often again', async (t) => {
  const world = await waiting(t)
  const expire = async () => {
    await world.open[0].tell({ state: 'expired', id: 'e', reason: 'time' })
    assert.equal(world.login.state, 'expired')
    await pass(5_000)
  }
  for (const scenes of [2, 3, 3]) {
    await expire()
    assert.equal(world.scenes, scenes)
    if (scenes < 3) assert.equal(world.login.state, 'waiting')
    if (world.open.length === 0) break
  }
  await pass(600_000)
  await world.see()
  await pass(600_000)
  assert.equal(world.scenes, 3)
  world.login.refresh()
  await settle()
  assert.equal(world.scenes, 4)
  await expire()
  assert.equal(world.scenes, 5)
})

test('with auto-refresh 0 none comes by itself', async (t) => {
  const world = await waiting(t, { autoRefresh: 0 })
  await world.open[0].tell({ state: 'expired', id: 'e', reason: 'time' })
  await pass(60_000)
  assert.equal(world.scenes, 1)
  assert.equal(world.login.renewing, false)
})

test('nothing is begun where nobody sees it, and renewed only when somebody looks again', async (t) => {
  const world = new World(t)
  world.hide()
  world.login.start()
  await pass(60_000)
  assert.deepEqual(world.calls, [])
  await world.see()
  assert.equal(world.login.state, 'waiting')

  world.hide()
  await world.open[0].tell({ state: 'expired', id: 'e', reason: 'time' })
  await pass(600_000)
  assert.equal(world.scenes, 1)
  await world.see()
  await pass(2_000)
  assert.equal(world.scenes, 2)
})

test('paused is as if nobody saw it', async (t) => {
  const world = new World(t, { paused: true })
  world.login.start()
  await world.see()
  await pass(60_000)
  assert.deepEqual(world.calls, [])
  world.settings.paused = false
  world.login.wake()
  await settle()
  assert.equal(world.login.state, 'waiting')
})

test('a stream that ends or breaks is opened again when the service said, from where it was', async (t) => {
  const world = await waiting(t)
  await world.open[0].tell({ state: 'scanned', id: '1.2' })
  await world.open[0].write('retry: 4000\n\n')
  await world.open[0].end()
  await pass(3_500)
  assert.equal(world.of('stream').length, 1, 'not earlier')
  assert.equal(world.login.connection, 'reconnecting')
  await pass(1_000)
  assert.equal(world.of('stream').length, 2)
  assert.equal(world.of('stream')[1].headers['last-event-id'], '1.2')
  assert.equal(world.login.connection, 'open')
  await world.open[0].break()
  await pass(1_000)
  assert.equal(world.login.connection, 'open', 'nobody hears of a short one')
  assert.equal(world.of('stream').length, 3)
  assert.equal(world.of('status').length, 0, 'streams that speak are no reason to ask')
})

test('one that is silent for too long is taken for dead', async (t) => {
  const world = await waiting(t)
  await pass(40_000)
  assert.equal(world.of('stream').length, 1)
  await world.open[0].write(':\n\n')
  await pass(40_000)
  assert.equal(world.of('stream').length, 1, 'a comment is a sign of life')
  await pass(10_000)
  assert.equal(world.of('stream').length, 2)
})

test('where streams do not get through it is asked instead, and streams are tried again later', async (t) => {
  const world = new World(t)
  world.stream = async () => new Response('a proxy without streams', { status: 502 })
  world.status = ({ url }) => new Promise((resolve) => {
    const answer = () => resolve(Response.json({ id: '1.1', state: 'waiting', expires_in: 1_000 }))
    if (url.searchParams.get('wait') === '0') answer()
    else setTimeout(answer, 25_000)
  })
  world.login.start()
  await pass(10_000)
  assert.equal(world.login.connection, 'polling')
  assert.equal(world.of('stream').length, 3, 'twice, and once more when the service is known to be there')
  const [look, poll] = world.of('status')
  assert.equal(look.url.search, '?wait=0&after=1.1')
  assert.equal(poll.url.search, '?wait=25&after=1.1')
  assert.equal(poll.headers.authorization, 'Bearer secret-1')
  await pass(200_000)
  assert.equal(world.of('stream').length, 3)
  delete world.stream
  await pass(100_000)
  assert.equal(world.login.connection, 'open')
  world.login.stop()
})

test('news come by asking too', async (t) => {
  const world = new World(t)
  world.stream = NETWORK
  world.login.start()
  let answer
  world.status = ({ url }) => (url.searchParams.get('wait') === '0'
    ? Response.json({ id: '1.1', state: 'waiting', expires_in: 100 })
    : new Promise((resolve) => { answer = (data) => resolve(Response.json(data)) }))
  world.answers.status = []
  await pass(10_000)
  answer({ id: '1.2', state: 'scanned', expires_in: 100 })
  await settle()
  assert.equal(world.login.state, 'scanned')
  await pass(250)
  assert.match(world.calls.at(-1).url.search, /after=1\.2/)
  answer({ id: '1.3', state: 'confirmed', code: 'x', expires_in: 60 })
  await settle()
  assert.equal(world.login.state, 'confirmed')
})

test('a stream that is held back on its way is given up', async (t) => {
  const world = new World(t)
  world.stream = async ({ signal }) => new Response(new ReadableStream({
    start: (controller) => signal.addEventListener('abort', () => controller.error(new DOMException('aborted', 'AbortError'))),
  }), { headers: { 'content-type': 'text/event-stream' } })
  world.login.start()
  await pass(40_000)
  assert.ok(world.of('status').length > 0)
})

test('Retry-After is kept to', async (t) => {
  const world = new World(t)
  world.answers.stream = [async () => problem(503, 'shutting_down', 30)]
  world.login.start()
  await pass(29_000)
  assert.equal(world.of('stream').length, 1)
  assert.equal(world.of('status').length, 0)
  await pass(2_000)
  assert.equal(world.of('stream').length, 2)
})

test('what passes is waited for, longer each time, and is no reason to ask', async (t) => {
  const world = new World(t)
  world.stream = async () => new Response('retry: 1000\nevent: unavailable\ndata: {"code":"store_unavailable"}\n\n', {
    headers: { 'content-type': 'text/event-stream' },
  })
  world.login.start()
  await pass(40_000)
  assert.equal(world.login.connection, 'reconnecting')
  assert.equal(world.of('status').length, 0)
  const at = world.of('stream').map((call) => call.at)
  const gaps = at.slice(1).map((time, index) => Math.round((time - at[index]) / 1000))
  assert.deepEqual(gaps.slice(0, 4), [1, 2, 4, 8])
  delete world.stream
  await pass(30_000)
  assert.equal(world.login.connection, 'open')
})

for (const status of [404, 401]) {
  test(`a scene that is gone (${status}) is told as lost, and renewed`, async (t) => {
    const world = await waiting(t)
    world.answers.stream = [async () => problem(status, 'gone')]
    await world.open[0].end()
    await pass(1_250)
    assert.equal(world.login.state, 'expired')
    assert.equal(world.login.data.reason, 'lost')
    await pass(2_000)
    assert.equal(world.scenes, 2)
  })
}

test('a stream that made room for newer ones is not fought for', async (t) => {
  const world = await waiting(t)
  await world.open[0].write('id: replaced.1.1\n\n')
  world.answers.stream = [async () => new Response(null, { status: 204 })]
  await world.open[0].end()
  await pass(1_250)
  assert.equal(world.of('stream')[1].headers['last-event-id'], 'replaced.1.1')
  assert.equal(world.of('stream').length, 2)
  assert.equal(world.of('status')[0].url.search, '?wait=25&after=1.1')
})

test('after a sleep the stream is opened anew at once', async (t) => {
  const world = await waiting(t)
  await pass(5_000)
  await world.see()
  assert.equal(world.of('stream').length, 1, 'a fresh one is not')
  await sleep(60_000)
  await pass(1_000)
  assert.equal(world.of('stream').length, 2)
})

test('a code whose end nobody tells is given up', async (t) => {
  const world = await waiting(t, { autoRefresh: 0 })
  world.stream = NETWORK
  world.status = NETWORK
  await world.open[0].break()
  await pass(150_000)
  assert.equal(world.login.state, 'waiting', 'it may have been confirmed at the last moment')
  await pass(40_000)
  assert.equal(world.login.state, 'expired')
})

test('a service that is just being replaced is tried again before anybody is told', async (t) => {
  const world = new World(t)
  world.answers.start = [NETWORK, async () => problem(503, 'shutting_down', 1)]
  world.login.start()
  await pass(5_000)
  assert.equal(world.login.state, 'waiting')
  assert.deepEqual(world.states, ['loading', 'waiting'])
})

test('one that is away is told, and the click tries again', async (t) => {
  const world = new World(t)
  world.start = NETWORK
  world.login.start()
  await pass(60_000)
  assert.equal(world.login.state, 'error')
  assert.equal(world.of('start').length, 3)
  assert.equal(world.login.startsOver, false)
  delete world.start
  world.login.refresh()
  await settle()
  assert.equal(world.login.state, 'waiting')
})

test('too many tries are told at once, with the time to wait', async (t) => {
  const world = new World(t)
  world.answers.start = [async () => problem(429, 'rate_limited', 20)]
  world.login.start()
  await settle()
  assert.equal(world.login.problem.code, 'rate_limited')
  assert.equal(world.login.problem.until, Date.now() + 20_000)
})

test('stopped, it asks nothing more; started, it goes on with the same', async (t) => {
  const world = await waiting(t)
  world.login.stop()
  const asked = world.calls.length
  assert.equal(world.open.length, 0)
  assert.equal(world.shown.at(-1), null, 'nor is the picture loaded on')
  await pass(600_000)
  assert.equal(world.calls.length, asked)
  world.login.start()
  await settle()
  assert.deepEqual(world.calls.slice(asked).map((call) => call.kind), ['status', 'stream'])
  assert.equal(world.login.state, 'waiting')
  assert.equal(world.scenes, 1)
})

test('a code that was told is not told again to a page that moves the element', async (t) => {
  const world = await waiting(t)
  await world.open[0].tell({ state: 'confirmed', id: '1.2', code: 'x' })
  const asked = world.calls.length
  world.login.stop()
  world.login.start()
  await pass(10_000)
  assert.equal(world.calls.length, asked)
  assert.equal(world.login.state, 'confirmed')
})

test('other settings are another login', async (t) => {
  const world = await waiting(t)
  world.settings = { ...world.settings, request: { client_id: 'other' } }
  world.login.start()
  await settle()
  assert.equal(world.scenes, 2)
  assert.equal(world.open.length, 1)
})

test('a reload finds it again where the cookie is the proof, and only there', async (t) => {
  const kept = new Map()
  const storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  }
  const world = new World(t)
  globalThis.sessionStorage = storage
  world.login.start()
  await settle()
  assert.equal(kept.size, 0, 'a secret is not kept')
  world.login.stop()

  globalThis.location = { origin: SERVICE }
  const first = world.make()
  first.start()
  await settle()
  assert.equal(world.calls.at(-1).headers.authorization, undefined)
  assert.ok(!JSON.stringify([...kept]).includes('secret'))
  first.stop()
  const reloaded = world.make()
  reloaded.start()
  await settle()
  const beside = world.make()
  beside.start()
  await settle()
  assert.equal(reloaded.kept.scene, first.kept.scene)
  assert.notEqual(beside.kept.scene, first.kept.scene, 'no two elements of a page share a login')
  assert.equal(world.scenes, 3)
  beside.stop()
  reloaded.stop()
  const inItsPlace = world.make()
  inItsPlace.start()
  await settle()
  assert.equal(inItsPlace.kept.scene, beside.kept.scene, 'what is taken out leaves its login to what comes after it')
  inItsPlace.stop()

  world.status = async () => Response.json({ id: '2.4', state: 'confirmed', expires_in: 9 })
  const late = world.make()
  late.start()
  await settle()
  assert.equal(world.scenes, 4, 'one whose code is redeemed is over')
  late.stop()

  world.status = async () => Response.json({ id: '3.2', state: 'declined', expires_in: 9, redirect_to: 'https://site.example/?error=access_denied' })
  const declined = world.make()
  declined.start()
  await settle()
  assert.equal(declined.state, 'declined')
  assert.equal(world.scenes, 4, 'whoever was away is told of the no')
  declined.stop()
  const again = world.make()
  again.start()
  await settle()
  assert.equal(world.scenes, 5, 'and once: the same link begins anew')
  again.stop()
})

test('giving up is told by the service, where it can be', async (t) => {
  const world = await waiting(t)
  world.answers.status = [async () => Response.json({ id: '1.2', state: 'cancelled', expires_in: 9, redirect_to: 'https://site.example/?error=access_denied' })]
  await world.login.cancel()
  assert.equal(world.login.state, 'cancelled')
  assert.match(world.login.data.redirect_to, /access_denied/)
  assert.equal(world.open.length, 0)
})

test('giving up too late changes nothing', async (t) => {
  const world = await waiting(t)
  world.answers.cancel = [async () => problem(409, 'already_finished')]
  world.answers.stream = [async () => new Response('event: confirmed\nid: 1.2\ndata: {"state":"confirmed","code":"x","id":"1.2","expires_in":9}\n\n', {
    headers: { 'content-type': 'text/event-stream' },
  })]
  await world.login.cancel()
  await settle()
  assert.equal(world.login.data.code, 'x')
})

test('a phone is shown no code until it is asked for', async (t) => {
  const world = new World(t, { phone: true })
  world.login.start()
  await pass(10_000)
  assert.equal(world.login.state, 'phone')
  assert.deepEqual(world.calls, [])
  world.login.showAnyway()
  await settle()
  assert.equal(world.login.state, 'waiting')
  assert.ok(world.login.anyway)
})

test('a crowd of pages does not come back as one', (t) => {
  const random = t.mock.method(Math, 'random', () => 0)
  assert.deepEqual([1, 2, 3, 9].map((failures) => backoff(failures)), [1_000, 2_000, 4_000, 20_000])
  random.mock.mockImplementation(() => 1)
  assert.deepEqual([1, 2, 3, 9].map((failures) => backoff(failures)), [1_500, 3_000, 6_000, 30_000])
  assert.equal(backoff(1, 7), 10_500, 'later than asked, never sooner')
})
