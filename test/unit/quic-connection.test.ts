import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createSocket } from 'node:dgram';
import { describe, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { TransportError } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { createQuicDialer } from '../../shared/src/transport/quic.ts';
import { openPair, settle } from '../compliance/connection.ts';
import { createQuicEnds } from '../support/quic-pair.ts';
import { createUdpRelay } from '../support/udp-relay.ts';

const TEST_TIMEOUT_MS = 30_000;
const never = new AbortController().signal;

const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await wait(5);
};

describe('QUIC connections', { timeout: TEST_TIMEOUT_MS }, () => {
  test('a path that goes silent ends the connection on both sides, with an error', async () => {
    const idleTimeoutMs = 400;
    const ends = await createQuicEnds({ limits: { idleTimeoutMs, keepAliveMs: 100 } });
    const relay = await createUdpRelay(ends.listener.address.port);
    const { dialler, acceptor } = await ends.connect(relay.port);
    const { opened, accepted } = await openPair(dialler, acceptor);
    const reads = [opened.read(), accepted.read()].map((read) => assert.rejects(read, TransportError));
    relay.cut();
    for (const connection of [dialler, acceptor]) {
      const { by, error } = await connection.closed;
      assert.equal(by, 'remote');
      assert.ok(error instanceof TransportError);
      assert.ok(error.cause instanceof Error, 'the reason of the binding is kept');
    }
    await Promise.all(reads);
    await ends.close();
    await relay.close();
  });

  test('keep-alives of the dialler hold a connection, the acceptor sends none', async () => {
    const idleTimeoutMs = 400;
    const listenerLimits = { idleTimeoutMs, keepAliveMs: 50 };
    const kept = await createQuicEnds({ limits: { idleTimeoutMs, keepAliveMs: 100 }, listenerLimits });
    const silent = await createQuicEnds({ limits: { idleTimeoutMs, keepAliveMs: 60_000 }, listenerLimits });
    const [{ dialler, acceptor }, lost] = await Promise.all([kept.connect(), silent.connect()]);
    const pair = await openPair(dialler, acceptor);
    await Promise.all([lost.dialler.closed, lost.acceptor.closed]);
    await wait(idleTimeoutMs * 2);
    await settle(pair, 1);
    await Promise.all([kept.close(), silent.close()]);
  });

  test('streams and connections that nobody refers to stay open', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const ends = await createQuicEnds();
    const { acceptor, accepted } = await (async () => {
      const { dialler, acceptor } = await ends.connect();
      const { accepted } = await openPair(dialler, acceptor);
      return { acceptor, accepted };
    })();
    const fence = await ends.connect();
    const pair = await openPair(fence.dialler, fence.acceptor);
    let ended = false;
    const reading = accepted.read().finally(() => (ended = true));
    for (let round = 0; round < 5; round++) {
      collect();
      await settle(pair, 5);
    }
    assert.equal(ended, false, 'a stream without a reference ended at the peer');
    acceptor.close();
    await assert.rejects(reading, TransportError);
    await ends.close();
  });

  test('what arrives for one who gave up is handed to the next, in the order of streams', async () => {
    const ends = await createQuicEnds({ limits: { streams: 3 } });
    const { dialler, acceptor } = await ends.connect();
    const pairs = [];
    for (let count = 0; count < 3; count++) pairs.push(await openPair(dialler, acceptor));
    const controller = new AbortController();
    const given = [1, 2].map(() => dialler.openStream({ signal: controller.signal }));
    controller.abort();
    await Promise.all(given.map((promise) => assert.rejects(promise, { name: 'AbortError' })));
    // Each of these would be seen as a stream without a byte, had a number been passed over.
    for (const { opened, accepted } of pairs) {
      await Promise.all([opened.finish(), accepted.finish(), opened.read(), accepted.read()]);
    }
    for (let count = 0; count < 3; count++) await openPair(dialler, acceptor);
    await ends.close();
  });

  test('half-open handshakes hold up new ones only up to the limit, and nobody who is there', async () => {
    const handshakes = 2;
    const ends = await createQuicEnds({ listenerLimits: { handshakes, idleTimeoutMs: 1_000 } });
    const { dialler, acceptor } = await ends.connect();
    const pair = await openPair(dialler, acceptor);
    const attacker = createSocket('udp4');
    for (let count = 0; count < handshakes; count++) {
      const hole = await createUdpRelay(undefined);
      const dialer = createQuicDialer({ key: createKey() });
      const controller = new AbortController();
      const dialing = dialer.dial({ host: '127.0.0.1', port: hole.port }, { signal: controller.signal });
      await until(() => hole.seen.length > 0);
      controller.abort();
      await assert.rejects(dialing);
      dialer.close();
      attacker.send(hole.seen[0]!.bytes, ends.listener.address.port, '127.0.0.1');
      await hole.close();
    }
    await until(() => ends.listener.stats().handshaking === handshakes);
    const hasty = createQuicDialer({ key: createKey(), limits: { handshakeTimeoutMs: 200 } });
    await assert.rejects(hasty.dial(ends.listener.address, { signal: never }), /no handshake within 200 ms/);
    hasty.close();
    await settle(pair, 5);
    assert.equal(ends.listener.stats().failed, 0);
    // Their places are free again after the idle limit: one who is patient comes in.
    await ends.connect();
    assert.ok(ends.listener.stats().failed >= 1);
    assert.match(ends.errors[0]!.message, /handshake failed/);
    attacker.close();
    await once(attacker, 'close');
    await ends.close();
  });

  test('half-open handshakes beyond the calls that wait for them get further ones', async () => {
    const halfOpen = 160;
    const ends = await createQuicEnds();
    const hole = await createUdpRelay(undefined);
    const dialer = createQuicDialer({ key: createKey() });
    const controller = new AbortController();
    const dials = Array.from({ length: halfOpen }, () =>
      dialer.dial({ host: '127.0.0.1', port: hole.port }, { signal: controller.signal }),
    );
    const outcomes = Promise.allSettled(dials);
    // Long headers (RFC 9000 section 17.2): the connection id stands behind first byte, version and its length.
    const firsts = new Map<string, Buffer>();
    await until(() => {
      for (const { bytes } of hole.seen) firsts.set(bytes.toString('hex', 6, 6 + bytes[5]!), bytes);
      return firsts.size >= halfOpen;
    });
    controller.abort();
    await outcomes;
    dialer.close();
    const attacker = createSocket('udp4');
    // A socket buffer does not hold all of them at once.
    while (ends.listener.stats().handshaking < halfOpen) {
      for (const first of firsts.values()) {
        await new Promise((resolve) => attacker.send(first, ends.listener.address.port, '127.0.0.1', resolve));
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    await ends.connect();
    await hole.close();
    attacker.close();
    await once(attacker, 'close');
    await ends.close();
  });

  test('a stream limit of the peer is kept by the listener too', async () => {
    const ends = await createQuicEnds({ limits: { streams: 2 } });
    const { dialler, acceptor } = await ends.connect();
    const open = async (from: Connection, to: Connection) => {
      for (let count = 0; count < 2; count++) await openPair(from, to);
      const controller = new AbortController();
      const waiting = from.openStream({ signal: controller.signal });
      setImmediate(() => controller.abort());
      await assert.rejects(waiting, { name: 'AbortError' });
    };
    await open(dialler, acceptor);
    await open(acceptor, dialler);
    await ends.close();
  });
});
