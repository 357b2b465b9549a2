/** What the adapter has to hide of the WebTransport library, trap by trap, and what hostile peers get. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import type { Connection, TransportStream } from '../../shared/src/transport/connection.ts';
import { dialWebTransport } from '../../shared/src/transport/webtransport.ts';
import { WEBTRANSPORT_LIMITS, type WebTransportLimits } from '../../shared/src/transport/webtransport-limits.ts';
import { loadWebTransport } from '../../shared/src/transport/webtransport-native.ts';
import { CAPSULE, capsule, onStream, openRawTunnel, varint, type RawTunnel } from '../support/capsules.ts';
import { rejection } from '../support/legs.ts';
import { createTlsEnds, createWebTransportEnds, type TunnelEnds } from '../support/tcp-pair.ts';

const ROOT = join(import.meta.dirname, '../..');
const MIB = 1 << 20;
const never = new AbortController().signal;

/** Bytes until `length` of them are there. */
const read = async (stream: TransportStream, length: number): Promise<Buffer> => {
  const parts: Uint8Array[] = [];
  for (let got = 0; got < length; got += parts.at(-1)!.length) {
    const part = await stream.read();
    assert.ok(part !== null, `the stream ended after ${got} of ${length} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
};

describe('the WebTransport library', () => {
  it('has the internals that the adapter uses', async () => {
    const { Http2Server, WebTransport } = await loadWebTransport();
    const server = new Http2Server({ port: 0, host: 'none', secret: 'none', cert: [], privKey: [] });
    void server.createTransportInt();
    const { serverInt } = server.transportInt;
    assert.equal(serverInt.listeners('stream').length, 1);
    assert.equal(typeof server.transportInt.addPath, 'function');
    assert.deepEqual(server.sessionController, {});
    assert.equal(typeof WebTransport.prototype.createClient, 'function');
    const { client, sessionint } = WebTransport.prototype.createClient({ forceReliable: true, host: 'x', port: '1' });
    assert.equal(typeof client.args.createReliableClient(client).createTransport, 'function');
    for (const name of ['onClientConnected', 'onClientWebTransportSupport'] as const) {
      assert.equal(typeof client[name], 'function');
    }
    for (const name of ['onStream', 'onClose', 'onDatagramReceived', 'setSessionObj'] as const) {
      assert.equal(typeof sessionint[name], 'function');
    }
    sessionint.ready.catch(() => {});
    sessionint.closed.catch(() => {});
  });

  it('is loaded without a word on the console, though its HTTP/3 half is missing', () => {
    const path = join(ROOT, 'shared/src/transport/webtransport-native.ts');
    const script = `const { loadWebTransport } = await import(${JSON.stringify(path)}); await loadWebTransport();`;
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    assert.deepEqual([stdout, stderr, status], ['', '', 0]);
  });
});

describe('WebTransport', () => {
  const opened: TunnelEnds[] = [];
  const connections: Connection[] = [];
  afterEach(async () => {
    for (const connection of connections.splice(0)) connection.close();
    for (const ends of opened.splice(0)) await ends.close();
  });
  const start = async (limits?: Partial<WebTransportLimits>): Promise<TunnelEnds> => {
    const ends = await createWebTransportEnds(limits ? { limits } : {});
    opened.push(ends);
    return ends;
  };
  const connect = async (ends: TunnelEnds) => {
    const pair = await ends.connect();
    connections.push(pair.dialler, pair.acceptor);
    return pair;
  };
  const openRaw = async (): Promise<RawTunnel & { readonly acceptor: Connection; readonly ends: TunnelEnds }> => {
    const ends = await start();
    const [raw, acceptor] = await Promise.all([openRawTunnel(ends.tls), ends.nextConnection()]);
    connections.push(acceptor);
    return { ...raw, acceptor, ends };
  };

  it('sets the windows of HTTP/2 at both ends, not only those of WebTransport', async () => {
    const ends = await start();
    const socket = await ends.tls.connect();
    const session = connectHttp2(`https://${ends.tls.authority}`, { createConnection: () => socket });
    const [settings] = (await once(session, 'remoteSettings')) as [{ initialWindowSize: number }];
    assert.equal(settings.initialWindowSize, WEBTRANSPORT_LIMITS.http2StreamWindowBytes);
    // The connection's window comes as an update of its own.
    await new Promise((resolve) => session.ping(resolve));
    assert.equal(session.state.remoteWindowSize, WEBTRANSPORT_LIMITS.http2ConnectionWindowBytes);
    session.destroy();
  });

  it('carries 32 MiB on the first stream that the server opens', async () => {
    const { dialler, acceptor } = await connect(await start());
    const body = randomBytes(32 * MIB);
    const stream = await acceptor.openStream({ signal: never });
    const accepting = dialler.acceptStream({ signal: never });
    const sending = (async () => {
      for (let at = 0; at < body.length; at += 128 << 10) await stream.write(body.subarray(at, at + (128 << 10)));
    })();
    assert.ok(body.equals(await read(await accepting, body.length)));
    await sending;
  });

  it('gives credit back for what was unread when a stream is reset', async () => {
    const { dialler, acceptor } = await connect(await start());
    // More in sum than the window of the session.
    for (let round = 0; round < 20; round++) {
      const stream = await dialler.openStream({ signal: never });
      await stream.write(new Uint8Array(2 * MIB));
      const accepted = await acceptor.acceptStream({ signal: never });
      (round % 2 === 0 ? stream : accepted).reset();
    }
    const last = await dialler.openStream({ signal: never });
    await last.write(new Uint8Array(MIB));
    await read(await acceptor.acceptStream({ signal: never }), MIB);
  });

  it('tells when the streams of a connection are used up', async () => {
    const { dialler } = await connect(await start({ streams: 4 }));
    for (let count = 0; count < 4; count++) await dialler.openStream({ signal: never });
    const error = await rejection(dialler.openStream({ signal: never }));
    assert.ok(error instanceof TransportError);
    assert.equal(error.by, 'local');
  });

  it('measures the round trip', async () => {
    const { dialler, acceptor } = await connect(await start());
    const stream = await dialler.openStream({ signal: never });
    await stream.write(Buffer.from('x'));
    await acceptor.acceptStream({ signal: never });
    for (const { stats } of [dialler, acceptor]) assert.ok((stats().rttMs ?? 0) > 0);
  });

  it('exports the same keying material at both ends of a connection, and other of another one', async () => {
    const ends = await start();
    const first = await connect(ends);
    const second = await connect(ends);
    assert.equal(first.dialler.exporter?.length, 32);
    assert.deepEqual(first.dialler.exporter, first.acceptor.exporter);
    assert.notDeepEqual(first.dialler.exporter, second.dialler.exporter);
  });

  const hostile: [string, (raw: RawTunnel) => void][] = [
    ['opens a stream of the other side', ({ stream }) => stream.write(onStream(0, 'x'))],
    ['opens a stream of the other side that is far away', ({ stream }) => stream.write(onStream(1n << 40n, 'x'))],
    ['opens a one-way stream', ({ stream }) => stream.write(onStream(3, 'x'))],
    ['opens a stream beyond the limit', ({ stream }) => stream.write(onStream(1 + 4 * 256, 'x'))],
    ['opens a stream a billion ids away', ({ stream }) => stream.write(onStream(1n + (1n << 34n), 'x'))],
    ['sends a datagram', ({ stream }) => stream.write(capsule(CAPSULE.datagram, 'x'))],
    ['drains', ({ stream }) => stream.write(capsule(CAPSULE.drain))],
    [
      'sends more than it has credit for',
      ({ stream }) => {
        for (let sent = 0; sent <= WEBTRANSPORT_LIMITS.streamWindowBytes; sent += 64 << 10) {
          stream.write(onStream(1, Buffer.alloc(64 << 10)));
        }
      },
    ],
    [
      'sends a datagram of 32 MiB in pieces',
      ({ stream }) => {
        stream.write(Buffer.concat([varint(CAPSULE.datagram), varint(32 * MIB)]));
        stream.write(Buffer.alloc(64 << 10));
      },
    ],
    [
      'sends a capsule longer than all windows',
      ({ stream }) => stream.write(Buffer.concat([varint(CAPSULE.stream), varint(1n << 40n), Buffer.alloc(100, 1)])),
    ],
    [
      'says that more streams are blocked than there can be',
      ({ stream }) => stream.write(capsule(CAPSULE.streamsBlocked, varint(1n << 40n))),
    ],
  ];
  for (const [what, act] of hostile) {
    it(`ends the connection of a peer that ${what}, and no other`, async () => {
      const raw = await openRaw();
      const bystander = await connect(raw.ends);
      act(raw);
      const end = await raw.acceptor.closed;
      assert.ok(end.error instanceof TransportError, String(end.error));
      const stream = await bystander.dialler.openStream({ signal: never });
      await stream.write(Buffer.from('still here'));
      const accepted = await bystander.acceptor.acceptStream({ signal: never });
      assert.equal((await read(accepted, 10)).toString(), 'still here');
    });
  }

  it('holds nothing of what comes behind the end of a session', async () => {
    const { stream, acceptor } = await openRaw();
    stream.write(Buffer.concat([capsule(CAPSULE.close, Buffer.alloc(4)), onStream(1, 'x'), onStream(5, 'y')]));
    assert.deepEqual(await acceptor.closed, { by: 'remote' });
  });

  it('survives signals and windows for streams that never were', async () => {
    const { stream, acceptor } = await openRaw();
    stream.write(
      Buffer.concat([
        capsule(CAPSULE.reset, varint(401), varint(0)),
        capsule(CAPSULE.stopSending, varint(401), varint(0)),
        capsule(CAPSULE.maxStreamData, varint(401), varint(1)),
        capsule(0x1234n, 'of a later version'),
        onStream(1),
        onStream(1),
        onStream(1, 'seen'),
        capsule(CAPSULE.reset, varint(1), varint(0)),
        capsule(CAPSULE.reset, varint(1), varint(0)),
        onStream(5, 'next'),
      ]),
    );
    await acceptor.acceptStream({ signal: never });
    assert.equal((await read(await acceptor.acceptStream({ signal: never }), 4)).toString(), 'next');
  });

  it('takes one tunnel a connection, and ends one that asks again and again', async () => {
    const { session, ends } = await openRaw();
    const statuses: unknown[] = [];
    for (let count = 0; count < WEBTRANSPORT_LIMITS.refusedRequests && !session.destroyed; count++) {
      const again = session.request({
        ':method': 'CONNECT',
        ':protocol': 'webtransport',
        ':scheme': 'https',
        ':authority': ends.tls.authority,
        ':path': '/v1/wt',
      });
      again.on('error', () => {});
      again.on('response', (headers) => statuses.push(headers[':status']));
      await once(again, 'close');
    }
    if (!session.closed) await once(session, 'close');
    assert.ok(statuses.length > 0 && statuses.every((status) => status === 409), statuses.join(' '));
  });

  it('ends a TLS connection on which no tunnel is asked for', async () => {
    const ends = await start({ handshakeTimeoutMs: 50 });
    const socket = await ends.tls.connect();
    socket.resume();
    await once(socket, 'close');
  });

  describe('dialled', () => {
    const dial = (ends: { tls: TunnelEnds['tls'] }, options: Partial<Parameters<typeof dialWebTransport>[0]> = {}) =>
      dialWebTransport(
        { connect: () => ends.tls.connect(), authority: ends.tls.authority, ...options },
        { signal: never },
      );

    it('says that the other end speaks no HTTP/2', async () => {
      const ends = await start();
      const error = await rejection(dial(ends, { connect: () => ends.tls.connect({ ALPNProtocols: ['http/1.1'] }) }));
      assert.ok(error instanceof TransportError);
      assert.equal(error.code, 'no_http2');
    });

    it('says with what it was refused', async () => {
      const ends = await start();
      const error = await rejection(dial(ends, { authority: 'tunnel.other.example' }));
      assert.ok(error instanceof TransportError);
      assert.equal(error.code, 'refused');
      assert.match(error.message, /421/);
    });

    it('gives up on a server that says nothing, and on one that is no HTTP/2', async () => {
      for (const behave of [() => {}, (socket: import('node:tls').TLSSocket) => void socket.end('SSH-2.0\r\n')]) {
        const tls = await createTlsEnds((socket) => {
          socket.resume();
          behave(socket);
        });
        const error = await rejection(dial({ tls }, { limits: { handshakeTimeoutMs: 100 } }));
        assert.ok(error instanceof TransportError, String(error));
        await tls.close();
      }
    });

    it('stops when it is told to', async () => {
      const tls = await createTlsEnds((socket) => void socket.resume());
      const abort = new AbortController();
      const reason = new Error('enough');
      const dialling = dialWebTransport(
        { connect: () => tls.connect(), authority: tls.authority },
        { signal: abort.signal },
      );
      setImmediate(() => abort.abort(reason));
      assert.equal(await rejection(dialling), reason);
      await tls.close();
    });

    it('passes on why TLS did not come up', async () => {
      const failure = new Error('certificate has expired');
      const ends = await start();
      assert.equal(await rejection(dial(ends, { connect: () => Promise.reject(failure) })), failure);
    });
  });
});
