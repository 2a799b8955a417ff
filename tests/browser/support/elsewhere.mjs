// Pages of somebody else, at an origin of their own.

import http from 'node:http'

/** Serves one page of nothing but its head, and lets it run what it likes: a page of an attacker has no policy. */
export class Elsewhere {
  static async start() {
    const elsewhere = new Elsewhere()
    elsewhere.server = http.createServer((request, reply) => {
      if (request.url === '/') reply.setHeader('content-type', 'text/html; charset=utf-8').end('<!doctype html><title>Elsewhere</title><link rel=icon href=data:,>')
      else reply.writeHead(404).end()
    })
    await new Promise((resolve) => { elsewhere.server.listen(0, '127.0.0.1', resolve) })
    const { port } = elsewhere.server.address()
    /** Of another origin, but of the service's site: its cookies go along. */
    elsewhere.sameSite = `http://127.0.0.1:${port}/`
    /** Of another site. */
    elsewhere.crossSite = `http://localhost:${port}/`
    return elsewhere
  }

  stop() {
    this.server.closeAllConnections()
    return new Promise((resolve) => { this.server.close(resolve) })
  }
}
