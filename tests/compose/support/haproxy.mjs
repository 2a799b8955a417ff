// HAProxy, as compose/haproxy.yml has it. In the place of the name server that gives it the addresses of replicas, we do, by its socket.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { until } from '../../browser/support/until.mjs'
import { read } from './files.mjs'

const ROOM = 10

export class Haproxy {
  static service = 'haproxy'
  #stack
  /** Which replica has which place. */
  #places = Array(ROOM).fill(null)

  constructor(stack) {
    this.#stack = stack
    this.socket = path.join(stack.dir, 'tmp', 'haproxy.sock')
  }

  async start() {
    const [mount] = this.#stack.services.haproxy.volumes
    const [file, place] = mount.split(':')
    const mounted = path.join(this.#stack.dir, path.basename(place))
    const template = `replica ${ROOM} scanlogin:8080 `
    const written = read(file)
    assert.ok(written.includes(template), template)
    // No address is behind a name yet.
    fs.writeFileSync(mounted, this.#stack.placed(written).replace(template, `replica ${ROOM} 127.0.0.1:1 disabled `))
    this.running = this.#stack.runs('haproxy', ['-db', '-f', mounted], { PATH: `${process.env.PATH}:/usr/sbin` })
    await until('HAProxy can be asked', () => this.running.process.how !== undefined || fs.existsSync(this.socket))
    await this.tell()
    return this.running
  }

  /** What a name server that is asked again would have told it. */
  async tell() {
    const { replicas } = this.#stack
    const lines = this.#places.flatMap((had, place) => {
      if (!had || replicas.includes(had)) return []
      this.#places[place] = null
      return [`set server scanlogin/replica${place + 1} state maint`]
    })
    for (const replica of replicas.filter((replica) => !this.#places.includes(replica))) {
      const place = this.#places.indexOf(null)
      this.#places[place] = replica
      const [[host, port], [, ops]] = [replica.address.split(':'), replica.ops.split(':')]
      const server = `set server scanlogin/replica${place + 1}`
      lines.push(`${server} addr ${host} port ${port}`, `${server} check-port ${ops}`, `${server} state ready`)
    }
    if (lines.length) await this.ask(lines.join(';'))
  }

  /** A command to its socket, and the answer. */
  async ask(command) {
    const socket = net.connect(this.socket)
    socket.end(`${command}\n`)
    return text(socket)
  }

  async stop() {
    await this.running?.process.end('SIGTERM')
  }
}
