/** WebSockets over the whole way, with the `ws` library at both ends, and with bare bytes where it hides something. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws';
import { httpApplication, type Application } from '../support/applications.ts';
import { readUntilClosed } from '../support/sockets.ts';
import { portHost, requestText, startWholeWay, type WholeWay } from '../support/whole-way.ts';

/** Over QUIC; the other transports run all the same, with fewer. */
const MESSAGES = process.env['TEST_TRANSPORT'] === undefined ? 10_000 : 2_000;
const LARGEST_BYTES = 1 << 20;
/** Messages that are under way at once: enough to keep every buffer busy. */
const AHEAD = 64;

/** Numbers from 0 to 1 that are the same in every run (xorshift32). */
const seeded = (seed: number): (() => number) => {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
};
/** 0 to 1 MiB, each order of magnitude as likely as any other. */
const logUniform = (random: () => number): number => Math.floor((LARGEST_BYTES + 1) ** random()) - 1;

/** 1.5 GB go through: 20 s on an idle machine, several times that on a busy one. */
const TIMEOUT_MS = 300_000;

describe('WebSockets', { timeout: TIMEOUT_MS }, () => {
  let way: WholeWay;
  let upstream: Application;
  let host: string;
  const requests: IncomingMessage[] = [];
  const accepted: WebSocket[] = [];
  before(async () => {
    upstream = await httpApplication((_request, response) => response.end('no socket'));
    const sockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: { threshold: 0 },
      handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
    });
    sockets.on('connection', (socket) => {
      accepted.push(socket);
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    });
    upstream.server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      requests.push(request);
      if (request.url === '/refused') {
        socket.end('HTTP/1.1 403 Forbidden\r\nX-Reason: none of your business\r\nContent-Length: 6\r\n\r\nno way');
        return;
      }
      sockets.handleUpgrade(request, socket, head, (webSocket) => sockets.emit('connection', webSocket, request));
    });
    way = await startWholeWay();
    await way.expose('demo', [upstream.port]);
    host = portHost('demo', upstream.port);
  });
  after(async () => {
    await way.close();
    await upstream.close();
  });

  const connect = async (protocols: string[] = [], options: ClientOptions = {}): Promise<WebSocket> => {
    const { gateway } = way;
    // `servername` goes to tls.connect; the types of ws do not have it.
    const more = { rejectUnauthorized: false, servername: host, headers: { host: `${host}:${gateway.httpsPort}` } };
    const socket = new WebSocket(`wss://127.0.0.1:${gateway.httpsPort}/socket`, protocols, { ...more, ...options });
    await once(socket, 'open');
    return socket;
  };

  it(
    `carry ${MESSAGES} messages each way, of 0 bytes to 1 MiB, each unchanged and in order`,
    { timeout: TIMEOUT_MS },
    async () => {
      const socket = await connect([], { perMessageDeflate: false });
      const random = seeded(20_260_101);
      const content = randomBytes(LARGEST_BYTES);
      const sizes = Array.from({ length: MESSAGES }, () => logUniform(random));
      assert.ok(sizes.includes(0) && Math.max(...sizes) > 1_000_000);
      const message = (index: number): Buffer => {
        const size = sizes[index] ?? 0;
        const bytes = content.subarray(LARGEST_BYTES - size);
        // The sender masks in place: it gets a copy.
        const copy = Buffer.from(bytes);
        if (size >= 4) copy.writeUInt32BE(index);
        return copy;
      };
      let sent = 0;
      let received = 0;
      await new Promise<void>((resolve, reject) => {
        socket.on('close', (code) => reject(new Error(`closed with ${code} after ${received} messages`)));
        socket.on('error', reject);
        socket.on('message', (data: Buffer) => {
          if (!data.equals(message(received))) return reject(new Error(`message ${received} was changed`));
          received += 1;
          if (received === MESSAGES) return resolve();
          if (sent < MESSAGES) socket.send(message(sent++));
        });
        while (sent < AHEAD) socket.send(message(sent++));
      });
      socket.terminate();
    },
  );

  it('negotiate subprotocol and compression between the ends themselves', async () => {
    const socket = await connect(['chat.v1', 'chat.v2'], { perMessageDeflate: { threshold: 0 } });
    assert.equal(socket.protocol, 'chat.v2');
    assert.match(socket.extensions, /^permessage-deflate/);
    assert.match(accepted.at(-1)?.extensions ?? '', /^permessage-deflate/);
    const text = 'the same again '.repeat(50_000);
    const before = upstream.bytes();
    for (let count = 0; count < 20; count++) {
      socket.send(text);
      const [data] = (await once(socket, 'message')) as [Buffer];
      assert.equal(data.toString(), text);
    }
    assert.ok(upstream.bytes() - before < text.length, 'the messages were compressed all the way');
    socket.close();
    await once(socket, 'close');

    const plain = await connect([], { perMessageDeflate: false });
    assert.deepEqual([plain.protocol, plain.extensions, accepted.at(-1)?.extensions], ['', '', '']);
    plain.close();
    await once(plain, 'close');
  });

  it('pass on close codes and reasons, pings and pongs, in both directions', async () => {
    for (const code of [1_000, 1_001, 1_008, 1_011, 3_000, 4_999]) {
      const socket = await connect();
      const other = accepted.at(-1)!;
      const theirs = once(other, 'close') as Promise<[number, Buffer]>;
      socket.close(code, `reason ${code}`);
      const [gotCode, reason] = await theirs;
      assert.deepEqual([gotCode, reason.toString()], [code, `reason ${code}`]);

      const second = await connect();
      const ours = once(second, 'close') as Promise<[number, Buffer]>;
      accepted.at(-1)!.close(code, `reason ${code}`);
      const [backCode, backReason] = await ours;
      assert.deepEqual([backCode, backReason.toString()], [code, `reason ${code}`]);
    }
    const socket = await connect();
    const other = accepted.at(-1)!;
    const pinged = once(other, 'ping') as Promise<[Buffer]>;
    const ponged = once(socket, 'pong') as Promise<[Buffer]>;
    socket.ping('are you there');
    assert.equal((await pinged)[0].toString(), 'are you there');
    assert.equal((await ponged)[0].toString(), 'are you there');
    const back = once(socket, 'ping') as Promise<[Buffer]>;
    other.ping('and you');
    assert.equal((await back)[0].toString(), 'and you');
    // No close frame came: the other end sees 1006, which nobody may send.
    const lost = once(socket, 'close') as Promise<[number]>;
    other.terminate();
    assert.equal((await lost)[0], 1_006);
  });

  it('ask the application in the case of RFC 6455, whatever the client wrote', async () => {
    const socket = await way.connect(host);
    const key = randomBytes(16).toString('base64');
    socket.write(
      requestText('GET', '/socket?x=%2F', [
        `host: ${host}:${way.gateway.httpsPort}`,
        'connection: keep-alive, upgrade',
        'upgrade: WebSocket',
        `sec-websocket-key: ${key}`,
        'SEC-WEBSOCKET-VERSION: 13',
        'sec-websocket-protocol: chat.v2',
        'origin: https://elsewhere.example',
      ]),
    );
    const [head] = (await once(socket, 'data')) as [Buffer];
    const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    const lines = head.toString('latin1').split('\r\n');
    assert.equal(lines[0], 'HTTP/1.1 101 Switching Protocols');
    assert.ok(lines.includes(`Sec-WebSocket-Accept: ${accept}`), lines.join('\n'));
    assert.ok(lines.includes('Sec-WebSocket-Protocol: chat.v2'));
    const request = requests.at(-1)!;
    assert.equal(request.url, '/socket?x=%2F');
    const names = request.rawHeaders.filter((_, index) => index % 2 === 0);
    for (const name of ['Sec-WebSocket-Key', 'Sec-WebSocket-Version', 'Sec-WebSocket-Protocol']) {
      assert.ok(names.includes(name), `${name} is missing in ${names.join(', ')}`);
    }
    assert.equal(request.headers['sec-websocket-key'], key);
    assert.equal(request.headers.origin, 'https://elsewhere.example');
    assert.equal(request.headers.host, `${host}:${way.gateway.httpsPort}`);
    socket.destroy();
  });

  it('are splices only after a 101: a refusal is an ordinary response, and what came early goes nowhere', async () => {
    const socket = await way.connect(host);
    const before = upstream.bytes();
    socket.write(
      requestText('GET', '/refused', [
        `Host: ${host}:${way.gateway.httpsPort}`,
        'Connection: Upgrade',
        'Upgrade: websocket',
        `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
        'Sec-WebSocket-Version: 13',
      ]) + 'GET /smuggled HTTP/1.1\r\nHost: internal\r\n\r\n',
    );
    const { text } = await readUntilClosed(socket);
    const [head, body] = text.split('\r\n\r\n');
    assert.match(head ?? '', /^HTTP\/1\.1 403 /);
    assert.match(head ?? '', /^x-reason: none of your business$/im);
    assert.doesNotMatch(head ?? '', /^gateway-error:/im);
    assert.equal(body, 'no way');
    assert.ok(!requests.some(({ url }) => url?.includes('smuggled')));
    assert.ok(upstream.bytes() - before < 2_000);
    const line = await way.gateway.waitFor((each) => each.msg === 'request' && each['path'] === '/refused');
    assert.equal(line['status'], 403);
  });
});
