// A phone whose service is a script: each reply is given by the test.

import assert from 'node:assert/strict'
import { until } from './project.mjs'
import { Phone } from './wechat.mjs'

export const SCENE = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
export const OTHER_SCENE = 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'

export const INTERRUPTED = 'request:fail interrupted'
export const CONFIRMED = { state: 'confirmed', version: 3 }
export const DECLINED = { state: 'declined', version: 3 }

/** What the service says to who came by a picture. */
export const WARNING = {
  zh: '微信没有显示你是用相机扫描屏幕进入的。这本身不能证明什么，但如果这个码是别人发给你的，确认后对方将以你的身份登录，请拒绝。',
  en: 'WeChat does not say that you scanned a screen with the camera. That alone proves nothing, but if somebody sent you this code, it logs them in as you: decline.',
}

export const scanReply = (more = {}) => ({
  confirm_token: 'token-1',
  client: { client_id: 'blog', name: '我的博客', domain: 'blog.example' },
  browser: { name: 'Firefox 143', os: 'Windows', ip: '203.0.113.7', place: 'Hangzhou' },
  requested_at: '2026-01-01T00:00:00Z',
  requested_seconds_ago: 12,
  expires_in: 100,
  ...more,
})

export const ok = (value) => ({ status: 200, header: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) })

export const problem = (status, code, more = {}, header = {}) => ({
  status,
  header: { 'Content-Type': 'application/problem+json', ...header },
  body: JSON.stringify({ type: `https://login.example/problems#${code}`, title: code, status, detail: '', code, request_id: 'req-1', ...more }),
})

export class ScriptedPhone extends Phone {
  /** Requests that wait for their reply. */
  waiting = []
  codes = 0

  constructor() {
    super({
      serviceUrl: 'https://login.example',
      login: async () => ({ code: `code-${++this.codes}` }),
      send: (request) => new Promise((resolve, reject) => this.waiting.push({ ...request, reply: resolve, fail: reject })),
    })
  }

  /** The next request, once it is there. */
  async next(path) {
    await until(`a request ${path}`, () => this.waiting.length > 0)
    const request = this.waiting.shift()
    assert.ok(request.path.endsWith(path), `${request.path} is a ${path}`)
    return request
  }

  async shows(text) {
    await until(`the screen shows "${text}"; it shows: ${this.text()}`, () => this.text().includes(text))
  }

  /** Opens the code and answers the scan. */
  async opened(reply = ok(scanReply()), scene = SCENE) {
    this.open(scene)
    const request = await this.next('/scan')
    request.reply(reply)
    await until('the scan is answered', () => this.page.login.state.act === null)
    return request
  }
}

export const json = (request) => JSON.parse(request.body)
