/**
 * Reads the log as it grows: server-sent events, or plain lines where the log server has nothing else. When the
 * connection ends it is made again, and goes on behind the last line that came.
 */

/** The first pause before trying again, ms, and the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 10_000;
/** Without a byte for so long, heartbeats included (every 15 s), the connection is dead, ms. */
const SILENCE_MS = 45_000;
/** Work on what has come before the page may do something else, ms. */
const SLICE_MS = 10;

/** What is worked on before the time is looked at, bytes: some hundred lines. */
const PIECE_BYTES = 32 << 10;

/** Lets the page paint and react. */
const breathe = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });

const messageOf = async (response) => {
  if (response.headers.get('Gateway-Error') === 'logs_unreachable') return 'The log cannot be reached right now.';
  const text = await response.text().catch(() => '');
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The log server answered ${response.status}.`;
  }
};

const skippedNote = (data) => {
  let lines;
  try {
    ({ lines } = JSON.parse(data));
  } catch {
    // Another log server may say it in another way.
  }
  return `${lines ? `${lines.toLocaleString('en')} lines were` : 'something was'} skipped: this page was too slow`;
};

/**
 * `on.line(text, offset)`, `on.note(text)`, `on.batch()` after some of them, `on.begin({ offset })` when a response begins, and
 * `on.state(name, message)`: connecting, live, waiting, ended, failed, signedOut.
 */
export const createStream = ({ on, source, parameters }) => {
  /** Where to go on: an event id, or an offset in bytes. */
  let lastId;
  let since;
  let controller;
  let wake;
  let isStopped = false;
  let generation = 0;

  const addressOf = (tail) => {
    const query = new URLSearchParams(parameters);
    query.delete('follow');
    if (lastId !== undefined || since !== undefined) query.delete('tail');
    else if (!query.has('since')) query.set('tail', String(tail));
    if (since !== undefined) query.set('since', String(since));
    return `/logs?${query}`;
  };

  /** Calls `take` with each chunk of text. */
  const read = async (response, connection, take) => {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let watchdog;
    let sliceEnd = performance.now() + SLICE_MS;
    try {
      for (;;) {
        if (source === 'builtin') watchdog = setTimeout(() => connection.abort(), SILENCE_MS);
        const { done, value } = await reader.read();
        clearTimeout(watchdog);
        if (done) break;
        for (let from = 0; from < value.length; from += PIECE_BYTES) {
          const piece = value.subarray(from, from + PIECE_BYTES);
          take(decoder.decode(piece, { stream: true }), piece.length);
          if (performance.now() < sliceEnd) continue;
          on.batch();
          await breathe();
          sliceEnd = performance.now() + SLICE_MS;
        }
        on.batch();
      }
    } finally {
      clearTimeout(watchdog);
    }
  };

  const createEvents = () => {
    let rest = '';
    let data;
    let type = '';
    const dispatch = () => {
      if (data !== undefined) {
        if (type === 'skipped') on.note(skippedNote(data));
        else if (type === 'reset') on.note('the log was truncated or replaced');
        // A line may have carriage returns in it, which cannot stand in one field of an event.
        else if (source === 'builtin') on.line(data.replaceAll('\n', '\r'), lastId);
        else for (const line of data.split('\n')) on.line(line, lastId);
      }
      data = undefined;
      type = '';
    };
    return (text) => {
      const fields = (rest + text).split('\n');
      rest = fields.pop();
      for (let field of fields) {
        if (field.endsWith('\r')) field = field.slice(0, -1);
        if (field === '') dispatch();
        else if (field.startsWith('data:')) {
          const value = field.slice(field[5] === ' ' ? 6 : 5);
          data = data === undefined ? value : `${data}\n${value}`;
        } else if (field.startsWith('id:')) lastId = field.slice(3).trim();
        else if (field.startsWith('event:')) type = field.slice(6).trim();
      }
    };
  };
  const createPlain = (offset) => {
    let rest = '';
    return (text, bytes) => {
      const found = (rest + text).split('\n');
      rest = found.pop();
      if (offset !== undefined) since = (since ?? offset) + bytes;
      for (const line of found) on.line(line, undefined);
    };
  };

  /** One connection. Gives what to do next: `again` at once, `wait`, or `stop`. */
  const connect = async (tail) => {
    const connection = new AbortController();
    controller = connection;
    const headers = { Accept: 'text/event-stream, text/plain;q=0.5' };
    if (lastId !== undefined) headers['Last-Event-ID'] = lastId;
    const response = await fetch(addressOf(tail), { headers, signal: connection.signal, cache: 'no-store' });
    if (response.status === 401) {
      on.state('signedOut');
      return { next: 'stop' };
    }
    if (!response.ok) {
      const message = await messageOf(response);
      if (response.status < 500 && response.status !== 429 && response.status !== 408) {
        on.state('failed', message);
        return { next: 'stop' };
      }
      return { next: 'wait', message };
    }
    on.state('live');
    const offset = response.headers.get('Log-Offset');
    on.begin({
      offset: offset === null ? undefined : Number(offset),
      isContinued: lastId !== undefined || since !== undefined,
    });
    const isEvents = /^text\/event-stream\b/i.test(response.headers.get('Content-Type') ?? '');
    await read(
      response,
      connection,
      isEvents ? createEvents() : createPlain(offset === null ? undefined : Number(offset)),
    );
    // Without a place to go on from, everything would stand twice.
    if (lastId !== undefined || since !== undefined || source === 'builtin') return { next: 'again' };
    on.state('ended');
    return { next: 'stop' };
  };

  const run = async (tail) => {
    const own = ++generation;
    let pause = FIRST_PAUSE_MS;
    on.state('connecting');
    for (;;) {
      const startedAt = performance.now();
      let outcome;
      try {
        outcome = await connect(tail);
      } catch {
        outcome = { next: 'wait', message: 'The connection was lost.' };
      }
      if (isStopped || own !== generation || outcome.next === 'stop') return;
      // A log that ends as soon as it is asked for is no reason to ask without a pause.
      if (outcome.next === 'again' && performance.now() - startedAt < FIRST_PAUSE_MS) outcome.next = 'wait';
      // A connection that lasted was no failed attempt.
      if (performance.now() - startedAt > LONGEST_PAUSE_MS) pause = FIRST_PAUSE_MS;
      on.state('waiting', outcome.message);
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, outcome.next === 'again' ? FIRST_PAUSE_MS / 4 : pause);
      });
      wake = undefined;
      if (isStopped || own !== generation) return;
      pause = Math.min(LONGEST_PAUSE_MS, pause * 1.5);
    }
  };

  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) wake?.();
  });
  return {
    /** Begins, or begins anew, with the last `tail` lines. */
    start(tail) {
      lastId = undefined;
      since = undefined;
      controller?.abort();
      void run(tail);
    },
    /** After `ended`, `failed` or `waiting`. */
    retry(tail) {
      if (wake) wake();
      else this.start(tail);
    },
    stop() {
      isStopped = true;
      controller?.abort();
      wake?.();
    },
  };
};
