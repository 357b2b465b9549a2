/** What hostile datagrams do, seen on the wire (threats 24, 26, 27 and 30). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { createKey } from '../../shared/src/identity/keys.ts';
import { createQuicDialer } from '../../shared/src/transport/quic.ts';
import { openPair, settle } from '../compliance/connection.ts';
import { createQuicEnds } from '../support/quic-pair.ts';
import { createUdpRelay } from '../support/udp-relay.ts';

const TEST_TIMEOUT_MS = 30_000;
/** RFC 9000 section 14.1: a datagram with an Initial packet has at least this many bytes. */
const MIN_INITIAL_BYTES = 1_200;

const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await wait(5);
};

/** The first datagram of a dial, which no server has seen yet. */
const captureInitial = async (): Promise<Buffer> => {
  const hole = await createUdpRelay(undefined);
  const dialer = createQuicDialer({ key: createKey() });
  const controller = new AbortController();
  const dialing = dialer.dial({ host: '127.0.0.1', port: hole.port }, { signal: controller.signal });
  await until(() => hole.seen.length > 0);
  controller.abort();
  await assert.rejects(dialing);
  dialer.close();
  await hole.close();
  return hole.seen[0]!.bytes;
};

/** A socket that counts what it is sent. */
const createAttacker = () => {
  const socket: Socket = createSocket('udp4');
  let received = 0;
  socket.on('message', (bytes) => (received += bytes.length));
  return {
    received: () => received,
    send: (bytes: Uint8Array, port: number): Promise<void> =>
      new Promise((resolve) => socket.send(bytes, port, '127.0.0.1', () => resolve())),
    close: async () => {
      socket.close();
      await once(socket, 'close');
    },
  };
};

/** A variable-length integer at `offset` (RFC 9000 section 16): its value and the offset behind it. */
const readVarint = (bytes: Buffer, offset: number): [value: number, next: number] => {
  const length = 1 << (bytes[offset]! >> 6);
  let value = bytes[offset]! & 0x3f;
  for (let index = 1; index < length; index++) value = value * 256 + bytes[offset + index]!;
  return [value, offset + length];
};

/** Types of the long-header packets in a datagram (RFC 9000 section 17.2): 0 Initial, 1 0-RTT, 2 Handshake, 3 Retry. */
const longPacketTypes = (bytes: Buffer): number[] => {
  const types: number[] = [];
  for (let offset = 0; offset < bytes.length && (bytes[offset]! & 0x80) !== 0;) {
    const type = (bytes[offset]! >> 4) & 3;
    types.push(type);
    let next = offset + 5;
    next += 1 + bytes[next]!;
    next += 1 + bytes[next]!;
    if (type === 0) {
      const [tokenLength, behind] = readVarint(bytes, next);
      next = behind + tokenLength;
    }
    const [length, behind] = readVarint(bytes, next);
    offset = behind + length;
  }
  return types;
};

describe('QUIC on the wire', { timeout: TEST_TIMEOUT_MS }, () => {
  test('0-RTT is never sent, also not to a server that is known', async () => {
    const ends = await createQuicEnds();
    const relay = await createUdpRelay(ends.listener.address.port);
    for (let count = 0; count < 3; count++) {
      const { dialler, acceptor } = await ends.connect(relay.port);
      await settle(await openPair(dialler, acceptor), 3);
      dialler.close();
      await acceptor.closed;
    }
    const types = relay.seen
      .filter(({ direction }) => direction === 'toServer')
      .flatMap(({ bytes }) => longPacketTypes(bytes));
    assert.ok(types.filter((type) => type === 0).length >= 3, 'Initial packets are seen');
    assert.ok(types.includes(2), 'Handshake packets are seen');
    assert.ok(!types.includes(1), '0-RTT packets');
    await ends.close();
    await relay.close();
  });

  test('an address that has not answered gets three times what it sent, and less than a datagram more', async () => {
    const ends = await createQuicEnds({ listenerLimits: { idleTimeoutMs: 1_000 } });
    const initial = await captureInitial();
    assert.ok(initial.length >= MIN_INITIAL_BYTES);
    const attacker = createAttacker();
    await attacker.send(initial, ends.listener.address.port);
    await until(() => ends.listener.stats().failed === 1); // given up: nothing is sent any more
    // The binding starts a datagram while any of the three-fold is left (RFC 9000 section 8.1 has no such grace).
    assert.ok(attacker.received() > 0);
    assert.ok(attacker.received() < initial.length * 3 + MIN_INITIAL_BYTES, `${attacker.received()} bytes`);
    await attacker.close();
    await ends.close();
  });

  test('a first datagram of less than 1,200 bytes is dropped without an answer', async () => {
    const ends = await createQuicEnds();
    const initial = await captureInitial();
    const attacker = createAttacker();
    for (const length of [MIN_INITIAL_BYTES - 1, 600, 20, 1]) {
      await attacker.send(initial.subarray(0, length), ends.listener.address.port);
    }
    const { dialler, acceptor } = await ends.connect();
    await settle(await openPair(dialler, acceptor));
    assert.equal(attacker.received(), 0);
    const { handshaking, failed } = ends.listener.stats();
    assert.deepEqual({ handshaking, failed }, { handshaking: 0, failed: 0 });
    await attacker.close();
    await ends.close();
  });

  test('forged stateless resets and noise are ignored, by both sides', async () => {
    const ends = await createQuicEnds();
    const relay = await createUdpRelay(ends.listener.address.port);
    const { dialler, acceptor } = await ends.connect(relay.port);
    const pair = await openPair(dialler, acceptor);
    const real = relay.seen.findLast(({ bytes }) => (bytes[0]! & 0x80) === 0)!.bytes;
    for (let count = 0; count < 50; count++) {
      for (const direction of ['toServer', 'toDialler'] as const) {
        // Looks like a stateless reset (RFC 9000 section 10.3): a short header, noise, a token of 16 bytes.
        const reset = randomBytes(41 + count);
        reset[0] = 0x40 | (reset[0]! & 0x3f);
        await relay.forge(direction, reset);
        // The connection id of a real packet, and a token that is wrong.
        await relay.forge(direction, Buffer.concat([real.subarray(0, 9), randomBytes(32)]));
        await relay.forge(direction, randomBytes(1 + count * 20));
      }
    }
    await settle(pair);
    await ends.close();
    await relay.close();
  });

  test('noise at the listener keeps nobody out', async () => {
    const ends = await createQuicEnds({ listenerLimits: { handshakes: 64 } });
    const { dialler, acceptor } = await ends.connect();
    const pair = await openPair(dialler, acceptor);
    const initial = await captureInitial();
    const attacker = createAttacker();
    for (let count = 0; count < 500; count++) {
      const broken = Buffer.from(initial);
      randomBytes(8).copy(broken, 6); // another connection id: the packet cannot be decrypted
      randomBytes(400).copy(broken, 400);
      await attacker.send(broken, ends.listener.address.port);
      await attacker.send(randomBytes(1_200), ends.listener.address.port);
    }
    await settle(pair, 5);
    const next = await ends.connect();
    await settle(await openPair(next.dialler, next.acceptor), 1);
    await attacker.close();
    await ends.close();
  });
});
