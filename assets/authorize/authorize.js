// The page of /authorize: whose login it is, <scan-login>, and the way back to the site.

import { byId, drawAvatar } from '../shared/dom.js';
import { strings } from './strings.js';

/** What became of it is to be seen before the browser goes on. */
const SEEN_MS = 900;
/** Of this tab alone: at the next login the site may ask for another. */
const LANGUAGE = 'scanlogin.language';
const TOGGLES = { en: ['zh-CN', '中文'], 'zh-CN': ['en', 'English'] };

const app = byId('app');
const login = byId('login');
const { name, logo, simulated, phone } = app.dataset;
const page = document.documentElement;

/** The language that was picked by hand before a reload, if it is kept. */
function picked() {
  try {
    return sessionStorage.getItem(LANGUAGE);
  } catch {
    return null;
  }
}

function pick(language) {
  page.lang = language;
  try {
    sessionStorage.setItem(LANGUAGE, language);
  } catch {
    // Storage may be forbidden; then a reload speaks as the site asks.
  }
}

function draw() {
  const words = strings[page.lang];
  const headline = words.headline.replace('{name}', () => name);
  byId('headline').textContent = headline;
  document.title = headline;
  byId('simulator-title').textContent = words.simulatorTitle;
  byId('simulator-text').textContent = words.simulatorText;
  byId('open-phone').textContent = words.openPhone;
  byId('leave').textContent = words.leave;
  const [other, label] = TOGGLES[page.lang];
  byId('lang').textContent = label;
  byId('lang').lang = other;
  login.lang = page.lang;
  login.words = { en: words.login, zh: words.login };
}

function leave({ detail: { redirectTo }, type }) {
  if (!redirectTo) return;
  const wait = type.endsWith(':cancelled') ? 0 : SEEN_MS;
  setTimeout(() => location.replace(redirectTo), wait);
}

login.addEventListener('scan-login:change', ({ detail: { state, scene } }) => {
  app.dataset.state = state;
  byId('open-phone').hidden = !phone || !scene;
});
login.addEventListener('scan-login:ready', ({ detail: { scene } }) => {
  app.dataset.scene = scene;
  byId('open-phone').href = `${phone}?scene=${scene}`;
  byId('open-phone').hidden = !phone;
});
for (const end of ['confirmed', 'declined', 'cancelled']) login.addEventListener(`scan-login:${end}`, leave);

byId('lang').addEventListener('click', () => {
  pick(TOGGLES[page.lang][0]);
  draw();
});

drawAvatar(byId('logo'), { name });
if (logo) {
  const image = new Image();
  image.alt = '';
  image.referrerPolicy = 'no-referrer';
  image.addEventListener('load', () => byId('logo').replaceChildren(image));
  image.src = logo;
}
byId('simulator').hidden = !simulated;
if (Object.hasOwn(strings, picked())) page.lang = picked();
draw();
// Now that somebody listens.
login.removeAttribute('paused');
