import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { cannedApplication, httpsApplication, rawApplication } from '../support/applications.ts';
import { createProxyWorld, httpUpstream, parseResponse, valuesOf, type ProxyWorld } from '../support/proxy-world.ts';
import { readUntilClosed, readUntil } from '../support/sockets.ts';

const PASSED_ON_MS = 1_000;
/** Messages each way; the long run sends more. */
const MESSAGES = 1_000;
const MAX_MESSAGE_BYTES = 1 << 20;

const handshake = (host: string, fields = ''): string =>
  `GET /socket?x HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n` +
  `sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nSEC-WEBSOCKET-VERSION: 13\r\n${fields}\r\n`;
const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Own: 1\r\n\r\n';

describe('WebSocket upgrades', () => {
  let world: ProxyWorld;
  before(async () => {
    world = await createProxyWorld();
  });
  after(() => world.close());
  const url = (port: number, path = '/'): string => `wss://${world.host(port)}:${world.port}${path}`;
  const clientOptions = (port: number) => ({
    rejectUnauthorized: false,
    servername: world.host(port),
    lookup: ((_host: string, _options: object, callback: (error: null, found: object[]) => void) =>
      callback(null, [{ address: '127.0.0.1', family: 4 }])) as never,
  });

  test('messages of all sizes both ways, subprotocol, extensions, close code', async () => {
    const upstream = await httpUpstream((_request, response) => void response.end());
    const server = new WebSocketServer({ server: upstream.server, perMessageDeflate: true, maxPayload: 2 << 20 });
    const closes: number[] = [];
    server.on('connection', (socket) => {
      socket.on('message', (data, isBinary) => socket.send(data as Buffer, { binary: isBinary }));
      socket.on('close', (code) => closes.push(code));
    });
    world.expose(upstream.port);
    const client = new WebSocket(url(upstream.port), ['chat', 'other'], clientOptions(upstream.port));
    await once(client, 'open');
    assert.equal(client.protocol, 'chat');
    assert.match(client.extensions, /permessage-deflate/);
    // Log-uniform from 0 to 1 MiB; a cheap checksum and the order show that each came back as it was.
    const noise = randomBytes(MAX_MESSAGE_BYTES);
    const sizes = Array.from(
      { length: MESSAGES },
      (_, index) => Math.floor(Math.exp((((index * 7919) % MESSAGES) / MESSAGES) * Math.log(MAX_MESSAGE_BYTES))) - 1,
    );
    let next = 0;
    const finished = new Promise<void>((resolve, reject) => {
      client.on('message', (data) => {
        const size = sizes[next++]!;
        if (!(data as Buffer).equals(noise.subarray(0, size))) return reject(new Error(`message ${next} of ${size}`));
        if (next === MESSAGES) resolve();
      });
      client.on('close', () => reject(new Error('closed')));
    });
    for (const size of sizes) {
      if (client.bufferedAmount > 4 << 20) await new Promise((resolve) => setImmediate(resolve));
      client.send(noise.subarray(0, size), { compress: size < 4_096 });
    }
    await finished;
    client.removeAllListeners('close');
    client.close(4321, 'bye');
    const [code] = (await once(client, 'close')) as [number];
    assert.equal(code, 4321);
    while (closes.length === 0) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(closes, [4321]);
    server.close();
    await upstream.close();
  });

  test('the head upstream: names of RFC 6455, the rest as it was', async () => {
    const upstream = await cannedApplication(SWITCHED);
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(
      handshake(
        host,
        `Origin: https://${host}\r\nX-a: 1\r\nX-Forwarded-For: spoofed\r\nCookie: __Host-gitpod_port_auth=x; a=1\r\n`,
      ),
    );
    const answer = parseResponse(await readUntil(client, '\r\n\r\n'));
    assert.deepEqual(answer.lines, ['X-Own: 1', 'Connection: Upgrade', 'Upgrade: websocket']);
    const lines = upstream.received().split('\r\n');
    assert.deepEqual(lines.slice(0, 7), [
      'GET /socket?x HTTP/1.1',
      `Host: ${host}`,
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      'Sec-WebSocket-Version: 13',
      `Origin: https://${host}`,
      'X-a: 1',
      'Cookie: a=1',
    ]);
    assert.deepEqual(lines.slice(-4, -2), ['Connection: Upgrade', 'Upgrade: websocket']);
    assert.equal(lines.filter((line) => /^x-forwarded-for:/i.test(line)).join(), 'X-Forwarded-For: 127.0.0.1');
    client.destroy();
    await upstream.close();
  });

  test('bytes behind the request wait for the 101, and are no second request', async () => {
    const asked = Promise.withResolvers<Socket>();
    const upstream = await cannedApplication((made) => asked.resolve(made));
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(`${handshake(host)}GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n`);
    const socket = await asked.promise;
    client.write('more');
    assert.equal(upstream.received().includes('smuggled'), false);
    socket.write(SWITCHED);
    await readUntil(client, '\r\n\r\n');
    while (!upstream.received().endsWith('more')) await once(socket, 'data');
    assert.match(upstream.received(), /\r\n\r\nGET \/smuggled HTTP\/1\.1\r\nHost: x\r\n\r\nmore$/);
    client.destroy();
    await upstream.close();
  });

  test('a refused upgrade is an ordinary answer, and what came behind it reaches nobody', async () => {
    const upstream = await cannedApplication(
      'HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nGateway-Error: x\r\n\r\n2\r\nno\r\n0\r\n\r\n',
    );
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(`${handshake(host)}GET /smuggled HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    const answer = parseResponse((await readUntilClosed(client)).text);
    assert.deepEqual([answer.status, answer.statusText, answer.body], [403, 'No', 'no']);
    assert.deepEqual(valuesOf(answer, 'gateway-error'), []);
    assert.deepEqual(valuesOf(answer, 'connection'), ['close']);
    assert.equal(upstream.received().includes('smuggled'), false);
    const { status } = await world.ended();
    assert.ok(status === 403 || status === 101);
    await upstream.close();
  });

  test('a large refusal flows at the pace of the client', async () => {
    const size = 8 << 20;
    const upstream = await httpUpstream((_request, response) => void response.end('plain'));
    upstream.server.on('upgrade', (_request, socket) => {
      socket.write(`HTTP/1.1 400 Bad\r\nContent-Length: ${size}\r\n\r\n`);
      socket.end(Buffer.alloc(size, 'x'));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(handshake(host));
    assert.equal(parseResponse((await readUntilClosed(client)).text).body.length, size);
    await upstream.close();
  });

  test('no upstream, a broken answer, and another protocol are gateway errors', async () => {
    const fails = async (port: number, status: number, code: string): Promise<void> => {
      const client = await world.connect(world.host(port));
      client.write(handshake(world.host(port)));
      const answer = parseResponse((await readUntilClosed(client)).text);
      assert.deepEqual([answer.status, valuesOf(answer, 'gateway-error')], [status, [code]]);
    };
    const other = await cannedApplication(SWITCHED.replace('websocket', 'h2c'));
    const broken = await cannedApplication('nonsense\r\n\r\n');
    const mixed = await cannedApplication('HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 200 OK\r\n\r\n');
    for (const upstream of [other, broken, mixed]) {
      world.expose(upstream.port);
      await fails(upstream.port, 502, 'upstream_invalid');
      await upstream.close();
    }
    await fails(other.port, 502, 'upstream_refused');
    await fails(1_024, 404, 'port_not_exposed');
  });

  test('TLS to the upstream', async () => {
    const upstream = await httpsApplication((_request, response) => void response.end());
    const server = new WebSocketServer({ server: upstream.server });
    server.on('connection', (socket) => socket.send('hello'));
    world.expose(upstream.port, { protocol: 'https' });
    const client = new WebSocket(url(upstream.port), clientOptions(upstream.port));
    const [message] = (await once(client, 'message')) as [Buffer];
    assert.equal(message.toString(), 'hello');
    client.close();
    await once(client, 'close');
    server.close();
    await upstream.close();
  });

  test('ends and resets pass through in both directions', async () => {
    const start = async (): Promise<{ client: Socket; upstream: Socket; close(): Promise<void> }> => {
      let socket: Socket | undefined;
      const server = await rawApplication((made) => {
        socket = made;
        let head = '';
        const onData = (chunk: Buffer): void => {
          head += chunk.toString('latin1');
          if (!head.endsWith('\r\n\r\n')) return;
          made.off('data', onData);
          made.pause();
          made.write(SWITCHED);
        };
        made.on('data', onData);
      });
      world.expose(server.port);
      const client = await world.connect(world.host(server.port));
      client.write(handshake(world.host(server.port)));
      await readUntil(client, '\r\n\r\n');
      return { client, upstream: socket!, close: () => server.close() };
    };
    const ended = (socket: Socket): Promise<unknown> => {
      socket.resume();
      if (socket.readableEnded) return Promise.resolve();
      return new Promise((resolve) => socket.once('end', resolve));
    };
    const gone = (socket: Socket): Promise<unknown> => {
      socket.on('error', () => undefined);
      socket.resume();
      if (socket.destroyed) return Promise.resolve();
      return new Promise((resolve) => socket.once('close', resolve));
    };

    const half = await start();
    half.upstream.end('last word');
    assert.match(await readUntil(half.client, 'last word'), /last word/);
    await ended(half.client);
    half.client.write('still here');
    assert.equal(await readUntil(half.upstream, 'here'), 'still here');
    const upstreamEnded = ended(half.upstream);
    half.client.end();
    await upstreamEnded;
    await half.close();

    const otherHalf = await start();
    const seen = ended(otherHalf.upstream);
    otherHalf.client.end();
    await seen;
    otherHalf.upstream.write('answer');
    assert.equal(await readUntil(otherHalf.client, 'answer'), 'answer');
    otherHalf.upstream.end();
    await gone(otherHalf.client);
    await otherHalf.close();

    const started = performance.now();
    const reset = await start();
    // TLS has no reset: the connection ends without close_notify, in both directions.
    const clientEnded = ended(reset.client);
    reset.upstream.resetAndDestroy();
    await clientEnded;
    assert.equal(world.forwarder.stats().upstreamConnections, 0);
    reset.client.destroy();
    await reset.close();

    // A client that closes its socket sends what a half-close sends; the first bytes for it show the difference.
    const left = await start();
    const seenEnd = ended(left.upstream);
    const upstreamGone = gone(left.upstream);
    left.client.destroy();
    await seenEnd;
    while (!left.upstream.destroyed) {
      left.upstream.write('anybody?');
      await new Promise((resolve) => setImmediate(resolve));
    }
    await upstreamGone;
    await left.close();
    assert.ok(performance.now() - started < 2 * PASSED_ON_MS);
    assert.equal(world.forwarder.stats().upstreamConnections, 0);
  });

  test('a client that leaves before the answer', async () => {
    const upstream = await cannedApplication(() => undefined);
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const arrived = once(upstream.server, 'connection') as Promise<[Socket]>;
    const client = await world.connect(host);
    client.write(handshake(host));
    const [socket] = await arrived;
    const started = performance.now();
    client.destroy();
    await new Promise((resolve) => socket.once('close', resolve));
    assert.ok(performance.now() - started < PASSED_ON_MS);
    await upstream.close();
  });

  test('a reader that stops holds its writer back', async () => {
    let written = 0;
    let wroteAt = performance.now();
    const upstream = await cannedApplication((socket) => {
      socket.write(SWITCHED);
      const chunk = Buffer.alloc(64 << 10);
      const more = (): void => {
        do {
          written += chunk.length;
          wroteAt = performance.now();
        } while (socket.write(chunk) && written < 256 << 20);
        socket.once('drain', more);
      };
      more();
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(handshake(host));
    await readUntil(client, '\r\n\r\n');
    while (performance.now() - wroteAt < 400) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.ok(written < 24 << 20, `${written} bytes went out`);
    client.destroy();
    await upstream.close();
  });
});
