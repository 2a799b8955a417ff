// What a site writes itself in an afternoon: scenes in Redis, pub/sub between replicas, event streams. No checks of who asks.
//   node server.mjs PORT REDIS_PORT
import crypto from 'node:crypto'
import http from 'node:http'
import Redis from 'ioredis'

const [port, redisPort] = process.argv.slice(2).map(Number)
const commands = new Redis(redisPort, '127.0.0.1')
const subscriber = new Redis(redisPort, '127.0.0.1')
commands.defineCommand('confirm', {
  numberOfKeys: 1,
  lua: `
    if redis.call('GET', KEYS[1]) ~= 'waiting' then return 0 end
    redis.call('SET', KEYS[1], 'confirmed', 'KEEPTTL')
    redis.call('PUBLISH', KEYS[1], 'confirmed')
    return 1`,
})

const streams = new Map()
subscriber.on('message', (key) => streams.get(key)?.write('event: confirmed\ndata: {}\n\n'))

async function events(id, response) {
  const key = `scene:${id}`
  streams.set(key, response)
  response.once('close', () => {
    streams.delete(key)
    subscriber.unsubscribe(key)
  })
  // Before the state is read, so that nothing is missed between.
  await subscriber.subscribe(key)
  const state = await commands.get(key)
  if (state === null) return response.writeHead(404).end()
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  response.write(`event: ${state}\ndata: {}\n\n`)
}

const json = (response, status, value) => {
  const body = JSON.stringify(value)
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }).end(body)
}

const server = http.createServer(async (request, response) => {
  const [, kind, id, action] = request.url.split('/')
  request.resume()
  if (request.method === 'GET' && kind === 'events') return events(id, response)
  if (request.method === 'POST' && kind === 'scenes' && !id) {
    const scene = crypto.randomBytes(16).toString('hex')
    await commands.set(`scene:${scene}`, 'waiting', 'EX', 120)
    return json(response, 201, { scene })
  }
  if (request.method === 'POST' && kind === 'scenes' && action === 'confirm') {
    const done = await commands.confirm(`scene:${id}`)
    return json(response, done ? 200 : 409, { done })
  }
  response.writeHead(404).end()
})
server.keepAliveTimeout = 120_000
server.listen(port, '127.0.0.1', 4096)
