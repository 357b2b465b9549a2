/** How things end on the whole way: clients that vanish, half-close, resets, and answers that are cut. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request as httpsRequest } from 'node:https';
import { constants } from 'node:http2';
import type { Socket } from 'node:net';
import { afterEach, after, before, describe, it } from 'node:test';
import { until } from '../support/runner.ts';
import { rawApplication, type Application } from '../support/applications.ts';
import { readUntilClosed } from '../support/sockets.ts';
import { open, portHost, requestText, startWholeWay, type WholeWay } from '../support/whole-way.ts';

/** An upstream connection outlives its client by at most this, ms. */
const GONE_MS = 1_000;

describe('the end', () => {
  let way: WholeWay;
  let upstream: Application;
  let host: string;
  /** The next connection to the application, with the head of its request. */
  let serve: (socket: Socket, head: string) => void;
  before(async () => {
    upstream = await rawApplication((socket) => {
      let head = '';
      const onData = (chunk: Buffer): void => {
        head += chunk.toString('latin1');
        if (!head.includes('\r\n\r\n')) return;
        socket.off('data', onData);
        serve(socket, head);
      };
      socket.on('data', onData);
    });
    way = await startWholeWay();
    await way.expose('demo', [upstream.port]);
    host = portHost('demo', upstream.port);
  });
  afterEach(() => until(() => upstream.open() === 0));
  after(async () => {
    await way.close();
    await upstream.close();
  });

  /** Resolves with the connection to the application when `then` has run on it. */
  const served = (then: (socket: Socket) => void = () => undefined): Promise<Socket> =>
    new Promise((resolve) => {
      serve = (socket) => {
        socket.resume();
        then(socket);
        resolve(socket);
      };
    });
  /** How long the application's connection stays after `leave`, ms. */
  const timeToClose = async (socket: Socket, leave: () => void): Promise<number> => {
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    // A half-close of a program that waits for nothing else would leave it open.
    socket.once('end', () => socket.end());
    const leftAt = performance.now();
    leave();
    await closed;
    return performance.now() - leftAt;
  };
  const begin = (socket: Socket): void =>
    void socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n');
  const upgradeLines = (): string[] => [
    `Host: ${host}:${way.gateway.httpsPort}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
    `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
    'Sec-WebSocket-Version: 13',
  ];
  const switchProtocols = (socket: Socket): void =>
    void socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');

  it('of an HTTP/1.1 client is the end of its upstream connection within 1 s', async () => {
    for (const stage of ['waiting', 'reading', 'sending'] as const) {
      const connection = served(stage === 'reading' ? begin : undefined);
      const outgoing = httpsRequest(way.to(host, '/', { method: stage === 'sending' ? 'POST' : 'GET' }));
      outgoing.on('error', () => undefined);
      if (stage === 'sending') outgoing.write('the beginning of a body');
      else outgoing.end();
      if (stage === 'reading') {
        const [response] = (await once(outgoing, 'response')) as [import('node:http').IncomingMessage];
        response.on('error', () => undefined);
        await once(response, 'data');
      }
      const ms = await timeToClose(await connection, () => outgoing.destroy());
      assert.ok(ms < GONE_MS, `${stage}: ${ms} ms`);
    }
  });

  it('of an HTTP/2 stream, and of its connection, is the end of the upstream connection within 1 s', async () => {
    for (const stage of ['waiting', 'reading'] as const) {
      for (const leave of ['stream', 'connection'] as const) {
        const connection = served(stage === 'reading' ? begin : undefined);
        const session = await way.connectH2(host);
        const stream = session.request({ ':path': '/' }, { endStream: true });
        stream.on('error', () => undefined);
        if (stage === 'reading') await once(stream, 'data');
        const ms = await timeToClose(await connection, () => {
          if (leave === 'stream') stream.close(constants.NGHTTP2_CANCEL);
          else session.destroy();
        });
        assert.ok(ms < GONE_MS, `${stage}, ${leave}: ${ms} ms`);
        session.destroy();
      }
    }
  });

  it('of a WebSocket client is the end of its upstream connection within 1 s, before and after the 101', async () => {
    for (const stage of ['waiting', 'open'] as const) {
      for (const leave of ['FIN', 'RST'] as const) {
        const connection = served(stage === 'open' ? switchProtocols : undefined);
        const { socket, tcp } = await way.connectOver(host);
        socket.write(requestText('GET', '/', upgradeLines()));
        if (stage === 'open') await once(socket, 'data');
        const ms = await timeToClose(await connection, () => {
          if (leave === 'FIN') socket.destroy();
          else tcp.resetAndDestroy();
        });
        assert.ok(ms < GONE_MS, `${stage}, ${leave}: ${ms} ms`);
      }
    }
  });

  it('of one direction is passed on alone: the client first', async () => {
    let got = '';
    const connection = served(switchProtocols);
    const socket = await way.connect(host);
    socket.write(requestText('GET', '/', upgradeLines()));
    await once(socket, 'data');
    const application = await connection;
    application.on('data', (chunk: Buffer) => (got += chunk.toString()));
    const ended = once(application, 'end');
    socket.end('last words of the client');
    await ended;
    assert.equal(got, 'last words of the client');
    const answer = readUntilClosed(socket);
    application.write('still ');
    application.end('here');
    assert.deepEqual(await answer, { text: 'still here', cut: false });
  });

  it('of one direction is passed on alone: the application first', async () => {
    let got = '';
    const connection = served(switchProtocols);
    const socket = await way.connect(host);
    socket.write(requestText('GET', '/', upgradeLines()));
    await once(socket, 'data');
    const application = await connection;
    application.on('data', (chunk: Buffer) => (got += chunk.toString()));
    socket.resume();
    const ended = once(socket, 'end');
    application.end();
    await ended;
    const heard = once(application, 'end');
    socket.end('still here');
    await heard;
    assert.equal(got, 'still here');
  });

  it('by reset stays one: of the application, and of the client', async () => {
    // A clean end has a close_notify before it; without one it is a truncation (RFC 8446 section 6.1).
    const notified = async (end: (application: Socket) => void): Promise<boolean> => {
      const connection = served(switchProtocols);
      const { socket, tcp } = await way.connectOver(host);
      socket.write(requestText('GET', '/', upgradeLines()));
      await once(socket, 'data');
      const application = await connection;
      const before = tcp.bytesRead;
      const ended = once(socket, 'end');
      socket.resume();
      end(application);
      await ended;
      const after = tcp.bytesRead;
      socket.destroy();
      return after > before;
    };
    assert.equal(await notified((application) => application.end()), true);
    assert.equal(await notified((application) => application.resetAndDestroy()), false);

    const connection = served(switchProtocols);
    const { socket, tcp } = await way.connectOver(host);
    socket.write(requestText('GET', '/', upgradeLines()));
    await once(socket, 'data');
    const application = await connection;
    const reset = once(application, 'error') as Promise<[NodeJS.ErrnoException]>;
    tcp.resetAndDestroy();
    assert.equal((await reset)[0].code, 'ECONNRESET');
  });

  it('that comes too early is an error for the client, however the body is framed, and never a clean end', async () => {
    const heads: [framing: string, head: string][] = [
      ['chunked', 'Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n'],
      ['fixed', 'Content-Length: 100\r\n\r\nfirst'],
      ['until close', 'Connection: close\r\n\r\nfirst'],
    ];
    for (const [framing, head] of heads) {
      const connection = served((socket) => void socket.write(`HTTP/1.1 200 OK\r\n${head}`));
      const response = await open(way.to(host));
      await once(response, 'data');
      const failed = once(response, 'error') as Promise<[NodeJS.ErrnoException]>;
      (await connection).resetAndDestroy();
      assert.equal((await failed)[0].code, 'ECONNRESET', framing);
      assert.equal(response.complete, false, framing);

      const again = served((socket) => void socket.write(`HTTP/1.1 200 OK\r\n${head}`));
      const session = await way.connectH2(host);
      const stream = session.request({ ':path': '/' }, { endStream: true });
      await once(stream, 'data');
      const broken = once(stream, 'error');
      (await again).resetAndDestroy();
      await broken;
      assert.notEqual(stream.rstCode, constants.NGHTTP2_NO_ERROR, framing);
      session.destroy();
    }
  });
});
