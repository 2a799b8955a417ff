// Draws the simulated phone from its model. Nothing here decides anything.

import { byId, createRetryButton, drawAvatar, showOnly } from '../shared/dom.js';

const SEALS = {
  enter: 'scan',
  scanning: 'scan',
  confirmed: 'check',
  declined: 'no',
  error: 'alert',
};

/** What the main button of an error offers, where that is not to try the same again. */
const REMEDIES = {
  confirm_token_required: 'rescan',
  invalid_request: 'rescan',
};
/** No further try of this scene can cure these: nothing is offered but to close. */
const HOPELESS = new Set([
  'expired', 'unknown_scene', 'unknown_short_code', 'already_finished', 'scanned_by_another', 'entry_scene_refused', 'wechat_blocked_user',
]);
const DECLINED = { no: 'declinedText', not_me: 'notMeText', wrong_numbers: 'wrongNumbersText' };

/** Where another person may still take over the phone and scan. */
const CHANGEABLE = new Set(['ask', 'error']);

export function remedyOf(problem) {
  if (HOPELESS.has(problem.code)) return null;
  return REMEDIES[problem.code] ?? 'retry';
}

export function createView(i18n, onChoosePerson, onChooseNumber) {
  const { t } = i18n;
  const app = byId('app');
  const title = byId('title');
  let remedy = 'retry';
  const retry = createRetryButton(byId('retry'), (seconds) => (
    seconds > 0 ? t('retryIn', { seconds }) : t(remedy)
  ));

  function wordsOfProblem({ code, state }) {
    const detailed = `problem_${code}_${state}`;
    if (i18n.has(detailed)) return t(detailed);
    return t(i18n.has(`problem_${code}`) ? `problem_${code}` : 'problem_other');
  }

  function words({ screen, typed, problem, because }) {
    if (screen === 'error') return wordsOfProblem(problem);
    if (screen === 'choose' && typed) return [t('chooseTitle'), t('chooseTextTyped', { typed })];
    if (screen === 'declined') return [t('declinedTitle'), t(DECLINED[because])];
    if (screen === 'ask') return [t('askTitle'), ''];
    return [t(`${screen}Title`), t(`${screen}Text`)];
  }

  function drawTechnical(problem) {
    const parts = [];
    if (problem?.errcode) parts.push(t('errcode', { errcode: problem.errcode }));
    if (problem?.requestId) parts.push(t('requestId', { id: problem.requestId }));
    byId('technical').hidden = parts.length === 0;
    byId('technical').textContent = parts.join(' · ');
  }

  function drawPeople({ people, person }) {
    byId('people').replaceChildren(...people.map((one) => {
      const label = document.createElement('label');
      const radio = document.createElement('input');
      const avatar = document.createElement('span');
      const name = document.createElement('span');
      const openid = document.createElement('small');
      radio.type = 'radio';
      radio.name = 'person';
      radio.value = one.openid;
      radio.checked = one.openid === person.openid;
      radio.addEventListener('change', () => onChoosePerson(one));
      avatar.className = 'avatar';
      avatar.setAttribute('aria-hidden', 'true');
      drawAvatar(avatar, one);
      name.textContent = one.name;
      openid.textContent = one.openid;
      label.append(radio, avatar, name, openid);
      return label;
    }));
  }

  function drawPerson({ person, scene, typed }) {
    drawAvatar(byId('bar-avatar'), person);
    byId('bar-name').textContent = person.name;
    byId('scan').textContent = t(typed ? 'goOn' : 'scan', { name: person.name });
    byId('scene-id').textContent = scene ?? t('none');
    byId('openid').textContent = person.openid;
  }

  function fact(name, text) {
    byId(`fact-${name}`).textContent = text ?? '';
    byId(`row-${name}`).hidden = !text;
  }

  function drawFacts({ asked }) {
    const { client, browser, warning } = asked;
    drawAvatar(byId('site-logo'), { name: client.name, picture: client.logo_url });
    byId('site-name').textContent = client.name;
    byId('site-domain').textContent = client.domain ?? '';
    byId('fact-browser').textContent = t('browserOn', browser);
    fact('place', browser.place);
    fact('ip', browser.ip);
    byId('warning').hidden = !warning;
    byId('warning-text').textContent = warning ?? '';
  }

  function drawNumbers({ asked, number, wrong }) {
    const choices = asked.match_choices ?? [];
    byId('numbers').hidden = choices.length === 0;
    byId('choices').replaceChildren(...choices.map((choice) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.className = 'number';
      button.textContent = choice;
      button.dataset.testid = 'match-choice';
      button.disabled = wrong.has(choice);
      button.setAttribute('aria-pressed', String(choice === number));
      button.addEventListener('click', () => onChooseNumber(choice));
      return button;
    }));
  }

  /** What went wrong and leaves the question open. */
  function drawNotice({ problem }) {
    byId('notice').hidden = !problem;
    const [heading, text] = problem ? wordsOfProblem(problem) : ['', ''];
    byId('notice-title').textContent = heading;
    byId('notice-text').textContent = text;
  }

  /** What is closed gives nothing, and what the service has got cannot be withheld any more. */
  function drawGiven({ giving, avatarSent, busy }) {
    byId('give').checked = giving;
    byId('give').disabled = busy || avatarSent;
    byId('avatar-file').disabled = busy || avatarSent;
    byId('profile').hidden = !giving;
  }

  /** A choice only moves the mark: drawing the buttons anew would drop the focus. */
  function markNumber(number) {
    for (const button of byId('choices').children) {
      button.setAttribute('aria-pressed', String(button.textContent === number));
    }
  }

  function drawButtons(model) {
    const { screen, asked, number, busy } = model;
    drawGiven(model);
    const undecided = Boolean(asked?.match_choices?.length) && !number;
    byId('decline').disabled = busy;
    byId('not-me').disabled = busy;
    byId('switch').disabled = busy || !CHANGEABLE.has(screen);
    byId('confirm').disabled = busy || undecided;
    byId('confirm').textContent = t(busy ? 'sending' : 'confirm');
  }

  function render(model) {
    const { screen, problem } = model;
    // Without a scene there is somebody to choose for, later: still `choose` to the outside.
    app.dataset.state = screen === 'enter' ? 'choose' : screen;
    app.dataset.screen = screen;
    if (screen === 'error') app.dataset.code = problem.code;
    else delete app.dataset.code;
    if (model.scene) app.dataset.scene = model.scene;
    else delete app.dataset.scene;
    document.title = t('pageTitle');

    const [heading, text] = words(model);
    title.textContent = heading;
    byId('text').textContent = text;
    drawTechnical(screen === 'error' ? problem : null);

    byId('seal').dataset.tone = screen;
    const icon = screen === 'error' && problem.code === 'expired' ? 'clock' : SEALS[screen];
    if (icon) byId('seal-icon').setAttribute('href', `#i-${icon}`);

    drawPerson(model);
    if (screen === 'choose') drawPeople(model);
    if (screen === 'ask') {
      drawFacts(model);
      drawNumbers(model);
      drawNotice(model);
    }
    drawButtons(model);
    showOnly(app, screen, title);
    if (screen === 'error') {
      remedy = remedyOf(problem) ?? 'retry';
      byId('retry').hidden = remedyOf(problem) === null;
      retry.draw();
    }
  }

  function tick(askedSeconds) {
    byId('fact-asked').textContent = t('ago', { seconds: askedSeconds });
  }

  return { render, drawButtons, drawGiven, drawPerson, markNumber, tick, retry, title };
}
