// What a site's own code writes, read by the compiler alone.

import type { ScanLoginState } from '../scan-login.js';

const login = document.querySelector('scan-login')!;
login.addEventListener('scan-login:confirmed', ({ detail }) => {
  const code: string | null = detail.code;
  const name: string | undefined = detail.profile.nickname;
  const state: unknown = detail.begun.state;
  login.fail({ code: 'refused', words: [String(code), `${name} ${state}`] }, () => login.refresh());
});
login.addEventListener('scan-login:change', ({ detail }) => {
  const state: ScanLoginState = detail.state;
  console.log(state, detail.connection);
});
login.addEventListener('click', (event) => event.preventDefault());
login.words = { en: { cancel: 'No', waiting: ['Now', 'Scan'] } };
document.createElement('scan-login').setAttribute('client-id', 'site');

// @ts-expect-error: there is no such state.
const wrong: ScanLoginState = 'done';
// @ts-expect-error: it is the element's to say.
login.state = wrong;
// @ts-expect-error: no such detail.
login.addEventListener('scan-login:scanned', ({ detail }) => detail.code);
