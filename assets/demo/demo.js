// The login page of the demo site: who is logged in, else a scene to scan.

import { byId } from '../shared/dom.js';
import { backoff, pause, Problem, problemOf, request } from '../shared/http.js';
import { createI18n } from '../shared/i18n.js';
import { resumeScene, watchScene } from './scene.js';
import { forget, keep, kept, sessionOf } from './session.js';
import { strings } from './strings.js';
import { createView, displayState } from './view.js';

const SLOW_MS = 3000;
const RENEW_MS = 1500;
const AUTO_REFRESHES = 2;
/** The code lives 60 s; a try after that cannot succeed. */
const CALLBACK_TRIES = 6;
/** Whoever was named by the phone is to be seen before the page goes on. */
const CONFIRMED_MS = 900;

const onPhone = /Mobi|Android|iPhone|MicroMessenger/i.test(navigator.userAgent)
  || (matchMedia('(pointer: coarse)').matches && Math.min(screen.width, screen.height) < 600);
const inWechat = /MicroMessenger/i.test(navigator.userAgent);

const model = {
  screen: 'loading',
  session: null,
  data: null,
  picture: 'none',
  problem: null,
  retryLabel: null,
  profile: null,
  simulated: false,
  connection: null,
  slow: false,
  renewing: false,
  onPhone,
  inWechat,
};

const i18n = createI18n(strings, () => {
  view.render(model);
  tick();
});
const view = createView(i18n);
const image = byId('code');

let watch = null;
let retry = null;
let attempt = 0;
let deadline = 0;
let overdueAsked = 0;
let autoRefreshes = AUTO_REFRESHES;
let showAnyway = false;

function update(changes) {
  Object.assign(model, changes);
  view.render(model);
}

function fail(problem, again, retryLabel = 'retry') {
  retry = again;
  view.refresh.wait(problem.retryAfter ?? 0);
  update({ screen: 'error', problem, retryLabel });
}

// --- the way to a scene ---------------------------------------------------

function leave() {
  attempt += 1;
  watch?.close();
  watch = null;
  view.stopTicking();
  view.refresh.wait(0);
  image.removeAttribute('src');
  forget();
  Object.assign(model, {
    session: null, data: null, picture: 'none', problem: null, connection: null, renewing: false,
  });
}

async function findProfile() {
  const { profile, simulator } = await request('GET', '/demo/profile');
  model.simulated = simulator;
  if (profile) showProfile(profile);
  return Boolean(profile);
}

function showProfile(profile) {
  leave();
  update({ screen: 'profile', profile });
}

async function boot() {
  update({ screen: 'loading' });
  try {
    if (await findProfile()) return;
    const session = kept();
    const data = session && await resumeScene(session);
    if (data) open(session, data);
    else offer();
  } catch (problem) {
    fail(problem, boot);
  }
}

function offer() {
  if (onPhone && !showAnyway) {
    leave();
    update({ screen: 'phone-hint', profile: null });
  } else {
    begin();
  }
}

async function begin() {
  leave();
  const mine = attempt;
  update({ screen: 'loading', profile: null, slow: false });
  slowLater(mine);
  try {
    const start = await request('POST', '/demo/start');
    const scene = await request('POST', '/scenes', {
      json: {
        client_id: start.client_id,
        code_challenge: start.code_challenge,
        code_challenge_method: 'S256',
      },
    });
    if (mine !== attempt) return;
    // The browser secret in the answer stays unread: the HttpOnly cookie is the proof.
    const session = sessionOf(start, scene);
    keep(session);
    open(session, { state: scene.state, id: scene.id, expires_in: scene.expires_in });
  } catch (problem) {
    if (mine === attempt) fail(problem, begin);
  }
}

function open(session, data) {
  update({ screen: 'scene', session, data, slow: false });
  // A reload may find it confirmed already: a stream would say so again, and
  // its code must not be redeemed twice.
  if (data.state !== 'confirmed') {
    watch = watchScene(session, {
      onState: take,
      onConnection: (connection) => update({ connection }),
    });
  }
  take(data);
}

function take(data) {
  deadline = performance.now() + data.expires_in * 1000;
  update({ screen: 'scene', data });
  tick();
  if (data.state === 'waiting' && model.picture === 'none') loadPicture();
  if (data.state === 'confirmed') finish(data);
  if (data.state === 'expired') renewSoon();
}

// --- the picture ----------------------------------------------------------

function slowLater(mine) {
  setTimeout(() => {
    if (mine === attempt && displayState(model) === 'loading') update({ slow: true });
  }, SLOW_MS);
}

function loadPicture() {
  update({ picture: 'loading', problem: null });
  slowLater(attempt);
  image.src = model.session.code_url;
}

image.addEventListener('load', () => {
  if (model.picture === 'loading') update({ picture: 'ready' });
});

image.addEventListener('error', async () => {
  if (model.picture !== 'loading') return;
  const mine = attempt;
  // An image element does not tell why it failed; the same address does.
  const problem = await whyNoPicture();
  if (mine !== attempt || model.picture !== 'loading') return;
  if (problem.status === 410 || problem.status === 404) {
    model.picture = 'none';
    watch?.resync();
    return;
  }
  retry = loadPicture;
  view.refresh.wait(problem.retryAfter ?? 0);
  update({ picture: 'failed', problem, retryLabel: 'retry' });
});

async function whyNoPicture() {
  try {
    const response = await fetch(model.session.code_url, { cache: 'no-store' });
    if (!response.ok) return await problemOf(response);
    return new Problem({ code: 'other' });
  } catch {
    return new Problem({ code: 'network' });
  }
}

// --- the end ---------------------------------------------------------------

async function finish({ code }) {
  const mine = attempt;
  const { state } = model.session;
  const shown = pause(CONFIRMED_MS / 1000);
  try {
    // A code is handed out while it can be redeemed; without one this
    // browser may have redeemed it already and only missed the answer.
    if (!code) {
      if (!await findProfile()) begin();
      return;
    }
    const { profile } = await callBack({ code, state });
    await shown;
    if (mine === attempt) showProfile(profile);
  } catch (problem) {
    if (mine !== attempt) return;
    if (problem.passing) {
      fail(problem, () => {
        update({ screen: 'scene', problem: null });
        finish({ code });
      });
      return;
    }
    // Another tab with the same scene may have been faster.
    const loggedIn = await findProfile().catch(() => false);
    if (!loggedIn) fail(problem, begin, 'startOver');
  }
}

async function callBack(json) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await request('POST', '/demo/callback', { json });
    } catch (problem) {
      if (!problem.passing || failures === CALLBACK_TRIES) throw problem;
      update({ connection: 'reconnecting' });
      await pause(backoff(failures - 1, problem.retryAfter));
    }
  }
}

function renewSoon() {
  if (autoRefreshes === 0 || document.hidden) return;
  const mine = attempt;
  update({ renewing: true });
  setTimeout(() => {
    if (mine !== attempt) return;
    autoRefreshes -= 1;
    begin();
  }, RENEW_MS);
}

async function cancel() {
  const mine = attempt;
  try {
    await request('DELETE', model.session.status_url);
  } catch (problem) {
    if (problem.status === 409) {
      watch?.resync();
      return;
    }
    // Whatever the service makes of it, this page gives up the scene.
  }
  if (mine !== attempt) return;
  leave();
  update({ screen: 'cancelled' });
}

async function logOut() {
  try {
    await request('POST', '/demo/logout');
    offer();
  } catch (problem) {
    fail(problem, logOut);
  }
}

// --- time ------------------------------------------------------------------

function tick() {
  if (!watch || !['loading', 'waiting', 'scanned'].includes(displayState(model))) return;
  const left = (deadline - performance.now()) / 1000;
  view.tick(left, model.session.life);
  // The service says when it is over; if it has not, its word may have been lost.
  if (left < -2 && performance.now() - overdueAsked > 5000) {
    overdueAsked = performance.now();
    watch.resync();
  }
}

setInterval(tick, 1000);

function wakeUp() {
  if (document.hidden) return;
  if (displayState(model) === 'expired') renewSoon();
  else watch?.resync();
}

document.addEventListener('visibilitychange', wakeUp);
window.addEventListener('online', wakeUp);

byId('refresh').addEventListener('click', () => {
  if (!view.refresh.ready) return;
  autoRefreshes = AUTO_REFRESHES;
  if (displayState(model) === 'error') retry();
  else begin();
});
byId('show-code').addEventListener('click', () => {
  showAnyway = true;
  begin();
  // The button stands below the place where the code comes.
  scrollTo(0, 0);
});
byId('cancel').addEventListener('click', cancel);
byId('logout').addEventListener('click', logOut);

i18n.fill();
i18n.bindToggle(byId('lang'));
boot();
