// Small helpers that both pages draw with.

export const byId = (id) => document.getElementById(id);

/**
 * Shows the elements whose `data-in` lists `state` and hides the others. When
 * that takes away what had the focus, `fallback` gets it, so that a keyboard
 * or screen-reader user is never dropped at the top of the page.
 */
export function showOnly(root, state, fallback) {
  const focused = document.activeElement;
  for (const element of root.querySelectorAll('[data-in]')) {
    element.hidden = !element.dataset.in.split(' ').includes(state);
  }
  if (focused && focused !== document.body && focused.closest('[hidden]')) fallback.focus();
}

/**
 * A button that repeats something, not before `seconds` are over: a server's
 * Retry-After. `label(secondsLeft)` words it.
 */
export function createRetryButton(button, label) {
  let timer = null;
  let until = 0;
  const draw = () => {
    const left = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    button.textContent = label(left);
    // Not `disabled`: that would throw away the focus of whoever waits on it.
    button.setAttribute('aria-disabled', String(left > 0));
    if (left === 0) clearInterval(timer);
  };
  return {
    draw,
    get ready() { return performance.now() >= until; },
    wait(seconds) {
      clearInterval(timer);
      until = performance.now() + seconds * 1000;
      if (seconds > 0) timer = setInterval(draw, 250);
      draw();
    },
  };
}

/** The addresses that the page's content security policy lets a picture have. */
export function showable(url) {
  if (!url) return null;
  let parsed;
  try {
    parsed = new URL(url, location.href);
  } catch {
    return null;
  }
  const ofWechat = parsed.protocol === 'https:' && parsed.hostname.endsWith('.qlogo.cn');
  return parsed.origin === location.origin || ofWechat ? parsed.href : null;
}

const TINTS = 6;

function tintOf(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 9973;
  return sum % TINTS;
}

/** Draws a person or a site: the picture if it loads, else a coloured initial. */
export function drawAvatar(element, { name, picture }) {
  const initial = document.createElement('span');
  initial.textContent = (Array.from(name.trim())[0] ?? '?').toUpperCase();
  element.dataset.tint = tintOf(name);
  element.replaceChildren(initial);

  const source = showable(picture);
  if (!source) return;
  const image = new Image();
  image.alt = '';
  image.addEventListener('load', () => element.replaceChildren(image), { once: true });
  image.referrerPolicy = 'no-referrer';
  image.src = source;
}
