/** Requests that carry the session. */
import { createSession } from './session.js';

export const session = createSession('gateway-dashboard-key', '/dashboard/session');

/** Resolves with the answer's JSON (undefined for 204); rejects with `{ status }`, 0 where there was no answer. */
export const ask = async (path, body) => {
  const headers = { 'gateway-dashboard-key': session.key() };
  let response;
  try {
    response = await fetch(
      path,
      body === undefined
        ? { headers }
        : { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body) },
    );
  } catch (cause) {
    throw Object.assign(new Error('no answer', { cause }), { status: 0 });
  }
  if (!response.ok) throw Object.assign(new Error('refused'), { status: response.status });
  return response.status === 204 ? undefined : response.json();
};
