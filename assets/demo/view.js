// Draws the login page from its model. Nothing here decides anything.

import { byId, createRetryButton, drawAvatar, showOnly } from '../shared/dom.js';

const SEALS = {
  scanned: 'phone',
  declined: 'no',
  cancelled: 'no',
  expired: 'clock',
  error: 'alert',
  'phone-hint': 'computer',
};

const TICKING = new Set(['loading', 'waiting', 'scanned']);
/** From here on the ring says that time is short. */
const SHORT_SECONDS = 15;

/** The one word that the page as a whole is in. */
export function displayState({ screen, data, picture }) {
  if (screen !== 'scene') return screen;
  if (data.state === 'confirmed') return 'confirming';
  if (data.state !== 'waiting') return data.state;
  return { ready: 'waiting', failed: 'error' }[picture] ?? 'loading';
}

/** An openid is long and says nothing; its ends are enough to tell two apart. */
function shortId(id) {
  return id.length > 14 ? `${id.slice(0, 6)}…${id.slice(-4)}` : id;
}

/** Whether only this machine finds itself under that name. */
function isLoopback(hostname) {
  return hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.');
}

const twoDigits = (number) => String(number).padStart(2, '0');

export function createView(i18n) {
  const { t } = i18n;
  const app = byId('app');
  const title = byId('status-title');
  const refresh = createRetryButton(byId('refresh'), (seconds) => {
    if (seconds > 0) return t('retryIn', { seconds });
    return t(refreshLabel);
  });
  let refreshLabel = 'refresh';

  function wordsOfProblem({ code }) {
    const wordsFor = (what) => t(i18n.has(`${what}_${code}`) ? `${what}_${code}` : `${what}_other`);
    return [wordsFor('problem'), wordsFor('problemText')];
  }

  function words(state, model) {
    const { data, session, profile } = model;
    switch (state) {
      case 'loading':
        return [t('loadingTitle'), t(model.slow ? 'loadingSlow' : 'loadingText')];
      case 'waiting':
        return [
          t('waitingTitle'),
          model.onPhone ? t('hintCode') : t('waitingText', { client: session.client_name }),
        ];
      case 'scanned':
        return [
          t('scannedTitle'),
          data.match_number ? t('scannedMatch', { number: data.match_number }) : t('scannedText'),
        ];
      case 'confirming': {
        const name = data.profile?.nickname;
        return [t('confirmingTitle'), name ? t('confirmingName', { name }) : t('confirmingText')];
      }
      case 'declined':
        return data.reason === 'wrong_number'
          ? [t('mismatchTitle'), t('mismatchText')]
          : [t('declinedTitle'), t('declinedText')];
      case 'expired': {
        const lost = data.reason === 'lost';
        const text = model.renewing ? t('renewing') : t(lost ? 'lostText' : 'expiredText');
        return [t(lost ? 'lostTitle' : 'expiredTitle'), text];
      }
      case 'phone-hint':
        return [
          t('hintTitle'),
          t(model.inWechat ? 'hintWechat' : 'hintText', { address: location.host }),
        ];
      case 'profile':
        return [t('profileTitle', { name: nameOf(profile) }), t('profileText')];
      case 'error':
        return wordsOfProblem(model.problem);
      default:
        return [t(`${state}Title`), t(`${state}Text`)];
    }
  }

  function nameOf(profile) {
    return profile.nickname || t('anonymous', { id: shortId(profile.wechat_openid ?? profile.sub) });
  }

  /** Writes only what differs: a live region reads out again whatever is set again. */
  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  /** For whoever runs the service: its own words, and what to look for in its log. */
  function drawTechnical(problem) {
    const parts = [];
    if (problem?.errcode) parts.push(t('errcode', { errcode: problem.errcode }));
    if (problem?.requestId) parts.push(t('requestId', { id: problem.requestId }));
    byId('technical').hidden = parts.length === 0 && !problem?.detail;
    write(byId('detail'), problem?.detail ?? '');
    write(byId('trace'), parts.join(' · '));
  }

  function drawProfile(profile) {
    const name = nameOf(profile);
    drawAvatar(byId('avatar'), { name, picture: profile.picture });
    byId('profile-simulated').hidden = !profile.amr?.includes('simulated');
    byId('openid').textContent = profile.wechat_openid ?? profile.sub;
    byId('since').textContent = new Intl.DateTimeFormat(i18n.tag, {
      dateStyle: 'medium',
      timeStyle: 'medium',
    }).format(new Date(profile.auth_time * 1000));
  }

  function drawSimulator(state, { session, simulated }) {
    byId('simulator').hidden = !simulated;
    byId('simulated-chip').hidden = !simulated || state === 'profile';

    const offered = Boolean(session?.simulated_phone_url && session.scene && TICKING.has(state));
    byId('phone-offer').hidden = !offered;
    if (!offered) return;
    const language = i18n.chosen ? `&lang=${i18n.chosen}` : '';
    const phone = byId('open-phone');
    phone.href = `${session.simulated_phone_url}?scene=${session.scene}${language}`;
    write(byId('open-phone-hint'), t(isLoopback(phone.hostname) ? 'openPhoneHintLocal' : 'openPhoneHint'));
  }

  function drawConnection(state, connection) {
    const noted = TICKING.has(state) || state === 'confirming';
    const troubled = noted && (connection === 'reconnecting' || connection === 'polling');
    byId('connection').hidden = !troubled;
    write(byId('connection-text'), troubled ? t(connection) : '');
    if (connection) app.dataset.connection = connection;
    else delete app.dataset.connection;
  }

  function render(model) {
    const state = displayState(model);
    app.dataset.state = state;
    if (model.session?.scene) app.dataset.scene = model.session.scene;
    else delete app.dataset.scene;
    document.title = t('pageTitle');
    write(byId('headline'), t(state === 'profile' ? 'headlineIn' : 'headline'));
    write(byId('lead'), t(state === 'profile' ? 'leadIn' : 'lead'));

    const [heading, text] = words(state, model);
    write(title, heading);
    write(byId('status-text'), text);
    drawTechnical(state === 'error' ? model.problem : null);

    byId('code').classList.toggle('ready', model.picture === 'ready');
    byId('code').alt = model.picture === 'ready' ? t('codeAlt') : '';
    const number = state === 'scanned' ? model.data.match_number : null;
    byId('match').hidden = !number;
    byId('match').textContent = number ?? '';
    byId('seal').hidden = Boolean(number) || state === 'confirming';
    byId('seal').dataset.tone = state;
    if (SEALS[state]) byId('seal-icon').setAttribute('href', `#i-${SEALS[state]}`);

    if (state === 'confirming') {
      const { nickname = '✓', avatar_url: picture } = model.data.profile ?? {};
      drawAvatar(byId('confirming-avatar'), { name: nickname, picture });
    }
    if (state === 'profile') drawProfile(model.profile);
    drawSimulator(state, model);
    drawConnection(state, model.connection);

    byId('cancel').textContent = t(state === 'scanned' ? 'startOver' : 'cancel');
    refreshLabel = state === 'error' ? model.retryLabel ?? 'retry' : 'refresh';
    refresh.draw();
    showOnly(app, state, title);
  }

  function tick(left, life) {
    const seconds = Math.max(0, Math.ceil(left));
    const time = `${Math.floor(seconds / 60)}:${twoDigits(seconds % 60)}`;
    byId('countdown').textContent = t('countdown', { time });
    byId('ring').style.strokeDashoffset = String(100 - Math.min(1, Math.max(0, left / life)) * 100);
    app.classList.toggle('short', seconds <= SHORT_SECONDS);
  }

  function stopTicking() {
    byId('countdown').textContent = '';
    app.classList.remove('short');
  }

  return { render, tick, stopTicking, refresh };
}
