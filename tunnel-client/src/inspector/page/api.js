/** Requests that carry the session, and the stream of events. */
import { createSession } from './session.js';

export const session = createSession('tunnel-client-inspector-key', '/inspector/session');

const send = async (path, options) => {
  const headers = { 'inspector-key': session.key() };
  let response;
  try {
    response = await fetch(`/v1/inspector/environments${path}`, { ...options, headers });
  } catch (cause) {
    throw Object.assign(new Error('There is no answer.', { cause }), { status: 0 });
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw Object.assign(new Error(error?.message ?? 'It was refused.'), { status: response.status });
};

/** Resolves with the answer's JSON (undefined for 204); rejects with an error with `status`, 0 where there was none. */
export const ask = async (path, method = 'GET') => {
  const response = await send(path, { method });
  return response.status === 204 ? undefined : response.json();
};

/** Calls `onRequests` for each event. Resolves when the stream has ended; rejects like `ask`. */
export const follow = async (environment, signal, onRequests) => {
  const response = await send(`/${environment}/events`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (held + value).split('\n\n');
    held = events.pop();
    for (const event of events) {
      const [, data] = /^event: requests\ndata: (.*)$/.exec(event) ?? [];
      if (data !== undefined) onRequests(JSON.parse(data));
    }
  }
};
