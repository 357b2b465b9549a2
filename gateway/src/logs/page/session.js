/** From a token to the cookie with which this page reads the log. */

const ADDRESS = '/_gitpod/logs-session';

/** The token of the address, which is taken out of it at once: it must not stay in the history. */
export const takeTokenOfAddress = () => {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token !== null) history.replaceState(null, '', location.pathname + location.search);
  return token ?? undefined;
};

const answerOf = async (response) => {
  const answer = await response.json().catch(() => undefined);
  if (response.ok && answer) return { session: answer };
  return { status: response.status, message: answer?.error?.message ?? `The gateway answered ${response.status}.` };
};

const ask = async (options) => {
  try {
    return await answerOf(await fetch(ADDRESS, { cache: 'no-store', ...options }));
  } catch {
    return { message: 'The gateway cannot be reached. Check the network, then try again.' };
  }
};

/** Gives `{ session }`, or `{ message }` for people. */
export const openSession = (token) =>
  ask({ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }) });

/** A cookie that came with no navigation from elsewhere comes with this. */
export const currentSession = () => ask({});
