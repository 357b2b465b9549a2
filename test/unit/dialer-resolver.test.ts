/** Names to addresses: one slow name must not hold up the others. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createResolver, RESOLVE_TIMEOUT_MS, ResolveError } from '../../tunnel-client/src/resolver.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';
import { never, rejection } from '../support/legs.ts';

const hangs = (): Promise<never> => new Promise(() => undefined);
const codeOf = (error: unknown): string | undefined => (error instanceof ResolveError ? error.code : undefined);

describe('resolver', () => {
  it('asks nobody for addresses and for names that end in .localhost', async () => {
    const resolver = createResolver({ clock: createManualClock(), lookup: hangs, query: hangs });
    assert.deepEqual(await resolver.resolve('10.0.0.1', { signal: never }), [{ address: '10.0.0.1', family: 4 }]);
    assert.deepEqual(await resolver.resolve('::1', { signal: never }), [{ address: '::1', family: 6 }]);
    for (const name of ['localhost', 'api.gateway.localhost', 'A.LOCALHOST', 'a.localhost.']) {
      const addresses = (await resolver.resolve(name, { signal: never })).map(({ address }) => address);
      assert.deepEqual(addresses, ['127.0.0.1', '::1'], name);
    }
  });

  it('resolves a real name of this machine, and says when there is none', async () => {
    const resolver = createResolver({ clock: createManualClock() });
    const error = await rejection(resolver.resolve('no-such-name.invalid', { signal: never }));
    assert.ok(['not_found', 'failed'].includes(codeOf(error) ?? ''), String(error));
  });

  it('asks once for all who wait, and uses an answer for 5 s', async () => {
    const clock = createManualClock();
    let asked = 0;
    const resolver = createResolver({
      clock,
      lookup: () => {
        asked += 1;
        return Promise.resolve([{ address: '10.0.0.1', family: 4 }]);
      },
    });
    const ask = () => resolver.resolve('a.test', { signal: never });
    await Promise.all([ask(), ask(), ask()]);
    await clock.advance(4_999);
    await ask();
    assert.equal(asked, 1);
    await clock.advance(1);
    await ask();
    assert.equal(asked, 2);
    resolver.forget('a.test');
    await ask();
    assert.equal(asked, 3);
  });

  it('gives up after its time limit, and on an aborted signal at once', async () => {
    const clock = createManualClock();
    const resolver = createResolver({ clock, lookup: hangs, query: hangs });
    const slow = rejection(resolver.resolve('slow.test', { signal: never }));
    const abort = new AbortController();
    const aborted = rejection(resolver.resolve('slow.test', { signal: abort.signal }));
    abort.abort(new Error('gone'));
    assert.equal(((await aborted) as Error).message, 'gone');
    await clock.advance(RESOLVE_TIMEOUT_MS);
    assert.equal(codeOf(await slow), 'timeout');
    assert.ok(RESOLVE_TIMEOUT_MS < 5_000);
  });

  it('resolves other names while many slow ones hang', async () => {
    const resolver = createResolver({
      clock: createManualClock(),
      lookup: (host) => (host.startsWith('slow') ? hangs() : Promise.resolve([{ address: '10.0.0.1', family: 4 }])),
      query: (host) => (host.startsWith('slow') ? hangs() : Promise.resolve([{ address: '10.0.0.2', family: 4 }])),
    });
    const abort = new AbortController();
    const slow = Array.from({ length: 50 }, (_, index) =>
      rejection(resolver.resolve(`slow-${index}.test`, { signal: abort.signal })),
    );
    await settle();
    assert.deepEqual(await resolver.resolve('fast.test', { signal: never }), [{ address: '10.0.0.2', family: 4 }]);
    abort.abort(new Error('end of the test'));
    await Promise.all(slow);
  });
});
