/** What peers of a WebSocket tunnel get that break its rules, or those of WebSockets (safety rows 34 and 35). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { TLSSocket } from 'node:tls';
import { afterEach, describe, it } from 'node:test';
import { WebSocket } from 'ws';
import { TransportError } from '../../shared/src/errors.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { dialWebSocket } from '../../shared/src/transport/websocket.ts';
import { WEBSOCKET_FRAME, WEBSOCKET_LIMITS, WEBSOCKET_PATH } from '../../shared/src/transport/websocket-limits.ts';
import { openPair, readAll, settle } from '../compliance/connection.ts';
import { rejection } from '../support/legs.ts';
import { createTlsEnds, createWebSocketEnds, type TunnelEnds } from '../support/tcp-pair.ts';

const never = new AbortController().signal;
const HTTP1 = { ALPNProtocols: ['http/1.1'] };

const frame = (kind: number, id: number, payload: Buffer = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(((kind << 24) | id) >>> 0);
  return Buffer.concat([head, payload]);
};
const u32 = (value: number): Buffer => {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value);
  return out;
};

describe('WebSocket', () => {
  const opened: TunnelEnds[] = [];
  const connections: Connection[] = [];
  const clients: WebSocket[] = [];
  afterEach(async () => {
    for (const connection of connections.splice(0)) connection.close();
    for (const client of clients.splice(0)) client.terminate();
    for (const ends of opened.splice(0)) await ends.close();
  });
  const start = async (limits = {}): Promise<TunnelEnds> => {
    const ends = await createWebSocketEnds({ limits });
    opened.push(ends);
    return ends;
  };
  /** A client that speaks WebSocket, and frames by hand. */
  const openRaw = async () => {
    const ends = await start();
    const socket = await ends.tls.connect(HTTP1);
    const client = new WebSocket(`wss://${ends.tls.authority}${WEBSOCKET_PATH}`, {
      createConnection: () => socket,
      perMessageDeflate: false,
    });
    clients.push(client);
    client.on('error', () => {});
    const [acceptor] = await Promise.all([ends.nextConnection(), once(client, 'open')]);
    connections.push(acceptor);
    return { client, acceptor, ends, socket };
  };
  type Raw = Awaited<ReturnType<typeof openRaw>>;
  /** A WebSocket frame with any head (RFC 6455 section 5.2), masked by zeros. */
  const rawFrame = (socket: TLSSocket, first: number, length: bigint | number, payload: Buffer | string = ''): void => {
    const head = Buffer.alloc(14);
    head[0] = first;
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(length), 2);
    socket.write(Buffer.concat([head, Buffer.from(payload)]));
  };

  const { data, fin, reset, window } = WEBSOCKET_FRAME;
  const hostile: [string, number, (raw: Raw) => void][] = [
    ['sends a text message', 1_002, ({ client }) => client.send('text')],
    ['sends a frame that is too short', 1_002, ({ client }) => client.send(Buffer.alloc(3))],
    ['sends a frame of an unknown kind', 1_002, ({ client }) => client.send(frame(9, 1))],
    ['opens a stream of the other side', 1_002, ({ client }) => client.send(frame(data, 2, Buffer.from('x')))],
    ['opens a stream out of order', 1_002, ({ client }) => client.send(frame(data, 3, Buffer.from('x')))],
    ['uses stream 0', 1_002, ({ client }) => client.send(frame(data, 0, Buffer.from('x')))],
    [
      'opens more streams than it may',
      1_002,
      ({ client }) => {
        for (let count = 0; count <= WEBSOCKET_LIMITS.streams; count++) client.send(frame(data, 1 + 2 * count));
      },
    ],
    [
      'sends more than it has credit for',
      1_002,
      ({ client }) => {
        const payload = Buffer.alloc(60 << 10);
        for (let sent = 0; sent <= WEBSOCKET_LIMITS.streamWindowBytes; sent += payload.length) {
          client.send(frame(data, 1, payload));
        }
      },
    ],
    [
      'gives credit beyond the window',
      1_002,
      ({ client }) => {
        client.send(frame(data, 1, Buffer.from('x')));
        client.send(frame(window, 1, u32(1)));
      },
    ],
    ['sends a window that is none', 1_002, ({ client }) => client.send(frame(window, 1))],
    [
      'sends behind its end',
      1_002,
      ({ client }) => {
        client.send(frame(fin, 1));
        client.send(frame(data, 1, Buffer.from('x')));
      },
    ],
    ['ends twice', 1_002, ({ client }) => [1, 2].forEach(() => client.send(frame(fin, 1)))],
    ['sends a message above 64 KiB', 1_009, ({ client }) => client.send(Buffer.alloc((64 << 10) + 1))],
    ['claims a message of 2^63 bytes', 1_009, ({ socket }) => rawFrame(socket, 0x82, 1n << 62n)],
    ['sends a frame that is compressed', 1_002, ({ socket }) => rawFrame(socket, 0xc2, 1, 'x')],
    ['sends text that is no UTF-8', 1_007, ({ socket }) => rawFrame(socket, 0x81, 1, Buffer.from([0xff]))],
    [
      'sends a message in endless fragments',
      1_008,
      ({ socket }) => {
        rawFrame(socket, 0x02, 0);
        for (let count = 0; count <= 16_384; count++) socket.write(Buffer.from([0x00, 0x80, 0, 0, 0, 0]));
      },
    ],
  ];
  for (const [what, code, act] of hostile) {
    it(`ends the connection of a peer that ${what} with ${code}, and no other`, async () => {
      const raw = await openRaw();
      const bystander = await raw.ends.connect();
      connections.push(bystander.dialler, bystander.acceptor);
      const closed = once(raw.client, 'close');
      act(raw);
      const [got] = (await closed) as [number];
      assert.equal(got, code);
      const end = await raw.acceptor.closed;
      assert.ok(end.error instanceof TransportError, String(end.error));
      const stream = await bystander.dialler.openStream({ signal: never });
      await stream.write(Buffer.from('x'));
      await bystander.acceptor.acceptStream({ signal: never });
    });
  }

  it('ignores what was on its way when a stream was reset', async () => {
    const { client, acceptor } = await openRaw();
    client.send(frame(data, 1, Buffer.from('a')));
    (await acceptor.acceptStream({ signal: never })).reset();
    for (const kind of [data, fin, reset]) client.send(frame(kind, 1));
    client.send(frame(data, 3, Buffer.from('b')));
    await acceptor.acceptStream({ signal: never });
  });

  it('reads no more than its limit of what nobody wants, and goes on when somebody does', async () => {
    const ends = await start({ unreadBytes: 1 << 20 });
    const { dialler, acceptor } = await ends.connect();
    connections.push(dialler, acceptor);
    const other = await ends.connect();
    connections.push(other.dialler, other.acceptor);
    const fence = await openPair(other.dialler, other.acceptor);
    const total = 4 << 20;
    const stream = await dialler.openStream({ signal: never });
    const sending = stream.write(randomBytes(total)).then(() => stream.finish());
    for (let before = -1; before !== acceptor.stats().received;) {
      before = acceptor.stats().received;
      await settle(fence);
    }
    const read = acceptor.stats().bytesReceived;
    assert.ok(read < total / 2, `${read} bytes were read`);
    assert.equal((await readAll(await acceptor.acceptStream({ signal: never }))).length, total);
    await sending;
  });

  it('measures the round trip, and exports the same keying material at both ends', async () => {
    const { dialler, acceptor } = await (await start()).connect();
    connections.push(dialler, acceptor);
    const stream = await dialler.openStream({ signal: never });
    await stream.write(Buffer.from('x'));
    const accepted = await acceptor.acceptStream({ signal: never });
    await accepted.write(Buffer.from('y'));
    await stream.read();
    assert.ok((dialler.stats().rttMs ?? 0) > 0);
    assert.equal(dialler.exporter?.length, 32);
    assert.deepEqual(dialler.exporter, acceptor.exporter);
  });

  describe('dialled', () => {
    it('says that the upgrade was answered with something else', async () => {
      const ends = await start();
      const connect = async (): Promise<TLSSocket> => {
        const socket = await ends.tls.connect(HTTP1);
        const { write } = socket;
        // As a proxy that lets no upgrade pass.
        socket.write = (text: string | Buffer, ...rest: []) =>
          write.call(socket, String(text).replace(/^(upgrade|connection): .*\r\n/gim, ''), ...rest);
        return socket;
      };
      const error = await rejection(dialWebSocket({ connect, authority: ends.tls.authority }, { signal: never }));
      assert.ok(error instanceof TransportError);
      assert.equal(error.code, 'refused');
      assert.match(error.message, /404/);
    });

    it('gives up on a server that says nothing, and on one that is no HTTP', async () => {
      for (const text of ['', 'SSH-2.0\r\n']) {
        const tls = await createTlsEnds((socket) => {
          socket.resume();
          if (text !== '') socket.end(text);
        });
        const dialling = dialWebSocket(
          { connect: () => tls.connect(HTTP1), authority: tls.authority, limits: { handshakeTimeoutMs: 100 } },
          { signal: never },
        );
        assert.ok((await rejection(dialling)) instanceof TransportError);
        await tls.close();
      }
    });

    it('stops when it is told to', async () => {
      const tls = await createTlsEnds((socket) => void socket.resume());
      const abort = new AbortController();
      const reason = new Error('enough');
      const connect = async (): Promise<TLSSocket> => {
        const socket = await tls.connect(HTTP1);
        setImmediate(() => abort.abort(reason));
        return socket;
      };
      assert.equal(
        await rejection(dialWebSocket({ connect, authority: tls.authority }, { signal: abort.signal })),
        reason,
      );
      await tls.close();
    });
  });
});
