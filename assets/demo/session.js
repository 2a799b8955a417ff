// What a reload of this tab finds again. Per tab, so that two do not disturb
// each other; it names the scene and holds no secret.

const KEY = 'scanlogin.scene';

export function keep(session) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(session));
  } catch {
    // Storage may be forbidden; then a reload starts anew.
  }
}

export function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}

export function forget() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // See keep().
  }
}

/** Joins what the site said (`start`) to what the service made (`scene`). */
export function sessionOf(start, scene) {
  return {
    scene: scene.scene,
    id: scene.id,
    code_url: scene.code_url,
    events_url: scene.events_url,
    status_url: scene.status_url,
    life: scene.expires_in,
    state: start.state,
    client_name: start.client_name,
    simulated_phone_url: start.simulated_phone_url,
  };
}
