import { WORDS, languageOf } from '../../lib/words'

Page({
  data: { t: WORDS.zh },

  onLoad() {
    const t = WORDS[languageOf(wx)]
    wx.setNavigationBarTitle({ title: t.navigationTitle })
    this.setData({ t })
  },
})
