// The page of /authorize: whose login it is, <scan-login>, and the way back to the site.

import { byId, drawAvatar } from '../shared/dom.js';
import { strings } from './strings.js';

/** What became of it is to be seen before the browser goes on. */
const SEEN_MS = 900;
/** Of this tab, for as long as it is open: who picked a language by hand wants it at the next login too. */
const LANGUAGE = 'scanlogin.language';
/** The scene that was taken back to its site last. */
const LEFT = 'scanlogin.left';
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
  const isElsewhere = app.dataset.state === 'elsewhere';
  const headline = isElsewhere ? words.elsewhere : words.headline.replace('{name}', () => name);
  byId('headline').textContent = headline;
  document.title = headline;
  byId('simulator-title').textContent = words.simulatorTitle;
  byId('simulator-text').textContent = words.simulatorText;
  byId('open-phone').textContent = words.openPhone;
  byId('leave').textContent = isElsewhere ? words.goOnHere : words.leave;
  const [other, label] = TOGGLES[page.lang];
  byId('lang').textContent = label;
  byId('lang').lang = other;
  login.lang = page.lang;
  login.words = { en: words.login, zh: words.login };
}

/**
 * Whether this page is the first to take its login back to the site. A duplicate of a tab has the same login, and a code that comes
 * to the site twice is revoked (RFC 6749 §4.1.2).
 */
function isFirst(scene) {
  const claim = () => {
    try {
      if (localStorage.getItem(LEFT) === scene) return false;
      localStorage.setItem(LEFT, scene);
    } catch {
      // Storage may be forbidden; then no duplicate finds the login either.
    }
    return true;
  };
  return navigator.locks ? navigator.locks.request(LEFT, claim) : claim();
}

function leave({ detail: { redirectTo }, type }) {
  if (!redirectTo) return;
  const { scene } = app.dataset;
  const wait = type.endsWith(':cancelled') ? 0 : SEEN_MS;
  setTimeout(async () => {
    // At the last moment, so that a reload before it goes on.
    if (await isFirst(scene)) {
      location.replace(redirectTo);
      return;
    }
    // Whoever closed that tab, or stopped it on its way, still gets back.
    byId('leave').href = redirectTo;
    app.dataset.state = 'elsewhere';
    draw();
  }, wait);
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
