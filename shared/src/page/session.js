/** The browser's half of a session. The cookie is the other half. */

/** `stored`: the name of the key in the browser. `path`: what gives a session for the token. */
export const createSession = (stored, path) => ({
  key: () => localStorage.getItem(stored) ?? '',
  hasKey: () => localStorage.getItem(stored) !== null,
  forget: () => localStorage.removeItem(stored),
  /** Resolves with whether the token was right. */
  async open(token) {
    const response = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token }),
    });
    if (!response.ok) return false;
    localStorage.setItem(stored, (await response.json()).key);
    return true;
  },
});
