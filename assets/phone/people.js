// Who may hold the simulated phone. Their openids are fixed, so that a site
// meets the same people again.

const KEY = 'scanlogin.simulated-person';

export const PEOPLE = [
  { openid: 'o-simulated-xiaoming', name: '小明' },
  { openid: 'o-simulated-alice', name: 'Alice' },
  { openid: 'o-simulated-xiaohong', name: '小红' },
  { openid: 'o-simulated-bob', name: 'Bob' },
];

/** @param nameOf words the name of somebody new from four random digits */
export function somebodyNew(nameOf) {
  const random = crypto.getRandomValues(new Uint8Array(8));
  const hex = Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return { openid: `o-simulated-${hex}`, name: nameOf(hex.slice(0, 4)) };
}

export function rememberedPerson() {
  try {
    const person = JSON.parse(localStorage.getItem(KEY));
    if (person?.openid && person?.name) return person;
  } catch {
    // Storage may be forbidden or hold something else.
  }
  return PEOPLE[0];
}

export function rememberPerson({ openid, name }) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ openid, name }));
  } catch {
    // Then the choice lasts as long as the page.
  }
}
