import { handOverShortCode, isShortCode, readShortCode, showShortCode } from '../../lib/short-code'
import { WORDS, languageOf } from '../../lib/words'

Page({
  data: { t: WORDS.zh, complete: false },

  /** What was typed, as it counts. */
  read: '',
  /** A second tap opens no second page. */
  leaving: false,

  onLoad() {
    const t = WORDS[languageOf(wx)]
    wx.setNavigationBarTitle({ title: t.navigationTitle })
    this.setData({ t })
  },

  onShow() {
    this.leaving = false
  },

  /**
   * Answers with what the input is to hold, but only once the code is complete: WeChat writes
   * the answer a moment later, over whatever was typed meanwhile.
   */
  codeTyped(event: WechatMiniprogram.Input) {
    const { value, cursor } = event.detail
    this.read = readShortCode(value)
    const complete = isShortCode(this.read)
    this.setData({ complete })
    // Who mends something in the middle keeps their place.
    return complete && cursor === value.length ? showShortCode(this.read) : undefined
  },

  codeSubmitted() {
    const { read } = this
    if (this.leaving || !isShortCode(read)) return
    this.leaving = true
    handOverShortCode(read)
    wx.navigateTo({ url: '/pages/confirm/confirm', fail: () => (this.leaving = false) })
  },
})
