/** In which order a gateway's addresses are dialled, and when again: scripted dials, the test's clock. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createQuicConnector } from '../../tunnel-client/src/quic-connector.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { rejection } from '../support/legs.ts';
import { advanceInSteps, createManualClock, settle } from '../support/manual-clock.ts';

const GATEWAY = { id: 'gw', quic: ['192.0.2.1:4242', '192.0.2.2:4242', '[2001:db8::1]:4242'] };
const never = new AbortController().signal;

const start = () => {
  const clock = createManualClock();
  const dials: { readonly address: string; readonly at: number }[] = [];
  /** Those that answer. */
  const alive = new Set<string>();
  const connect = createQuicConnector({
    clock,
    resolver: createResolver({ clock }),
    dialer: {
      dial: ({ host }, { signal }) =>
        new Promise((resolve, reject) => {
          dials.push({ address: host, at: clock.monotonic() });
          signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
          const keys = { diallerKey: createKey().publicKey, acceptorKey: createKey().publicKey };
          if (alive.has(host)) resolve(memoryConnectionPair(keys).dialler);
        }),
    },
  });
  return {
    clock,
    dials,
    alive,
    connect: (signal = never) => connect(GATEWAY, { signal }),
    take: () => dials.splice(0).map(({ address }) => address),
  };
};

describe('addresses of a gateway', () => {
  it('are dialled 250 ms apart, families in turn, and all of them again every 1.25 s', async () => {
    const { clock, dials, connect } = start();
    const failed = rejection(connect());
    await advanceInSteps(clock, 2_000, 250);
    assert.deepEqual(dials, [
      { address: '192.0.2.1', at: 0 },
      { address: '2001:db8::1', at: 250 },
      { address: '192.0.2.2', at: 500 },
      { address: '192.0.2.1', at: 1_250 },
      { address: '2001:db8::1', at: 1_500 },
      { address: '192.0.2.2', at: 1_750 },
    ]);
    await advanceInSteps(clock, 4_000, 250);
    const error = await failed;
    assert.ok(error instanceof TransportError);
    assert.match(
      error.message,
      /tried 192\.0\.2\.1:4242, \[2001:db8::1\]:4242, 192\.0\.2\.2:4242.*no answer within 5 s/,
    );
  });

  it('are passed over when they are silent while another one answers, and tried in turn again after a minute', async () => {
    const { clock, alive, connect, take } = start();
    alive.add('192.0.2.2');
    const first = connect();
    await advanceInSteps(clock, 500, 250);
    (await first).close();
    assert.deepEqual(take(), ['192.0.2.1', '2001:db8::1', '192.0.2.2']);
    const second = connect();
    await settle();
    (await second).close();
    assert.deepEqual(take(), ['192.0.2.2'], 'the one that answers is first now');

    // It goes, and one that was dead is back: it is not forgotten.
    alive.clear();
    alive.add('192.0.2.1');
    const third = connect();
    await advanceInSteps(clock, 500, 250);
    (await third).close();
    assert.deepEqual(take(), ['192.0.2.2', '192.0.2.1']);
    await advanceInSteps(clock, 61_000, 1_000);
    const fourth = connect();
    await settle();
    (await fourth).close();
    assert.deepEqual(take(), ['192.0.2.1']);
  });
});
