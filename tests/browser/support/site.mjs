// Somebody's site at an origin of its own: the page of web/README.md, and behind it the backend of web/README.md.

import { createHash, randomBytes } from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Process, Service, freePort } from './service.mjs'
import { until } from './until.mjs'

export const README = fs.readFileSync(new URL('../../../web/README.md', import.meta.url), 'utf8')
/** Where a program finds the libraries that it imports. */
const LIBRARIES = fileURLToPath(new URL('../node_modules', import.meta.url))
export const SECRET = 'the-secret-of-the-shop'
const sha256 = (text, how) => createHash('sha256').update(text).digest(how)

/** What an id_token says. */
export const claimsOf = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'))

/** The blocks of docs/howto.md that stand below this heading. */
export function howto(heading) {
  const text = fs.readFileSync(new URL('../../../docs/howto.md', import.meta.url), 'utf8')
  const [, section] = text.split(new RegExp(`^##? ${heading}\n`, 'm'))
  return [...section.split('\n## ')[0].matchAll(/^```\w+\n([^]*?)^```$/gm)].map(([, block]) => block)
}

/** The lines that the README tells a site's owner to write: of the page, and of the backend. */
export const LINES = /```html\n([^]*?)```/.exec(README)[1]
const BACKEND = /```js backend.mjs\n([^]*?)```/.exec(README)[1]

export class Site {
  /** With what status its backend ended each login. */
  finished = []
  /** Who came back to the callback, by session. */
  #claims = new Map()
  #backend = null
  /** What a test puts in the place of the README's lines. */
  lines = LINES
  /** What else its page says of itself. */
  headers = {}
  /** What its callback answers, if it is to redeem the code itself. */
  back = null

  /** Beside it a service that knows it, with these settings; by a table, if there is `table`, with what else that says of it. */
  static async start({ table, ...settings } = {}) {
    const site = new Site()
    site.server = http.createServer((request, reply) => {
      site.#answer(request, reply).catch((error) => reply.writeHead(500).end(String(error)))
    })
    await new Promise((resolve) => { site.server.listen(0, '127.0.0.1', resolve) })
    // Another site than 127.0.0.1, so that no cookie of the service's goes along.
    site.origin = `http://localhost:${site.server.address().port}`
    const client = table ? site.#writes(table) : {
      CLIENT_ID: 'shop',
      CLIENT_NAME: 'The Shop',
      CLIENT_SECRET: SECRET,
      CLIENT_ORIGINS: site.origin,
      CLIENT_REDIRECT_URIS: `${site.origin}/callback`,
    }
    site.service = await Service.start({ SIMULATOR: 'true', ...client, ...settings })
    site.serviceUrl = site.service.url
    return site
  }

  /** Settings with a table of this site. */
  #writes(table) {
    const client = {
      client_id: 'shop', name: 'The Shop', client_secret: SECRET, origins: [this.origin], redirect_uris: [`${this.origin}/callback`], ...table,
    }
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'scanlogin-browser-'))
    const file = path.join(this.dir, 'scanlogin.toml')
    const lines = Object.entries(client).map(([name, value]) => `${name} = ${JSON.stringify(value)}\n`)
    fs.writeFileSync(file, `[[client]]\n${lines.join('')}`, { mode: 0o600 })
    return { CONFIG: file }
  }

  async stop() {
    this.server.closeAllConnections()
    this.server.close()
    const backend = await this.#backend?.catch(() => null)
    await Promise.all([this.service?.kill(), backend?.process.end()])
    for (const dir of [backend?.dir, this.dir]) if (dir) fs.rmSync(dir, { recursive: true })
  }

  /** Runs the README's backend, with this site's addresses and secret. */
  async #runs() {
    const port = await freePort()
    const dir = fs.mkdtempSync(path.join(LIBRARIES, '.site-'))
    const file = path.join(dir, 'backend.mjs')
    fs.writeFileSync(file, BACKEND.replaceAll('https://login.example', this.serviceUrl).replaceAll('CLIENT-SECRET', SECRET)
      .replaceAll('listen(3000)', `listen(${port}, '127.0.0.1')`))
    const backend = { dir, url: `http://127.0.0.1:${port}`, process: new Process(process.execPath, [file]) }
    await until('the backend answers', () => {
      if (backend.process.how !== undefined) throw new Error(`the backend ended (${backend.process.how}):\n${backend.process.log}`)
      return fetch(backend.url).catch(() => null)
    })
    return backend
  }

  /** What the README's backend answers to a request, whose cookies are its own to set. */
  async #behind({ method, headers }, pathname, reply, body) {
    this.#backend ??= this.#runs()
    const { url } = await this.#backend
    const told = Object.fromEntries(['cookie', 'content-type'].filter((name) => headers[name]).map((name) => [name, headers[name]]))
    const answer = await fetch(`${url}${pathname}`, { method, headers: told, body })
    for (const cookie of answer.headers.getSetCookie()) reply.appendHeader('set-cookie', cookie)
    return answer
  }

  /** What a page of this site may do: nothing inline but the README's script, and no markup out of text. */
  #policy(lines) {
    const scripts = [...lines.matchAll(/<script[^>]*>([^]*?)<\/script>/g)].map(([, text]) => text).filter(Boolean)
    const hashes = scripts.map((text) => `'sha256-${sha256(text, 'base64')}'`).join(' ')
    return `default-src 'none'; script-src ${this.serviceUrl} ${hashes}; style-src 'self'; img-src ${this.serviceUrl} data:; `
      + `connect-src 'self' ${this.serviceUrl}; require-trusted-types-for 'script'; trusted-types 'none'`
  }

  async #answer(request, reply) {
    const { pathname, searchParams } = new URL(request.url, this.origin)
    const cookie = /session=(\w+)/.exec(request.headers.cookie ?? '')?.[1]
    const id = cookie ?? randomBytes(8).toString('hex')
    if (!cookie) reply.appendHeader('set-cookie', `session=${id}; Path=/; HttpOnly; SameSite=Lax`)
    if (request.method === 'GET' && pathname === '/') {
      const lines = this.lines.replaceAll('https://login.example', this.serviceUrl)
      const found = this.#claims.get(id) ?? await this.#person(request, reply)
      const body = found ? `<h1 id="who">${found.nickname} (${found.sub})</h1>` : `<main><h1>The Shop</h1>${lines}</main>`
      reply.setHeader('content-type', 'text/html; charset=utf-8')
      reply.setHeader('content-security-policy', this.#policy(lines))
      reply.setHeaders(new Map(Object.entries(this.headers)))
      reply.end(`<!doctype html><html lang="en"><link rel="stylesheet" href="/site.css"><meta name="viewport" content="width=device-width"><title>The Shop</title><link rel="icon" href="data:,">${body}</html>`)
    } else if (request.method === 'GET' && pathname === '/site.css') {
      reply.setHeader('content-type', 'text/css').end(':root { color-scheme: light dark; background: light-dark(#fff, #121212); color: light-dark(#111, #eee); font-family: sans-serif }')
    } else if (request.method === 'GET' && pathname === '/login') {
      reply.writeHead(303, { location: this.authorizeUrl() }).end()
    } else if (request.method === 'GET' && pathname === '/callback') {
      if (this.back) {
        const { id_token: token } = await this.redeem(searchParams.get('code'), { redirect_uri: `${this.origin}/callback` })
        if (token) this.#claims.set(id, claimsOf(token))
      }
      reply.setHeader('content-type', 'text/html').end(`<!doctype html><title>Back</title><link rel="icon" href="data:,">${this.back ?? ''}`)
    } else if (request.method === 'POST' && ['/login/begin', '/login/finish'].includes(pathname)) {
      const body = await text(request)
      const answer = await this.#behind(request, pathname, reply, body)
      if (pathname === '/login/finish') this.finished.push(answer.status)
      reply.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' }).end(await answer.text())
    } else {
      reply.writeHead(404).end()
    }
  }

  /** Whose the session of the README's backend is, if it is somebody's. */
  async #person(request, reply) {
    const person = await (await this.#behind(request, '/', reply)).json()
    return person.sub ? person : null
  }

  async redeem(code, more) {
    const reply = await fetch(`${this.service.url}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${btoa(`shop:${SECRET}`)}` },
      body: new URLSearchParams({ grant_type: 'authorization_code', code, ...more }),
    })
    return reply.json()
  }

  /** Where this site sends its people, if it uses OpenID Connect. */
  authorizeUrl(more = {}) {
    const query = new URLSearchParams({
      client_id: 'shop', redirect_uri: `${this.origin}/callback`, response_type: 'code', scope: 'openid profile', state: 'a state', nonce: 'n-1', ...more,
    })
    return `${this.serviceUrl}/authorize?${query}`
  }
}
