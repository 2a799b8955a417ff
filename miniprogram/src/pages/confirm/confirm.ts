import { Api } from '../../lib/api'
import type { Picture } from '../../lib/api'
import { loadAvatar } from '../../lib/avatar'
import { PROFILE, serviceUrl } from '../../lib/config'
import { Login } from '../../lib/login'
import type { Phone } from '../../lib/login'
import { messageFor } from '../../lib/messages'
import { phoneProblem } from '../../lib/problem'
import { entrySceneNow, targetFromQuery } from '../../lib/scene'
import { takeShortCode } from '../../lib/short-code'
import { BLANK, stopped, viewOf } from '../../lib/view'
import { WORDS, languageOf } from '../../lib/words'
import type { Language } from '../../lib/words'

const WX_LOGIN_TIMEOUT_MS = 10_000
/** How often "12 seconds ago" is brought up to date. */
const REPAINT_MS = 1000

/** What only this page knows, beside the login itself. */
const NO_PROFILE = { profileOpen: false, avatarPath: '', avatarTrouble: '' }

const phone: Phone = {
  freshCode: () =>
    new Promise((resolve) => {
      wx.login({
        timeout: WX_LOGIN_TIMEOUT_MS,
        success: ({ code }) => resolve(code || null),
        fail: () => resolve(null),
      })
    }),
  entryScene: () => entrySceneNow(wx),
  wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  now: () => Date.now(),
}

Page({
  data: { ...BLANK, ...NO_PROFILE, t: WORDS.zh, profileOffered: PROFILE.offered, logoBroken: false },

  language: 'zh' as Language,
  login: null as Login | null,
  /** Whether the person typed a short code on the page before this. */
  typed: false,
  avatar: null as Picture | null,
  repainting: null as number | null,

  /** Runs at the first start and again on every hot start with a scanned code. */
  onLoad(query: Record<string, string | undefined>) {
    this.leave()
    // A request forwarded as a card would ask someone else to confirm it.
    wx.hideShareMenu({})
    this.language = languageOf(wx)
    const t = WORDS[this.language]
    wx.setNavigationBarTitle({ title: t.navigationTitle })
    this.setData({ ...BLANK, ...NO_PROFILE, t, profileOffered: PROFILE.offered, logoBroken: false })

    const shortCode = takeShortCode()
    const scanned = targetFromQuery(query)
    this.typed = scanned === null && shortCode !== null
    const target = scanned ?? (shortCode === null ? null : { shortCode })
    if (target === null) {
      this.setData(stopped(phoneProblem('no_scene'), this.language, false))
      return
    }
    const api = new Api((options) => wx.request(options), serviceUrl(wx), target, this.language)
    this.login = new Login(api, phone, () => this.paint())
    void this.login.scan()
  },

  onShow() {
    this.login?.show()
    if (this.repainting === null) this.repainting = setInterval(() => this.paintAge(), REPAINT_MS)
  },

  onHide() {
    this.login?.hide()
    this.stopRepainting()
  },

  onUnload() {
    this.leave()
    this.stopRepainting()
  },

  leave() {
    this.login?.dispose()
    this.login = null
    this.avatar = null
  },

  stopRepainting() {
    if (this.repainting !== null) clearInterval(this.repainting)
    this.repainting = null
  },

  paint() {
    if (this.login) this.setData(viewOf(this.login.state, this.language, Date.now(), this.typed))
  },

  paintAge() {
    if (this.login?.state.step.at !== 'asking') return
    this.setData({ facts: viewOf(this.login.state, this.language, Date.now()).facts })
  },

  numberTapped(event: WechatMiniprogram.TouchEvent) {
    this.login?.choose(String(event.currentTarget.dataset.number))
  },

  /** A form's submit, because WeChat checks a nickname's words only on its way out of a form. */
  confirmSubmitted(event: WechatMiniprogram.FormSubmit) {
    // While the profile is closed there is no input, and no avatar.
    const nickname = String(event.detail.value.nickname ?? '').trim()
    void this.login?.confirm(nickname, this.avatar)
  },

  declineTapped() {
    void this.login?.decline(null)
  },

  notMeTapped() {
    void this.login?.decline('not_me')
  },

  scanAgainTapped() {
    void this.login?.scan()
  },

  typeCodeTapped() {
    // Who typed comes back to what they typed, to mend it.
    if (this.typed) wx.navigateBack()
    else wx.reLaunch({ url: '/pages/index/index' })
  },

  closeTapped() {
    wx.exitMiniProgram({ fail: () => wx.reLaunch({ url: '/pages/index/index' }) })
  },

  profileSwitched(event: WechatMiniprogram.SwitchChange) {
    this.avatar = null
    this.setData({ ...NO_PROFILE, profileOpen: event.detail.value })
  },

  /** The picture stays on the phone until the login is confirmed. */
  async avatarChosen(event: WechatMiniprogram.CustomEvent<{ avatarUrl: string }>) {
    const { login } = this
    const path = event.detail.avatarUrl
    const picture = await loadAvatar(wx, path)
    // Another scene, or the switch turned off, while the file was read.
    if (login === null || login !== this.login || !this.data.profileOpen) return
    if (typeof picture === 'string') {
      const { text } = messageFor({ ...phoneProblem('avatar_unreadable'), code: picture }, this.language)
      this.avatar = null
      this.setData({ avatarPath: '', avatarTrouble: text })
    } else {
      this.avatar = picture
      this.setData({ avatarPath: path, avatarTrouble: '' })
    }
  },

  avatarRemoved() {
    this.avatar = null
    this.setData({ avatarPath: '', avatarTrouble: '' })
  },

  logoFailed() {
    this.setData({ logoBroken: true })
  },
})
