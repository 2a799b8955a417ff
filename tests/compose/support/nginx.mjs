// nginx, as docker-compose.yml has it: it looks up the replicas when it starts, and when it is told to read its files again.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { until } from '../../browser/support/until.mjs'
import { read } from './files.mjs'

export class Nginx {
  static service = 'nginx'
  #stack
  #dir

  constructor(stack) {
    this.#stack = stack
    this.#dir = path.join(stack.dir, 'nginx')
    fs.mkdirSync(this.#dir)
  }

  /** The files that it mounts, as they are mounted. */
  #mount(without = []) {
    const { replicas, services } = this.#stack
    for (const mount of services.nginx.volumes) {
      const [file, place] = mount.split(':')
      const name = path.basename(place)
      const mounted = path.join(this.#dir, name)
      if (without.includes(name)) {
        fs.rmSync(mounted)
        fs.symlinkSync('/dev/null', mounted)
        continue
      }
      fs.writeFileSync(mounted, this.#stack.placed(read(file)).replace(/^(\s*)server scanlogin:8080(.*;)$/m, (_, space, how) => {
        return replicas.map(({ address }) => `${space}server ${address}${how}`).join('\n')
      }))
    }
  }

  start() {
    this.#mount()
    // As its image starts it; and who is root here is root there, since its worker has to write where we may.
    const alone = process.getuid() === 0 ? 'daemon off; user root;' : 'daemon off;'
    const args = ['-e', 'stderr', '-p', this.#dir, '-c', path.join(this.#dir, 'nginx.conf'), '-g', alone]
    this.running = this.#stack.runs('nginx', args, { PATH: `${process.env.PATH}:/usr/sbin` })
    return this.running
  }

  /** `nginx -s reload`. */
  async tell(without) {
    this.#mount(without)
    const master = fs.readFileSync(path.join(this.#stack.dir, 'tmp', 'nginx.pid'), 'utf8').trim()
    // Those that end call themselves otherwise.
    const workers = () => execFileSync('pgrep', ['-P', master, '-f', 'worker process$'], { encoding: 'utf8' })
    const before = workers()
    this.running.process.signal('SIGHUP')
    await until('nginx has read it again', () => !before.split('\n').some((pid) => pid && workers().split('\n').includes(pid)))
  }

  /** Killed, it would leave its workers behind. */
  async stop() {
    await this.running?.process.end('SIGTERM')
  }
}
