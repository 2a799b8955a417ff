// Words in two languages. A page hands over its own strings; this module
// chooses the language, fills the static markup and tells the page to redraw.

const LANGUAGES = { en: 'en', zh: 'zh-CN' };
const NAMES = { en: 'English', zh: '中文' };
const ATTRIBUTES = ['aria-label', 'alt', 'placeholder'];

function fromUrl() {
  const asked = new URLSearchParams(location.search).get('lang') ?? '';
  const language = asked.toLowerCase().split('-')[0];
  return language in LANGUAGES ? language : null;
}

function fromBrowser() {
  for (const tag of navigator.languages ?? [navigator.language]) {
    const language = tag.toLowerCase().split('-')[0];
    if (language in LANGUAGES) return language;
  }
  return 'en';
}

/**
 * @param strings `{en: {key: string | (params) => string}, zh: {...}}`
 * @param redraw called whenever the person changes the language
 */
export function createI18n(strings, redraw) {
  let chosen = fromUrl();
  let language = chosen ?? fromBrowser();

  const has = (key) => Object.hasOwn(strings[language], key);

  function t(key, params = {}) {
    const found = strings[language][key];
    if (typeof found === 'function') return found(params);
    if (typeof found !== 'string') return found;
    return found.replace(/\{(\w+)\}/g, (_, name) => params[name] ?? '');
  }

  function fill(root = document) {
    document.documentElement.lang = LANGUAGES[language];
    for (const element of root.querySelectorAll('[data-i18n]')) {
      element.textContent = t(element.dataset.i18n);
    }
    for (const attribute of ATTRIBUTES) {
      for (const element of root.querySelectorAll(`[data-i18n-${attribute}]`)) {
        element.setAttribute(attribute, t(element.getAttribute(`data-i18n-${attribute}`)));
      }
    }
  }

  function bindToggle(button) {
    const label = () => {
      const other = language === 'en' ? 'zh' : 'en';
      button.textContent = NAMES[other];
      button.lang = LANGUAGES[other];
    };
    button.addEventListener('click', () => {
      language = language === 'en' ? 'zh' : 'en';
      chosen = language;
      // The address keeps the choice, so a reload or a shared link does too.
      const url = new URL(location.href);
      url.searchParams.set('lang', language);
      history.replaceState(history.state, '', url);
      label();
      fill();
      redraw();
    });
    label();
  }

  return {
    t,
    has,
    fill,
    bindToggle,
    /** The language picked by hand or by `?lang=`, else null. */
    get chosen() { return chosen; },
    get tag() { return LANGUAGES[language]; },
  };
}
