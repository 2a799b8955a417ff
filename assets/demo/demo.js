// The login page of the demo site: who is logged in, else <scan-login>, and what any site does when that is done.

import { byId } from '../shared/dom.js';
import { backoff, pause, request } from '../shared/http.js';
import { createI18n } from '../shared/i18n.js';
import { strings } from './strings.js';
import { createView } from './view.js';

/** The code lives 60 s; a try after that cannot succeed. */
const CALLBACK_TRIES = 6;
/** Whoever was named by the phone is to be seen before the page goes on. */
const CONFIRMED_MS = 900;

const login = byId('login');
const model = {
  state: 'loading', connection: null, scene: null, profile: null, simulated: false, simulatedPhone: null,
};
const i18n = createI18n(strings, () => render(model));
const render = createView(i18n);

function update(changes) {
  Object.assign(model, changes);
  render(model);
}

login.addEventListener('scan-login:change', ({ detail: { state, connection, scene } }) => {
  update({ state, connection, scene });
});
login.addEventListener('scan-login:ready', ({ detail: { scene, begun } }) => {
  update({ scene, simulatedPhone: begun.simulated_phone_url });
});
login.addEventListener('scan-login:confirmed', ({ detail }) => finish(detail));

async function findProfile() {
  const { profile, simulator } = await request('GET', '/demo/profile');
  update({ simulated: simulator });
  if (profile) showProfile(profile);
  return Boolean(profile);
}

function showProfile(profile) {
  login.setAttribute('paused', '');
  update({ state: 'profile', connection: null, scene: null, profile });
}

async function boot() {
  try {
    if (!await findProfile()) login.removeAttribute('paused');
  } catch (problem) {
    login.fail(problem, boot);
  }
}

async function finish({ code, begun }) {
  const { scene } = login;
  const isCurrent = () => login.scene === scene;
  const shown = pause(CONFIRMED_MS / 1000);
  try {
    // A code is handed out while it can be redeemed; without one this
    // browser may have redeemed it already and only missed the answer.
    if (!code) {
      if (!await findProfile()) login.refresh();
      return;
    }
    const { profile } = await callBack({ code, state: begun.state });
    await shown;
    if (isCurrent()) showProfile(profile);
  } catch (problem) {
    if (!isCurrent()) return;
    if (problem.passing) {
      login.fail(problem, () => finish({ code, begun }));
      return;
    }
    // Another tab with the same scene may have been faster.
    const loggedIn = await findProfile().catch(() => false);
    if (!loggedIn) login.fail({ ...problem, words: [i18n.t('refused'), i18n.t('refusedText')] });
  }
}

async function callBack(json) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await request('POST', '/demo/callback', { json });
    } catch (problem) {
      if (!problem.passing || failures === CALLBACK_TRIES) throw problem;
      await pause(backoff(failures - 1, problem.retryAfter));
    }
  }
}

byId('logout').addEventListener('click', async () => {
  try {
    await request('POST', '/demo/logout');
    login.refresh();
    login.removeAttribute('paused');
  } catch (problem) {
    update({ state: 'error' });
    login.fail(problem, boot);
  }
});

i18n.fill();
i18n.bindToggle(byId('lang'));
render(model);
boot();
