/**
 * What every transport's {@link Connection} must do. A transport's own test file only makes pairs of connections:
 * `connection-<transport>.test.ts`.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import type { Connection, TransportStream } from '../../shared/src/transport/connection.ts';

export interface ConnectionPair {
  readonly dialler: Connection;
  readonly acceptor: Connection;
  /** Public keys of both sides where the transport proves them. */
  readonly keys: { readonly dialler: Uint8Array; readonly acceptor: Uint8Array } | undefined;
  /** Frees what the pair was made of. */
  close(): Promise<void>;
}

export interface ConnectionTraits {
  /** Streams that one side may have open at once; undefined where there is no limit that a test could reach. */
  readonly streams: number | undefined;
  /** Bytes that a writer gets rid of at most while nobody reads; undefined where the transport buffers without end. */
  readonly unreadBytes: number | undefined;
}

const TEST_TIMEOUT_MS = 30_000;
const never = new AbortController().signal;
const bytes = (text: string): Uint8Array => Buffer.from(text);

/** Everything until the clean end of the stream. */
export const readAll = async (stream: TransportStream): Promise<Buffer> => {
  const parts: Uint8Array[] = [];
  for (let part = await stream.read(); part !== null; part = await stream.read()) parts.push(part);
  return Buffer.concat(parts);
};

/** Exactly `length` bytes, where the sender sends no more before it gets an answer. */
const readExactly = async (stream: TransportStream, length: number): Promise<string> => {
  let text = '';
  while (text.length < length) {
    const part = await stream.read();
    assert.ok(part !== null, `the stream ended after ${text.length} of ${length} bytes`);
    text += Buffer.from(part).toString('latin1');
  }
  return text;
};

/** A stream open on both sides; its first byte has gone from `from` to `to`. */
export const openPair = async (
  from: Connection,
  to: Connection,
): Promise<{ readonly opened: TransportStream; readonly accepted: TransportStream }> => {
  const opened = await from.openStream({ signal: never });
  const [accepted] = await Promise.all([to.acceptStream({ signal: never }), opened.write(bytes('!'))]);
  assert.equal(await readExactly(accepted, 1), '!');
  return { opened, accepted };
};

/** Round trips over a stream: whatever else was going to happen at once has happened by then. */
export const settle = async (
  pair: { opened: TransportStream; accepted: TransportStream },
  rounds = 50,
): Promise<void> => {
  for (let round = 0; round < rounds; round++) {
    await pair.opened.write(bytes('?'));
    await readExactly(pair.accepted, 1);
    await pair.accepted.write(bytes('.'));
    await readExactly(pair.opened, 1);
    await new Promise((resolve) => setImmediate(resolve));
  }
};

const watch = <T>(promise: Promise<T>): { settled: boolean } => {
  const state = { settled: false };
  const settled = (): void => void (state.settled = true);
  promise.then(settled, settled);
  return state;
};

const rejectsAs = (promise: Promise<unknown>, by: 'local' | 'remote', message?: string): Promise<void> =>
  assert.rejects(
    promise,
    (error) => {
      assert.ok(error instanceof TransportError, `${String(error)} is no TransportError`);
      assert.equal(error.by, by);
      return true;
    },
    message,
  );

type Use = (body: (pair: ConnectionPair) => Promise<void>) => () => Promise<void>;

const opening = (use: Use): void => {
  test(
    'both sides open, both sides accept, at the same time',
    use(async ({ dialler, acceptor }) => {
      const [one, two] = await Promise.all([openPair(dialler, acceptor), openPair(acceptor, dialler)]);
      await Promise.all([settle(one, 3), settle(two, 3)]);
    }),
  );

  test(
    'a stream is seen by the peer with its first byte',
    use(async ({ dialler, acceptor }) => {
      const fence = await openPair(dialler, acceptor);
      const accepting = acceptor.acceptStream({ signal: never });
      const state = watch(accepting);
      const stream = await dialler.openStream({ signal: never });
      await stream.write(new Uint8Array(0));
      await settle(fence);
      assert.equal(state.settled, false, 'the stream was seen before its first byte');
      await stream.write(bytes('a'));
      assert.equal(await readExactly(await accepting, 1), 'a');
    }),
  );

  test(
    'streams wait for a late acceptor',
    use(async ({ dialler, acceptor }) => {
      const opened = await dialler.openStream({ signal: never });
      await opened.write(bytes('early'));
      await opened.finish();
      assert.equal((await readAll(await acceptor.acceptStream({ signal: never }))).toString(), 'early');
    }),
  );

  test(
    'many streams, one after the other and side by side',
    use(async ({ dialler, acceptor }) => {
      const answer = async (stream: TransportStream): Promise<void> => {
        await stream.write(await readAll(stream));
        await stream.finish();
      };
      const serve = async (): Promise<void> => {
        const answers: Promise<void>[] = [];
        for (let count = 0; count < 200; count++) answers.push(answer(await acceptor.acceptStream({ signal: never })));
        await Promise.all(answers);
      };
      const ask = async (id: number): Promise<void> => {
        const stream = await dialler.openStream({ signal: never });
        await stream.write(bytes(`stream ${id}`));
        await stream.finish();
        assert.equal((await readAll(stream)).toString(), `stream ${id}`);
      };
      const asking = (async () => {
        for (let first = 0; first < 200; first += 10) {
          await Promise.all(Array.from({ length: 10 }, (_, offset) => ask(first + offset)));
        }
      })();
      await Promise.all([serve(), asking]);
    }),
  );
};

const bytesAndEnds = (use: Use): void => {
  test(
    'bytes arrive complete and in order, whatever the sizes of writes',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      const sent = createHash('sha256');
      const send = async (): Promise<void> => {
        for (const size of [1, 0, 4_095, 4_096, 4_097, 100_000, 7, 1 << 20, 65_536, 3]) {
          const part = Buffer.alloc(size, size % 251);
          sent.update(part);
          await opened.write(part);
          part.fill(0xee); // taken: the caller may use its memory again
        }
        await opened.finish();
      };
      const [got] = await Promise.all([readAll(accepted), send()]);
      assert.equal(createHash('sha256').update(got).digest('hex'), sent.digest('hex'));
    }),
  );

  test(
    'what was read belongs to the reader',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      await opened.write(bytes('first'));
      const first = await accepted.read();
      await opened.write(bytes('other'));
      await accepted.read();
      assert.equal(Buffer.from(first!).toString(), 'first');
    }),
  );

  test(
    'the side that opened ends its direction and goes on reading',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      await opened.finish();
      assert.equal(await accepted.read(), null);
      assert.equal(await accepted.read(), null, 'the end stays the end');
      await accepted.write(bytes('answer'));
      await accepted.finish();
      assert.equal((await readAll(opened)).toString(), 'answer');
    }),
  );

  test(
    'the side that accepted ends its direction and goes on reading',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      await accepted.finish();
      assert.equal(await opened.read(), null);
      await opened.write(bytes('more'));
      await opened.finish();
      assert.equal((await readAll(accepted)).toString(), 'more');
    }),
  );

  test(
    'finish may be called twice, write after it is refused',
    use(async ({ dialler, acceptor }) => {
      const { opened } = await openPair(dialler, acceptor);
      await opened.finish();
      await opened.finish();
      await rejectsAs(opened.write(bytes('x')), 'local');
    }),
  );

  test(
    'one read and one write at a time',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      const first = accepted.read();
      await rejectsAs(accepted.read(), 'local');
      await opened.write(bytes('for the first'));
      assert.equal(Buffer.from((await first)!).toString(), 'for the first');
    }),
  );
};

const resets = (use: Use): void => {
  test(
    'a reset discards both directions on both sides',
    use(async ({ dialler, acceptor }) => {
      for (const [from, to] of [
        [dialler, acceptor],
        [acceptor, dialler],
      ] as const) {
        const { opened, accepted } = await openPair(from, to);
        const localRead = opened.read();
        const remoteRead = accepted.read();
        opened.reset();
        opened.reset();
        await rejectsAs(localRead, 'local', 'a read under way ends');
        await rejectsAs(opened.read(), 'local');
        await rejectsAs(opened.write(bytes('x')), 'local');
        await rejectsAs(opened.finish(), 'local');
        await rejectsAs(remoteRead, 'remote');
        await rejectsAs(accepted.read(), 'remote', 'a reset never turns into a clean end');
        await rejectsAs(accepted.write(bytes('x')), 'remote');
      }
    }),
  );

  test(
    'a writer learns of a reset though it does not read',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      accepted.reset();
      await rejectsAs(
        (async () => {
          for (;;) await opened.write(new Uint8Array(1 << 10));
        })(),
        'remote',
      );
    }),
  );

  test(
    'a writer learns of a reset by a side that was reading',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      const reading = accepted.read();
      accepted.reset();
      await rejectsAs(reading, 'local');
      await rejectsAs(
        (async () => {
          for (;;) await opened.write(new Uint8Array(1 << 10));
        })(),
        'remote',
      );
    }),
  );

  test(
    'a reset leaves other streams alone',
    use(async ({ dialler, acceptor }) => {
      const other = await openPair(dialler, acceptor);
      const { opened, accepted } = await openPair(dialler, acceptor);
      await opened.write(new Uint8Array(1 << 16));
      opened.reset();
      await rejectsAs(readAll(accepted), 'remote');
      await settle(other, 3);
    }),
  );
};

/** A test of something that not every transport has: there is none where it is undefined. */
const testWith = (trait: number | undefined) => (name: string, run: () => Promise<void>) => {
  if (trait !== undefined) void test(name, run);
};

const limits = (use: Use, traits: ConnectionTraits): void => {
  testWith(traits.unreadBytes)(
    'a reader that stops stops the writer, and nobody else',
    use(async ({ dialler, acceptor }) => {
      const most = traits.unreadBytes!;
      const other = await openPair(dialler, acceptor);
      const { opened, accepted } = await openPair(dialler, acceptor);
      const part = new Uint8Array(64 << 10).fill(7);
      const total = most * 2;
      let written = 0;
      const writing = (async () => {
        for (; written < total; written += part.length) await opened.write(part);
        await opened.finish();
      })();
      const state = watch(writing);
      for (let before = -1; before !== written;) {
        before = written;
        await settle(other);
      }
      assert.equal(state.settled, false);
      assert.ok(written > 0 && written <= most, `${written} bytes were taken unread, at most ${most} are allowed`);
      let got = 0;
      for (let read = await accepted.read(); read !== null; read = await accepted.read()) got += read.length;
      await writing;
      assert.equal(got, total);
    }),
  );

  testWith(traits.unreadBytes)(
    'a reset ends a write that waits for the reader',
    use(async ({ dialler, acceptor }) => {
      const other = await openPair(dialler, acceptor);
      const { opened, accepted } = await openPair(dialler, acceptor);
      const writing = opened.write(new Uint8Array(traits.unreadBytes! * 2));
      const state = watch(writing);
      await settle(other);
      assert.equal(state.settled, false);
      opened.reset();
      await rejectsAs(writing, 'local');
      await rejectsAs(readAll(accepted), 'remote', 'the peer must not see a clean end');
    }),
  );

  testWith(traits.streams)(
    'a stream beyond the limit waits until others have ended',
    use(async ({ dialler, acceptor }) => {
      const pairs = [];
      for (let count = 0; count < traits.streams!; count++) pairs.push(await openPair(dialler, acceptor));
      const opening = dialler.openStream({ signal: never });
      const state = watch(opening);
      await settle(pairs[0]!);
      assert.equal(state.settled, false);
      const reverse = await openPair(acceptor, dialler);
      await settle(reverse, 1);
      // Half of them: a transport need not give back each place by itself.
      for (const { opened, accepted } of pairs.slice(0, traits.streams! / 2)) {
        await opened.finish();
        await accepted.finish();
        await Promise.all([readAll(opened), readAll(accepted)]);
      }
      const stream = await opening;
      const [accepted] = await Promise.all([acceptor.acceptStream({ signal: never }), stream.write(bytes('in'))]);
      assert.equal(await readExactly(accepted, 2), 'in');
    }),
  );

  testWith(traits.streams)(
    'streams that were reset make room as well',
    use(async ({ dialler, acceptor }) => {
      for (let round = 0; round < 3; round++) {
        for (let count = 0; count < traits.streams!; count++) {
          const { opened, accepted } = await openPair(dialler, acceptor);
          const remoteRead = accepted.read();
          opened.reset();
          await rejectsAs(remoteRead, 'remote');
        }
      }
    }),
  );
};

const signals = (use: Use, traits: ConnectionTraits): void => {
  const reason = new Error('the caller has changed its mind');

  test(
    'signals that are aborted already',
    use(async ({ dialler }) => {
      const signal = AbortSignal.abort(reason);
      await assert.rejects(dialler.openStream({ signal }), reason);
      await assert.rejects(dialler.acceptStream({ signal }), reason);
    }),
  );

  test(
    'an aborted acceptStream loses no stream',
    use(async ({ dialler, acceptor }) => {
      const controller = new AbortController();
      const given = [1, 2].map(() => acceptor.acceptStream({ signal: controller.signal }));
      controller.abort(reason);
      for (const promise of given) await assert.rejects(promise, reason);
      for (const text of ['a', 'b', 'c']) {
        const opened = await dialler.openStream({ signal: never });
        await opened.write(bytes(text));
        assert.equal(await readExactly(await acceptor.acceptStream({ signal: never }), 1), text);
      }
    }),
  );

  testWith(traits.streams)(
    'an aborted openStream takes no place',
    use(async ({ dialler, acceptor }) => {
      const pairs = [];
      for (let count = 0; count < traits.streams!; count++) pairs.push(await openPair(dialler, acceptor));
      const controller = new AbortController();
      const given = Array.from({ length: traits.streams! }, () => dialler.openStream({ signal: controller.signal }));
      controller.abort(reason);
      for (const promise of given) await assert.rejects(promise, reason);
      for (const { opened, accepted } of pairs) {
        await Promise.all([opened.finish(), accepted.finish()]);
        await Promise.all([readAll(opened), readAll(accepted)]);
      }
      for (let count = 0; count < traits.streams! / 2; count++) await openPair(dialler, acceptor);
    }),
  );
};

const ends = (use: Use): void => {
  for (const closes of ['dialler', 'acceptor'] as const) {
    test(
      `the ${closes} closes: everything under way ends on both sides`,
      use(async ({ dialler, acceptor }) => {
        const [here, there] = closes === 'dialler' ? [dialler, acceptor] : [acceptor, dialler];
        const { opened, accepted } = await openPair(here, there);
        const checks = [
          rejectsAs(opened.read(), 'local', 'local read'),
          rejectsAs(accepted.read(), 'remote', 'remote read'),
          rejectsAs(here.acceptStream({ signal: never }), 'local', 'local accept'),
          rejectsAs(there.acceptStream({ signal: never }), 'remote', 'remote accept'),
        ];
        here.close();
        here.close(new Error('too late'));
        assert.deepEqual(await here.closed, { by: 'local' });
        assert.deepEqual(await there.closed, { by: 'remote' });
        await Promise.all(checks);
        await rejectsAs(here.openStream({ signal: never }), 'local');
        await rejectsAs(there.openStream({ signal: never }), 'remote');
        await rejectsAs(opened.write(bytes('x')), 'local');
        await rejectsAs(accepted.write(bytes('x')), 'remote');
        await rejectsAs(accepted.finish(), 'remote');
        opened.reset();
        accepted.reset();
      }),
    );
  }

  test(
    'an end with an error tells it on the side that ended',
    use(async ({ dialler, acceptor }) => {
      const error = new Error('a frame beyond its credit');
      acceptor.close(error);
      assert.deepEqual(await acceptor.closed, { by: 'local', error });
      assert.equal((await dialler.closed).by, 'remote');
    }),
  );

  test(
    'both sides close at once: each ended it',
    use(async ({ dialler, acceptor }) => {
      dialler.close();
      acceptor.close();
      assert.equal((await dialler.closed).by, 'local');
      const { by } = await acceptor.closed;
      assert.ok(by === 'local' || by === 'remote');
    }),
  );

  test(
    'a write that waits ends with the connection',
    use(async ({ dialler, acceptor }) => {
      const { opened } = await openPair(dialler, acceptor);
      const writing = (async () => {
        for (;;) await opened.write(new Uint8Array(1 << 20));
      })();
      const failing = rejectsAs(writing, 'remote');
      acceptor.close();
      await failing;
    }),
  );
};

const identity = (use: Use): void => {
  test(
    'each side knows the key of the other, and its address',
    use(async ({ dialler, acceptor, keys }) => {
      for (const [connection, key] of [
        [dialler, keys?.acceptor],
        [acceptor, keys?.dialler],
      ] as const) {
        assert.deepEqual(connection.peerKey && Buffer.from(connection.peerKey), key && Buffer.from(key));
        assert.match(connection.remoteAddress, /^(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]|memory):\d+$/);
      }
      assert.equal(dialler.transport, acceptor.transport);
    }),
  );

  test(
    'stats grow with what arrives, and stay readable after the end',
    use(async ({ dialler, acceptor }) => {
      const { opened, accepted } = await openPair(dialler, acceptor);
      const before = acceptor.stats();
      const payload = 100_000;
      await Promise.all([opened.write(new Uint8Array(payload)).then(() => opened.finish()), readAll(accepted)]);
      const now = acceptor.stats();
      assert.ok(now.received > before.received);
      assert.ok(now.bytesReceived - before.bytesReceived >= payload);
      assert.ok(dialler.stats().bytesSent >= payload);
      assert.ok(now.rttMs === undefined || now.rttMs >= 0);
      acceptor.close();
      await Promise.all([acceptor.closed, dialler.closed]);
      assert.ok(acceptor.stats().received >= now.received);
      assert.ok(dialler.stats().bytesSent >= payload);
    }),
  );
};

/** Runs the suite. `makePair` gives a fresh pair for each test. */
export const connectionCompliance = (
  name: string,
  makePair: () => Promise<ConnectionPair>,
  traits: ConnectionTraits,
): void => {
  const use: Use = (body) => async () => {
    const pair = await makePair();
    try {
      await body(pair);
    } finally {
      pair.dialler.close();
      pair.acceptor.close();
      await Promise.all([pair.dialler.closed, pair.acceptor.closed]);
      await pair.close();
    }
  };
  describe(`connection: ${name}`, { timeout: TEST_TIMEOUT_MS }, () => {
    describe('opening and accepting', () => opening(use));
    describe('bytes and half-close', () => bytesAndEnds(use));
    describe('reset', () => resets(use));
    describe('limits', () => limits(use, traits));
    describe('signals', () => signals(use, traits));
    describe('the end', () => ends(use));
    describe('identity and stats', () => identity(use));
  });
};
