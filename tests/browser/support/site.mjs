// Somebody's site at an origin of its own: the page of web/README.md, and the backend that it wants.

import { createHash, randomBytes } from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import { Service } from './service.mjs'

export const README = fs.readFileSync(new URL('../../../web/README.md', import.meta.url), 'utf8')
const SECRET = 'the shop\'s secret'
const sha256 = (text, how) => createHash('sha256').update(text).digest(how)

/** What an id_token says. */
export const claimsOf = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'))

/** The blocks of docs/howto.md that stand below this heading. */
export function howto(heading) {
  const text = fs.readFileSync(new URL('../../../docs/howto.md', import.meta.url), 'utf8')
  const [, section] = text.split(`\n## ${heading}\n`)
  return [...section.split('\n## ')[0].matchAll(/^```\w+\n([^]*?)^```$/gm)].map(([, block]) => block)
}

/** The lines that the README tells a site's owner to write. */
export const LINES = /```html\n([^]*?)```/.exec(README)[1]

export class Site {
  /** Who logged in, as the site's sessions know it. */
  claims = new Map()
  #sessions = new Map()
  /** What a test puts in the place of the README's lines. */
  lines = LINES
  /** What else its page says of itself. */
  headers = {}
  /** What its callback answers, if it is to redeem the code itself. */
  back = null

  /** Beside it a service that knows it, with these settings. */
  static async start(settings = {}) {
    const site = new Site()
    site.server = http.createServer((request, reply) => {
      site.#answer(request, reply).catch((error) => reply.writeHead(500).end(String(error)))
    })
    await new Promise((resolve) => { site.server.listen(0, '127.0.0.1', resolve) })
    // Another site than 127.0.0.1, so that no cookie of the service's goes along.
    site.origin = `http://localhost:${site.server.address().port}`
    site.service = await Service.start({
      SIMULATOR: 'true',
      CLIENT_ID: 'shop',
      CLIENT_NAME: 'The Shop',
      CLIENT_SECRET: SECRET,
      CLIENT_ORIGINS: site.origin,
      CLIENT_REDIRECT_URIS: `${site.origin}/callback`,
      ...settings,
    })
    site.serviceUrl = site.service.url
    return site
  }

  async stop() {
    this.server.closeAllConnections()
    this.server.close()
    await this.service?.kill()
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
    if (!cookie) reply.setHeader('set-cookie', `session=${id}; Path=/; HttpOnly; SameSite=Lax`)
    if (request.method === 'GET' && pathname === '/') {
      const lines = this.lines.replaceAll('https://login.example', this.serviceUrl)
      const found = this.claims.get(id)
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
      if (this.back) this.#finish(id, await this.redeem(searchParams.get('code'), { redirect_uri: `${this.origin}/callback` }))
      reply.setHeader('content-type', 'text/html').end(`<!doctype html><title>Back</title><link rel="icon" href="data:,">${this.back ?? ''}`)
    } else if (request.method === 'POST' && pathname === '/login/begin') {
      const verifier = randomBytes(32).toString('base64url')
      this.#sessions.set(id, verifier)
      reply.setHeader('content-type', 'application/json').end(JSON.stringify({ code_challenge: sha256(verifier, 'base64url') }))
    } else if (request.method === 'POST' && pathname === '/login/finish') {
      let code = ''
      for await (const chunk of request) code += chunk
      const redeemed = await this.redeem(code, { code_verifier: this.#sessions.get(id) ?? '' })
      reply.writeHead(this.#finish(id, redeemed) ? 204 : 403).end()
    } else {
      reply.writeHead(404).end()
    }
  }

  /** Whether this session is somebody's now. */
  #finish(id, { id_token: token }) {
    if (token) this.claims.set(id, claimsOf(token))
    return Boolean(token)
  }

  async redeem(code, more) {
    const reply = await fetch(`${this.service.url}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${btoa(`shop:${encodeURIComponent(SECRET)}`)}` },
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
