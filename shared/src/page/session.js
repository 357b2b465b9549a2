/** The browser's half of a session. The cookie is the other half. */
import { byId } from './dom.js';

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

/** The form in which a person gives the token. `who` stands in what it says when it is not taken. */
export const askForToken = (session, { who, opened }) =>
  byId('login').addEventListener('submit', async (event) => {
    event.preventDefault();
    byId('problem').textContent = '';
    try {
      if (await session.open(byId('token').value.trim())) {
        byId('token').value = '';
        return void opened();
      }
      byId('problem').textContent = `This is not the token of this ${who}.`;
    } catch {
      byId('problem').textContent = `The ${who} does not answer.`;
    }
  });
