// Draws what of the login page is the site's own. Nothing here decides anything.

import { byId, drawAvatar, showOnly } from '../shared/dom.js';

const OFFERING = new Set(['loading', 'waiting', 'scanned']);

/** An openid is long and says nothing; its ends are enough to tell two apart. */
function shortId(id) {
  return id.length > 14 ? `${id.slice(0, 6)}…${id.slice(-4)}` : id;
}

/** Whether only this machine finds itself under that name. */
function isLoopback(hostname) {
  return hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.');
}

/** Writes only what differs: a live region reads out again whatever is set again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function createView(i18n) {
  const { t } = i18n;
  const app = byId('app');

  function nameOf(profile) {
    return profile.nickname || t('anonymous', { id: shortId(profile.wechat_openid ?? profile.sub) });
  }

  function drawProfile(profile) {
    const name = nameOf(profile);
    drawAvatar(byId('avatar'), { name, picture: profile.picture });
    write(byId('profile-title'), t('profileTitle', { name }));
    byId('profile-simulated').hidden = !profile.amr?.includes('simulated');
    byId('openid').textContent = profile.wechat_openid ?? profile.sub;
    byId('since').textContent = new Intl.DateTimeFormat(i18n.tag, {
      dateStyle: 'medium',
      timeStyle: 'medium',
    }).format(new Date(profile.auth_time * 1000));
  }

  function drawSimulator({ state, simulated, simulatedPhone, scene }) {
    byId('simulator').hidden = !simulated;
    byId('simulated-chip').hidden = !simulated;

    const offered = Boolean(simulatedPhone && scene && OFFERING.has(state));
    byId('phone-offer').hidden = !offered;
    if (!offered) return;
    const language = i18n.chosen ? `&lang=${i18n.chosen}` : '';
    const phone = byId('open-phone');
    phone.href = `${simulatedPhone}?scene=${scene}${language}`;
    write(byId('open-phone-hint'), t(isLoopback(phone.hostname) ? 'openPhoneHintLocal' : 'openPhoneHint'));
  }

  return function render(model) {
    const { state, connection, scene, profile } = model;
    const entered = state === 'profile';
    app.dataset.state = state;
    for (const [name, value] of Object.entries({ scene, connection })) {
      if (value) app.dataset[name] = value;
      else delete app.dataset[name];
    }
    document.title = t('pageTitle');
    write(byId('headline'), t(entered ? 'headlineIn' : 'headline'));
    write(byId('lead'), t(entered ? 'leadIn' : 'lead'));
    const login = byId('login');
    login.lang = i18n.tag;
    login.hidden = entered;
    if (entered) drawProfile(profile);
    drawSimulator(model);
    showOnly(app, state, byId('profile-title'));
  };
}
