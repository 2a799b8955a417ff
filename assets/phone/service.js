// The calls of a Mini Program. They go through the simulator, which passes
// them on to the service.

import { request } from '../shared/http.js';

const at = (scene, step) => `/simulator/service/scenes/${encodeURIComponent(scene)}/${step}`;

/** The calls are idempotent: one whose answer was lost may simply be made again. */
async function twice(call) {
  try {
    return await call();
  } catch (problem) {
    if (problem.code !== 'network') throw problem;
    return call();
  }
}

/** What is typed leads to its scene, in place of a scan. */
async function scanOnce({ scene, typed, appid, openid, entryScene, language }) {
  const { code } = await request('POST', '/simulator/login', { json: { openid, appid: typed && appid ? appid : undefined } });
  if (typed) {
    const within = appid ? `?appid=${encodeURIComponent(appid)}` : '';
    return request('POST', `/simulator/service/short-codes/scan${within}`, { json: { short_code: typed, code }, language });
  }
  return request('POST', at(scene, 'scan'), { json: { code, entry_scene: entryScene }, language });
}

/** A login code counts once and not for long: if WeChat refuses it, a fresh one is due. */
export async function scan(who) {
  try {
    return await scanOnce(who);
  } catch (problem) {
    if (problem.code !== 'invalid_wx_code') throw problem;
    return scanOnce(who);
  }
}

/** The AppIDs that the simulator knows: a short code is typed in one of them. */
export const miniPrograms = () => request('GET', '/simulator/mini-programs');

export function confirm({ scene, token, nickname, number }) {
  const json = { profile: nickname ? { nickname } : {} };
  if (number) json.match_number = number;
  return twice(() => request('POST', at(scene, 'confirm'), { json, bearer: token }));
}

export function decline({ scene, token, reason }) {
  const json = reason ? { reason } : {};
  return twice(() => request('POST', at(scene, 'decline'), { json, bearer: token }));
}

export function sendAvatar({ scene, token, body }) {
  return request('PUT', at(scene, 'avatar'), { body, bearer: token });
}
