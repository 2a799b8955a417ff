// The modules that need no page.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { test } from 'node:test'
import { buildDir, projectDir } from './support/project.mjs'

const require = createRequire(import.meta.url)
const lib = (name) => require(path.join(buildDir, 'lib', name))
const { targetFromQuery, entrySceneNow } = lib('scene')
const { readShortCode, isShortCode, showShortCode, handOverShortCode, takeShortCode } = lib('short-code')
const { SERVICE_CODES, PHONE_CODES, networkProblem, replyProblem } = lib('problem')
const { messageFor } = lib('messages')
const { WORDS, ago, browserOn, languageOf } = lib('words')
const { SERVICE_URLS, serviceUrl } = lib('config')
const { mediaTypeOf, loadAvatar } = lib('avatar')

const SCENE = '0123456789abcdef0123456789abcdef'

test('the scene is decoded, and nothing else passes for one', () => {
  const meant = { scene: SCENE, scancodeTime: null }
  assert.deepEqual(targetFromQuery({ scene: SCENE }), meant)
  assert.deepEqual(targetFromQuery({ scene: SCENE.replace('0', '%30') }), meant)
  for (const scene of [undefined, '', 'undefined', '%', SCENE.toUpperCase(), `${SCENE}0`, `${SCENE}\n`, SCENE.slice(1), '01234567-89ab-cdef-0123-456789abcdef']) {
    assert.equal(targetFromQuery({ scene }), null, String(scene))
  }
  assert.equal(targetFromQuery({ scene: '', q: encodeURIComponent(`https://login.example/s/${SCENE}`) }), null, 'a code of ours that is broken')
})

test('the link of an ordinary QR is decoded once, and its scan time is a number', () => {
  const link = `https://login.example/s/${SCENE}`
  const q = encodeURIComponent(link)
  assert.deepEqual(targetFromQuery({ q, scancode_time: '1795000000' }), { scene: SCENE, scancodeTime: 1795000000 })
  for (const scancode_time of [undefined, '', 'now', '-1', '1.5', '1e9', '9'.repeat(13)]) {
    assert.deepEqual(targetFromQuery({ q, scancode_time }), { scene: SCENE, scancodeTime: null }, String(scancode_time))
  }
  for (const more of [`${link}/`, `${link}?from=page`, `${link}#top`, `https://login.example/under/s/${SCENE}`]) {
    assert.equal(targetFromQuery({ q: encodeURIComponent(more) })?.scene, SCENE, more)
  }
  assert.equal(targetFromQuery({ q: encodeURIComponent(q) }), null, 'encoded twice')
  for (const other of ['', '%', SCENE, `http://login.example/s/${SCENE}`, `https://login.example/?s=/s/${SCENE}`, `https://login.example/s/${SCENE}0`, `https://login.example/s/${SCENE}/x`, `https://login.example/t/${SCENE}`, `https://login.example/s/${SCENE.toUpperCase()}`]) {
    assert.equal(targetFromQuery({ q: other === '%' ? other : encodeURIComponent(other) }), null, other)
  }
})

test('a short code is read whatever its case, spaces, dashes and width, and shown in two groups', () => {
  for (const typed of ['K7WMP3XQ', 'k7wm-p3xq', ' K7WM P3XQ ', 'k7 wm–p3 xq', 'Ｋ７ＷＭ－Ｐ３ＸＱ']) {
    assert.equal(readShortCode(typed), 'K7WMP3XQ', typed)
    assert.ok(isShortCode(readShortCode(typed)), typed)
  }
  for (const typed of ['', 'K7WM', 'K7WMP3XQ2', 'K7WM_P3XQ', 'K7WMP3Ä', '码七WMP3XQ', '../../a']) assert.ok(!isShortCode(readShortCode(typed)), typed)
  assert.deepEqual(['', 'K7WM', 'K7WMP', 'K7WMP3XQ'].map(showShortCode), ['', 'K7WM', 'K7WM-P', 'K7WM-P3XQ'])
  handOverShortCode('K7WMP3XQ')
  assert.deepEqual([takeShortCode(), takeShortCode()], ['K7WMP3XQ', null], 'once')
})

test('the entry value is a number or absent', () => {
  assert.equal(entrySceneNow({ getEnterOptionsSync: () => ({ scene: 1047 }) }), 1047)
  assert.equal(entrySceneNow({ getEnterOptionsSync: () => ({}) }), undefined)
  assert.equal(entrySceneNow({}), undefined)
})

test('each version of the Mini Program has its service', () => {
  const wx = (envVersion) => ({ getAccountInfoSync: () => ({ miniProgram: { envVersion } }) })
  for (const version of ['develop', 'trial', 'release']) assert.equal(serviceUrl(wx(version)), SERVICE_URLS[version])
  assert.equal(serviceUrl(wx('gray')), SERVICE_URLS.release)
  assert.equal(new Set(Object.values(SERVICE_URLS)).size, 3)
  for (const url of [SERVICE_URLS.trial, SERVICE_URLS.release]) assert.match(url, /^https:\/\/[^/]+$/)
})

test('every problem has a title and an advice in both languages', () => {
  for (const code of [...SERVICE_CODES, ...PHONE_CODES, 'unknown']) {
    for (const language of ['zh', 'en']) {
      const { title, text } = messageFor({ code, status: 400, retryAfter: null, state: null, requestId: null }, language)
      assert.ok(title && text, `${code} ${language}`)
      assert.equal(/[\u4e00-\u9fff]/.test(title + text), language === 'zh', `${code} ${language}: ${title} ${text}`)
    }
  }
  const finished = (state) => messageFor({ code: 'already_finished', status: 409, retryAfter: null, state, requestId: null }, 'en').title
  assert.equal(new Set(['confirmed', 'declined', 'cancelled', 'one of tomorrow'].map(finished)).size, 4)
})

test('every advice says what to do, and to who typed a code, not to scan it', () => {
  const advice = { zh: /请|不要/, en: /\b(scan|try|use|look|tell|type|choose|check|wait|compare|log out|go on|get a new code)\b/i }
  for (const code of [...SERVICE_CODES, ...PHONE_CODES, 'unknown']) {
    for (const language of ['zh', 'en']) {
      const problem = { code, status: 400, retryAfter: null, state: null, requestId: null }
      assert.match(messageFor(problem, language).text, advice[language], code)
      const typed = messageFor(problem, language, true)
      if (!['entry_scene_refused', 'no_scene', 'invalid_wx_code'].includes(code)) assert.doesNotMatch(typed.text, /scan (it )?again|再扫描/, code)
    }
  }
})

test('a browser that the service does not know is called so', () => {
  const said = (name, os) => ['zh', 'en'].map((language) => browserOn({ name, os }, language))
  assert.deepEqual(said('?', '?'), ['无法识别', 'Not recognised'])
  assert.deepEqual(said('Edge 140', '?'), ['Edge 140', 'Edge 140'])
  assert.deepEqual(said('?', 'macOS'), ['macOS', 'macOS'])
  assert.deepEqual(said('Edge 140', 'macOS'), ['macOS 上的 Edge 140', 'Edge 140 on macOS'])
})

test('words exist in both languages', () => {
  assert.deepEqual(Object.keys(WORDS.en), Object.keys(WORDS.zh))
  for (const words of Object.values(WORDS.en)) assert.doesNotMatch([words].flat().join(''), /[\u4e00-\u9fff]/)
  assert.deepEqual([ago(-1, 'en'), ago(1.9, 'en'), ago(59, 'zh'), ago(125, 'zh'), ago(60, 'en')], ['0 seconds ago', '1 second ago', '59 秒前', '2 分钟前', '1 minute ago'])
  const wx = (language) => ({ getAppBaseInfo: () => ({ language }) })
  assert.deepEqual(['zh_CN', 'zh_TW', undefined, 'en', 'ja'].map((each) => languageOf(wx(each))), ['zh', 'zh', 'zh', 'en', 'en'])
  assert.equal(languageOf({}), 'zh', 'a library without getAppBaseInfo')
})

test('the simulated phone says the same where a person answers, and where there is nothing left to try', async () => {
  const source = fs.readFileSync(path.join(projectDir, '../assets/phone/strings.js'), 'utf8')
  const { strings } = await import(`data:text/javascript,${encodeURIComponent(source)}`)
  const same = {
    factBrowser: 'browser', factPlace: 'place', factIp: 'address', factAsked: 'requested', confirm: 'confirm', retry: 'scanAgain',
    numbersLegend: 'chooseNumber', numbersHint: 'numberHint', decline: 'decline', notMe: 'notMe', close: 'close', wrongNumbersText: 'wrongNumbersText',
    confirmedTitle: 'confirmedTitle', confirmedText: 'confirmedText', declinedTitle: 'declinedTitle', declinedText: 'declinedText', notMeText: 'notMeText',
  }
  const problems = [
    ['wrong_match_number'], ['entry_scene_refused'], ['wechat_blocked_user'], ['expired'], ['unknown_scene'], ['scanned_by_another'],
    ['already_finished'], ['already_finished', 'confirmed'], ['already_finished', 'declined'], ['already_finished', 'cancelled'],
  ]
  for (const language of ['zh', 'en']) {
    for (const [simulated, real] of Object.entries(same)) assert.equal(strings[language][simulated], WORDS[language][real], `${language} ${simulated}`)
    const browser = { name: 'Firefox 143', os: 'Windows' }
    assert.equal(strings[language].browserOn.replace(/\{(\w+)\}/g, (_, name) => browser[name]), browserOn(browser, language))
    for (const [code, state = null] of problems) {
      const { title, text } = messageFor({ code, status: 400, retryAfter: null, state, requestId: null }, language)
      const key = ['problem', code, ...state ? [state] : []].join('_')
      assert.deepEqual(strings[language][key], [title, text], `${language} ${key}`)
    }
  }
})

test('a failed request is told apart by errMsg alone', () => {
  const cases = {
    'request:fail interrupted': 'interrupted',
    'request:fail timeout': 'network_timeout',
    'request:fail timed out': 'network_timeout',
    'request:fail url not in domain list': 'domain_not_listed',
    'request:fail net::ERR_CONNECTION_REFUSED': 'network_failed',
    'request:fail': 'network_failed',
  }
  for (const [errMsg, code] of Object.entries(cases)) assert.equal(networkProblem(errMsg).code, code, errMsg)
})

test('a reply that is no success is read with and without a problem body', () => {
  const body = { code: 'already_finished', state: 'declined', request_id: 'r1' }
  assert.deepEqual(replyProblem(409, {}, body), { code: 'already_finished', status: 409, retryAfter: null, state: 'declined', requestId: 'r1' })
  assert.equal(replyProblem(418, {}, { code: 'of_tomorrow' }).code, 'unknown')
  assert.equal(replyProblem(502, { 'X-REQUEST-ID': 'r2' }, '<html>').requestId, 'r2')
  assert.equal(replyProblem(502, {}, '<html>').code, 'unreadable_reply')
  assert.equal(replyProblem(413, {}, '<html>').code, 'body_too_large')
  assert.equal(replyProblem(429, { 'rEtRy-AfTeR': ' 7 ' }, '').retryAfter, 7)
  assert.equal(replyProblem(503, { 'Retry-After': 'Wed, 21 Oct 2026 07:28:00 GMT' }, '').retryAfter, null)
})

test('a picture is known by its first bytes', () => {
  const type = (...bytes) => mediaTypeOf(Uint8Array.from(bytes).buffer)
  assert.equal(type(0xff, 0xd8, 0xff, 0xe0), 'image/jpeg')
  assert.equal(type(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), 'image/png')
  assert.equal(type(...Buffer.from('RIFF\0\0\0\0WEBPVP8 ')), 'image/webp')
  assert.equal(type(...Buffer.from('GIF89a')), null)
  assert.equal(type(), null)
})

test('a file that cannot be read is told, whatever went wrong', async () => {
  const wx = (readFile) => ({ getFileSystemManager: () => ({ readFile }) })
  assert.equal(await loadAvatar(wx(({ fail }) => fail({ errMsg: 'readFile:fail' })), 'x'), 'avatar_unreadable')
  assert.equal(await loadAvatar(wx(({ success }) => success({ data: 'text' })), 'x'), 'avatar_unreadable')
})

test('the simulated phone asks in the same words', async () => {
  const source = fs.readFileSync(path.join(projectDir, '../assets/phone/strings.js'))
  const { strings } = await import(`data:text/javascript;base64,${source.toString('base64')}`)
  const same = {
    question: 'askTitle', browser: 'factBrowser', place: 'factPlace', address: 'factIp', requested: 'factAsked',
    chooseNumber: 'numbersLegend', numberHint: 'numbersHint', profile: 'give', profileHint: 'givenHint', decline: 'decline', confirm: 'confirm', notMe: 'notMe',
  }
  for (const language of ['zh', 'en']) {
    for (const [here, there] of Object.entries(same)) assert.equal(strings[language][there], WORDS[language][here], `${language}: ${here}`)
  }
})
