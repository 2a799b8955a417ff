// The simulated phone: somebody scans a code, is asked, and answers.

import { byId, drawAvatar } from '../shared/dom.js';
import { Problem } from '../shared/http.js';
import { createI18n } from '../shared/i18n.js';
import { prepareAvatar } from './avatar.js';
import { PEOPLE, rememberPerson, rememberedPerson, somebodyNew } from './people.js';
import { confirm, decline, miniPrograms, scan, sendAvatar } from './service.js';
import { strings } from './strings.js';
import { createView, remedyOf } from './view.js';

/** The service has the last word on the time; the page grants it a moment more. */
const GRACE_SECONDS = 1;

const query = new URLSearchParams(location.search);

const model = {
  screen: 'enter',
  scene: query.get('scene'),
  typed: null,
  person: rememberedPerson(),
  people: [...PEOPLE],
  asked: null,
  askedAt: 0,
  number: null,
  wrong: new Set(),
  giving: false,
  avatar: null,
  avatarSent: false,
  busy: false,
  problem: null,
  because: 'no',
};

if (!model.people.some(({ openid }) => openid === model.person.openid)) {
  model.people.push(model.person);
}

const i18n = createI18n(strings, () => {
  view.render(model);
  tick();
});
const view = createView(i18n, choosePerson, chooseNumber);
const nickname = byId('nickname');
let repeat = null;

/** A new screen is read out from its heading, as a new page would be. */
function show(screen, changes = {}) {
  Object.assign(model, changes, { screen, busy: false });
  view.render(model);
  tick();
  // On a phone the page scrolls, in the frame only what is below its bar does.
  byId('app').querySelector('.view').scrollTop = 0;
  scrollTo(0, 0);
  view.title.focus({ preventScroll: true });
}

function fail(problem, again) {
  repeat = again;
  view.retry.wait(problem.retryAfter ?? 0);
  show('error', { problem });
}

// --- who, and which code ---------------------------------------------------

function choosePerson(person) {
  model.person = person;
  rememberPerson(person);
  view.drawPerson(model);
}

byId('random').addEventListener('click', () => {
  const person = somebodyNew((tail) => i18n.t('randomName', { tail }));
  model.people = [...PEOPLE, person];
  choosePerson(person);
  view.render(model);
});

byId('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  const entered = byId('link').value.trim();
  const found = entered.match(/(?:^|[^0-9a-f])([0-9a-f]{32})(?![0-9a-f])/);
  const typed = /^[0-9a-z]{4}[\s-]*[0-9a-z]{4}$/i.test(entered);
  byId('link-problem').textContent = found || typed ? '' : i18n.t('linkWrong');
  byId('link').setAttribute('aria-invalid', String(!found && !typed));
  if (found) goTo(found[1]);
  else if (typed) goTo(null, entered);
  else byId('link').focus();
});

/** Where there are several Mini Programs, a person has opened the one that the site names. */
async function offerMiniPrograms() {
  const appids = await miniPrograms().catch(() => []);
  const chosen = byId('program').value;
  byId('program').replaceChildren(...appids.map((appid) => new Option(appid, appid, false, appid === chosen)));
  byId('program-choice').hidden = appids.length < 2;
}

/** The address names the scene, as if it had been scanned; a reload stays with it. */
function goTo(scene, typed = null) {
  const url = new URL(location.href);
  if (scene) url.searchParams.set('scene', scene);
  else url.searchParams.delete('scene');
  url.searchParams.delete('auto');
  history.replaceState(null, '', url);
  show(scene || typed ? 'choose' : 'enter', { scene, typed, asked: null });
}

// --- scan, and answer --------------------------------------------------------

async function startScan() {
  if (model.screen === 'scanning') return;
  show('scanning');
  try {
    const asked = await scan({
      scene: model.scene,
      typed: model.typed,
      appid: byId('program').value,
      openid: model.person.openid,
      entryScene: Number(byId('entry-scene').value),
      language: i18n.tag,
    });
    forgetProfile();
    show('ask', {
      scene: asked.scene ?? model.scene, asked, askedAt: performance.now(), number: null, wrong: new Set(), problem: null,
    });
  } catch (problem) {
    fail(problem, startScan);
  }
}

function chooseNumber(number) {
  model.number = number;
  view.markNumber(number);
  view.drawButtons(model);
}

/** One answer at a time: a second tap finds the page busy. */
async function answer(call, again, screen, changes) {
  if (model.busy) return;
  model.busy = true;
  view.drawButtons(model);
  try {
    await call();
    show(screen, changes);
  } catch (problem) {
    if (problem instanceof AvatarTrouble) avatarWasRefused(problem);
    else if (problem.code === 'wrong_match_number') numberWasWrong(problem);
    else if (problem.state === 'declined' && model.wrong.size > 0) show('declined', { because: 'wrong_numbers' });
    else fail(problem, again);
  }
}

/** One is forgiven, and the question stays where it is; at the second the service declines. */
function numberWasWrong(problem) {
  model.wrong.add(model.number);
  if (problem.state === 'declined') {
    show('declined', { because: 'wrong_numbers' });
    return;
  }
  Object.assign(model, { screen: 'ask', problem, number: null, busy: false });
  view.render(model);
  byId('notice').focus();
}

function sayYes() {
  const { scene, number, giving, asked: { confirm_token: token } } = model;
  const call = async () => {
    if (giving && model.avatar && !model.avatarSent) await giveAvatar(scene, token);
    await confirm({ scene, token, number, nickname: giving ? nickname.value.trim() : '' });
  };
  return answer(call, sayYes, 'confirmed');
}

function sayNo(reason) {
  const { scene, asked: { confirm_token: token } } = model;
  const call = () => decline({ scene, token, reason });
  return answer(call, () => sayNo(reason), 'declined', { because: reason ?? 'no' });
}

const remedies = {
  retry: () => repeat(),
  rescan: () => show('choose'),
};

// --- nickname and picture ----------------------------------------------------

/** A picture that could not be given: the question stays, to be answered without it. */
class AvatarTrouble extends Error {}

function forgetAvatar() {
  model.avatar = null;
  byId('avatar-file').value = '';
  byId('avatar-status').textContent = '';
  drawAvatar(byId('avatar-preview'), { name: '+' });
}

/** Off until the person switches it on, at each scan. */
function forgetProfile() {
  Object.assign(model, { giving: false, avatarSent: false });
  nickname.value = '';
  forgetAvatar();
}

byId('give').addEventListener('change', ({ target }) => {
  forgetProfile();
  model.giving = target.checked;
  // WeChat's keyboard offers the person's own name so.
  if (model.giving) nickname.value = model.person.name;
  view.drawGiven(model);
});

/** The picture stays on the phone until the login is confirmed. */
byId('avatar-file').addEventListener('change', async () => {
  const [file] = byId('avatar-file').files;
  if (!file) return;
  const picture = await prepareAvatar(file);
  // Switched off, or another chosen, while it was read.
  if (byId('avatar-file').files[0] !== file) return;
  model.avatar = picture.body;
  if (picture.preview) byId('avatar-preview').replaceChildren(picture.preview);
  byId('avatar-status').textContent = i18n.t('avatarReady');
});

async function giveAvatar(scene, token) {
  try {
    await sendAvatar({ scene, token, body: model.avatar });
  } catch (problem) {
    throw new AvatarTrouble(problem.code, { cause: problem });
  }
  model.avatarSent = true;
}

function avatarWasRefused({ cause: { code } }) {
  forgetAvatar();
  Object.assign(model, { screen: 'ask', problem: null, busy: false });
  view.render(model);
  const status = byId('avatar-status');
  const key = `avatar_${code}`;
  status.textContent = i18n.t(i18n.has(key) ? key : 'avatar_other');
  status.scrollIntoView({ block: 'center' });
}

byId('clear').addEventListener('click', () => {
  nickname.value = '';
  nickname.focus();
});

// --- time ---------------------------------------------------------------------

function tick() {
  if (model.screen !== 'ask') return;
  const since = (performance.now() - model.askedAt) / 1000;
  view.tick(Math.floor(model.asked.requested_seconds_ago + since));
  const left = model.asked.expires_in - since;
  if (left < -GRACE_SECONDS && !model.busy) fail(new Problem({ code: 'expired' }), null);
}

setInterval(tick, 1000);

byId('scan').addEventListener('click', startScan);
byId('confirm').addEventListener('click', sayYes);
byId('decline').addEventListener('click', () => sayNo());
byId('not-me').addEventListener('click', () => sayNo('not_me'));
byId('retry').addEventListener('click', () => {
  if (view.retry.ready) remedies[remedyOf(model.problem)]();
});
byId('switch').addEventListener('click', () => show('choose'));
byId('close').addEventListener('click', () => goTo(null));
byId('link').addEventListener('focus', offerMiniPrograms);

i18n.fill();
i18n.bindToggle(byId('lang'));
model.screen = model.scene ? 'choose' : 'enter';
view.render(model);
offerMiniPrograms();
if (model.scene && query.get('auto') === '1') startScan();
