/** The browser's half of the session, and requests that carry it. The cookie is the other half. */
const STORED = 'gateway-dashboard-key';

export const hasKey = () => localStorage.getItem(STORED) !== null;
export const forget = () => localStorage.removeItem(STORED);

export const openSession = async (token) => {
  const response = await fetch('/dashboard/session', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token }),
  });
  if (!response.ok) return false;
  localStorage.setItem(STORED, (await response.json()).key);
  return true;
};

/** Resolves with the answer's JSON (undefined for 204); rejects with `{ status }`, 0 where there was no answer. */
export const ask = async (path, body) => {
  const headers = { 'gateway-dashboard-key': localStorage.getItem(STORED) ?? '' };
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
