import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { describe, test } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { QUIC_LIMITS } from '../../shared/src/transport/quic-limits.ts';
import { loadQuic } from '../../shared/src/transport/quic-native.ts';
import { createQuicDialer, listenQuic } from '../../shared/src/transport/quic.ts';
import { createQuicEnds } from '../support/quic-pair.ts';
import { createUdpRelay } from '../support/udp-relay.ts';

const TEST_TIMEOUT_MS = 30_000;
const never = new AbortController().signal;

const isTransportError =
  (by: 'local' | 'remote', message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof TransportError, String(error));
    assert.equal(error.by, by);
    assert.match(error.message, message);
    return true;
  };

/** A UDP port at which nobody listens. */
const deadPort = async (): Promise<number> => {
  const relay = await createUdpRelay(undefined);
  await relay.close();
  return relay.port;
};

/** Native configuration with a secp256k1 key: a peer that the binding accepts and we must not. */
const foreignConfig = () =>
  new (loadQuic().QuinnConfig)({
    privateKeyProto: Uint8Array.from([0x08, 0x02, 0x12, 0x20, ...new Uint8Array(32).fill(7)]),
    handshakeTimeout: QUIC_LIMITS.handshakeTimeoutMs,
    maxIdleTimeout: QUIC_LIMITS.idleTimeoutMs,
    keepAliveInterval: QUIC_LIMITS.keepAliveMs,
    maxConcurrentStreamLimit: 16,
    maxStreamData: 1 << 20,
    maxConnectionData: 1 << 20,
    receiveBufferSize: 1 << 20,
    sendBufferSize: 1 << 20,
  });

describe('QUIC dials', { timeout: TEST_TIMEOUT_MS }, () => {
  test('a dead port fails within the handshake limit', async () => {
    const dialer = createQuicDialer({ key: createKey() });
    const start = performance.now();
    await assert.rejects(
      dialer.dial({ host: '127.0.0.1', port: await deadPort() }, { signal: never }),
      isTransportError('remote', /cannot reach 127\.0\.0\.1:\d+ over QUIC: .*UDP/),
    );
    const elapsed = performance.now() - start;
    assert.ok(elapsed < QUIC_LIMITS.handshakeTimeoutMs + 1_000, `${elapsed} ms`);
    assert.ok(QUIC_LIMITS.handshakeTimeoutMs <= 5_000);
    dialer.close();
  });

  test('what is no IP address or port fails at once', async () => {
    const dialer = createQuicDialer({ key: createKey() });
    for (const [host, port] of [
      ['localhost', 4242],
      ['', 4242],
      ['[::1]', 4242],
      ['127.0.0.1', 0],
      ['127.0.0.1', 65_536],
    ] as const) {
      await assert.rejects(dialer.dial({ host, port }, { signal: never }), isTransportError('local', /cannot reach/));
    }
    dialer.close();
  });

  test('an aborted signal ends a dial with its reason, before and during', async () => {
    const hole = await createUdpRelay(undefined);
    const dialer = createQuicDialer({ key: createKey() });
    const reason = new Error('another transport was faster');
    const address = { host: '127.0.0.1', port: hole.port };
    await assert.rejects(dialer.dial(address, { signal: AbortSignal.abort(reason) }), reason);
    assert.equal(hole.seen.length, 0);
    const controller = new AbortController();
    const dialing = dialer.dial(address, { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(dialing, reason);
    dialer.close();
    await hole.close();
  });

  test('a connection that arrives after its dial was aborted is closed', async () => {
    const ends = await createQuicEnds();
    const relay = await createUdpRelay(ends.listener.address.port);
    relay.hold('toDialler');
    const controller = new AbortController();
    const dialing = ends.dialer.dial({ host: '127.0.0.1', port: relay.port }, { signal: controller.signal });
    const reason = new Error('given up');
    controller.abort(reason);
    await assert.rejects(dialing, reason);
    relay.release('toDialler');
    const acceptor = await ends.nextConnection();
    assert.deepEqual(await acceptor.closed, { by: 'remote' });
    await ends.close();
    await relay.close();
  });

  test('a closed dialer ends its dials and connections, and dials no more', async () => {
    const ends = await createQuicEnds();
    const hole = await createUdpRelay(undefined);
    const { dialler, acceptor } = await ends.connect();
    const dialing = ends.dialer.dial({ host: '127.0.0.1', port: hole.port }, { signal: never });
    ends.dialer.close();
    ends.dialer.close();
    await assert.rejects(dialing, isTransportError('local', /closed/));
    assert.deepEqual(await dialler.closed, { by: 'local' });
    assert.deepEqual(await acceptor.closed, { by: 'remote' });
    await assert.rejects(
      ends.dialer.dial(ends.listener.address, { signal: never }),
      isTransportError('local', /closed/),
    );
    await ends.close();
    await hole.close();
  });

  test('dials share a socket, until one fails on a socket that is old enough', async () => {
    const dialTwice = async (minSocketAgeMs: number): Promise<number> => {
      const hole = createSocket('udp4');
      await new Promise<void>((resolve) => hole.bind(0, '127.0.0.1', resolve));
      const ports = new Set<number>();
      hole.on('message', (_, from) => ports.add(from.port));
      const limits = { handshakeTimeoutMs: 100, idleTimeoutMs: 100, minSocketAgeMs };
      const dialer = createQuicDialer({ key: createKey(), limits });
      for (let count = 0; count < 2; count++) {
        const dialing = dialer.dial({ host: '127.0.0.1', port: hole.address().port }, { signal: never });
        await assert.rejects(dialing, TransportError);
      }
      dialer.close();
      await new Promise<void>((resolve) => hole.close(() => resolve()));
      return ports.size;
    };
    assert.equal(await dialTwice(60_000), 1);
    assert.equal(await dialTwice(0), 2);
  });
});

describe('QUIC peers', { timeout: TEST_TIMEOUT_MS }, () => {
  test('a dialler whose key is not Ed25519 is closed and counted', async () => {
    const ends = await createQuicEnds();
    const client = new (loadQuic().Client)(foreignConfig(), 0);
    const native = await client.outboundConnection('127.0.0.1', ends.listener.address.port);
    await native.closed();
    assert.equal(native.stats().frameRxConnectionClose, 1);
    const { accepted, refused, connections } = ends.listener.stats();
    assert.deepEqual({ accepted, refused, connections }, { accepted: 0, refused: 1, connections: 0 });
    assert.match(ends.errors[0]!.message, /not an Ed25519 key/);
    client.abort();
    await ends.close();
  });

  test('a server whose key is not Ed25519 is closed and refused', async () => {
    const server = new (loadQuic().Server)(foreignConfig(), '127.0.0.1', 0);
    const dialer = createQuicDialer({ key: createKey() });
    const incoming = server.inboundConnection();
    await assert.rejects(
      dialer.dial({ host: '127.0.0.1', port: server.port() }, { signal: never }),
      isTransportError('remote', /not an Ed25519 key/),
    );
    const native = await incoming;
    await native.closed();
    assert.equal(native.stats().frameRxConnectionClose, 1);
    dialer.close();
    await server.abort();
  });

  test('two servers with different keys are told apart, whatever is dialled', async () => {
    const [one, two] = await Promise.all([createQuicEnds(), createQuicEnds()]);
    for (const ends of [one, two]) {
      const connection = await one.dialer.dial(ends.listener.address, { signal: never });
      assert.deepEqual(Buffer.from(connection.peerKey!), Buffer.from(ends.keys.listener.publicKey));
    }
    await Promise.all([one.close(), two.close()]);
  });
});

describe('QUIC listener', { timeout: TEST_TIMEOUT_MS }, () => {
  test('a busy port and a wrong address say so, with the code of the system', async () => {
    const ends = await createQuicEnds();
    const { host, port } = ends.listener.address;
    const listen = (host: string, port: number) => listenQuic({ host, port, key: createKey(), onConnection: () => {} });
    const failsWith = (code: string | undefined) => (error: unknown) => {
      assert.ok(error instanceof TransportError);
      assert.equal(error.by, 'local');
      assert.equal((error.cause as NodeJS.ErrnoException | undefined)?.code, code);
      return true;
    };
    await assert.rejects(listen(host, port), failsWith('EADDRINUSE'));
    await assert.rejects(listen('192.0.2.1', 0), failsWith('EADDRNOTAVAIL'));
    await assert.rejects(listen('localhost', 0), failsWith(undefined));
    await ends.close();
  });

  test('close ends its connections, frees the port, and may be called twice', async () => {
    const ends = await createQuicEnds();
    const { dialler, acceptor } = await ends.connect();
    const { address } = ends.listener;
    await Promise.all([ends.listener.close(), ends.listener.close()]);
    assert.deepEqual(await acceptor.closed, { by: 'local' });
    assert.deepEqual(await dialler.closed, { by: 'remote' });
    // Its state stays readable: the native port() would end the process by now.
    assert.equal(ends.listener.address.port, address.port);
    assert.deepEqual(ends.listener.stats(), {
      accepted: 1,
      failed: 0,
      refused: 0,
      handshaking: 0,
      capacity: QUIC_LIMITS.handshakes,
      connections: 0,
    });
    const again = await listenQuic({ ...address, key: createKey(), onConnection: () => {} });
    await again.close();
    await ends.close();
  });

  test('IPv4 and IPv6 listen on one port side by side', async () => {
    const v6 = await listenQuic({ host: '::', port: 0, key: createKey(), onConnection: () => {} });
    const v4 = await listenQuic({ host: '0.0.0.0', port: v6.address.port, key: createKey(), onConnection: () => {} });
    await Promise.all([v4.close(), v6.close()]);
  });

  test('a handler that throws closes its connection only', async () => {
    const errors: Error[] = [];
    const fault = new Error('handler');
    const listener = await listenQuic({
      host: '127.0.0.1',
      port: 0,
      key: createKey(),
      onConnection: () => {
        throw fault;
      },
      onError: (error) => errors.push(error),
    });
    const dialer = createQuicDialer({ key: createKey() });
    for (let count = 0; count < 2; count++) {
      const connection = await dialer.dial(listener.address, { signal: never });
      assert.deepEqual(await connection.closed, { by: 'remote' });
    }
    assert.deepEqual(errors, [fault, fault]);
    dialer.close();
    await listener.close();
  });
});
