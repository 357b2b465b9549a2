import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpsRequest, Agent } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { test, type TestContext } from 'node:test';
import fc from 'fast-check';
import { exchangeRaw, readAll, startEdge, type EdgeTestOptions, type EdgeUnderTest } from '../support/edge.ts';

const HOST = '3000--demo.gateway.localhost';
const startFor = async (t: TestContext, options: EdgeTestOptions = {}): Promise<EdgeUnderTest> => {
  const own = await startEdge(options);
  t.after(() => own.close());
  return own;
};
const isServed = async (edge: EdgeUnderTest): Promise<void> => {
  assert.match(
    await exchangeRaw(edge, `GET / HTTP/1.1\r\nHost: ${HOST}\r\nConnection: close\r\n\r\n`),
    /^HTTP\/1\.1 200 /,
  );
};

test('slow headers: 408 and closed, others are served meanwhile', async (t) => {
  const edge = await startFor(t, { limits: { headersTimeoutMs: 300 } });
  const socket = await edge.connect({ ALPNProtocols: ['http/1.1'] });
  const answer = readAll(socket);
  socket.write('GET / HTTP/1.1\r\nHost: ');
  await isServed(edge);
  assert.match(await answer, /^HTTP\/1\.1 408 [^]*Gateway-Error: request_timeout/);
  assert.deepEqual(edge.refused.at(-1), { code: 'request_timeout', address: '127.0.0.1' });
});

test('a connection that says nothing is closed: HTTP/1.1, HTTP/2 and before TLS', async (t) => {
  const edge = await startFor(t, { limits: { headersTimeoutMs: 300, tlsHandshakeTimeoutMs: 300 } });
  const raw = connect(edge.port, '127.0.0.1');
  raw.on('error', () => {});
  raw.resume();
  const http1 = await edge.connect({ ALPNProtocols: ['http/1.1'] });
  const http2 = await edge.connect({ ALPNProtocols: ['h2'] });
  http1.resume();
  http2.resume();
  await Promise.all([raw, http1, http2].map((socket) => once(socket, 'close')));
});

test('an HTTP/2 connection without streams is closed after its idle time', async (t) => {
  const edge = await startFor(t, { limits: { sessionIdleTimeoutMs: 200 } });
  const socket = await edge.connect({ ALPNProtocols: ['h2'] });
  socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0');
  socket.resume();
  await once(socket, 'close');
});

test('connections of one address are limited, and a place is free again when one ends', async (t) => {
  const edge = await startFor(t, { limits: { connectionsPerAddress: 3 } });
  const sockets = await Promise.all([1, 2, 3].map(() => edge.connect()));
  await assert.rejects(edge.connect(), { code: 'ECONNRESET' });
  assert.deepEqual(edge.refused, [{ code: 'too_many_requests', address: '127.0.0.1' }]);
  assert.equal(edge.edge.stats().connections, 3);
  sockets[0]!.destroy();
  while (edge.edge.stats().connections === 3) await new Promise((resolve) => setImmediate(resolve));
  const again = await edge.connect();
  for (const socket of [...sockets, again]) socket.destroy();
});

test('clients that leave in the middle of a handshake leave nothing behind', async (t) => {
  const edge = await startFor(t);
  const half = connect(edge.port, '127.0.0.1');
  half.on('error', () => {});
  half.end(Buffer.from([0x16, 0x03, 0x01]));
  half.resume();
  await once(half, 'close');
  const early = await edge.connect({ ALPNProtocols: ['h2'] });
  early.destroy();
  while (edge.edge.stats().connections > 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(edge.edge.stats(), { connections: 0, handshakes: 0, requestsInFlight: 0, upgrades: 0 });
});

test('a pipelining flood closes the connection without starting what waits', async (t) => {
  const edge = await startFor(t, { forwarder: { request: () => {} } });
  const socket = await edge.connect({ ALPNProtocols: ['http/1.1'] });
  socket.on('error', () => {});
  socket.resume();
  const closed = once(socket, 'close');
  socket.write(`GET / HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`.repeat(1_000));
  await closed;
  assert.equal(edge.forwarded.length, 1);
});

test('TLS: 1.2 and 1.3 with forward secrecy and AEAD only, no renegotiation, sessions are resumed', async (t) => {
  const edge = await startFor(t);
  const handshake = async (options: object): Promise<string> => {
    const socket = await edge.connect({ ALPNProtocols: ['http/1.1'], ...options });
    const { name } = socket.getCipher();
    socket.destroy();
    return `${socket.getProtocol() ?? ''} ${name}`;
  };
  assert.match(await handshake({}), /TLS_/);
  const tls12 = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' };
  assert.match(await handshake(tls12), /^(?:TLSv1\.2| )?.*ECDHE-ECDSA-.*(?:GCM|CHACHA)/);
  await assert.rejects(
    handshake({ ...tls12, ciphers: 'ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0' }),
  );
  await assert.rejects(handshake({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' }));
  const socket = await edge.connect({ ALPNProtocols: ['http/1.1'], ...tls12 } as object);
  socket.on('error', () => {});
  const renegotiated = await new Promise<boolean>((resolve) => {
    socket.once('close', () => resolve(false));
    if (!socket.renegotiate({}, (error) => resolve(error === null))) resolve(false);
  });
  assert.equal(renegotiated, false);
  socket.destroy();
  const first = await edge.connect({ ALPNProtocols: ['http/1.1'] });
  const [session] = (await once(first, 'session')) as [Buffer];
  first.destroy();
  const second = await edge.connect({ ALPNProtocols: ['http/1.1'], session });
  assert.equal(second.isSessionReused(), true);
  second.destroy();
});

test('draining HTTP/1.1: the answer in flight says close, idle connections end, the plain listener is gone', async (t) => {
  const edge = await startFor(t);
  const agent = new Agent({ keepAlive: true, ca: edge.ca });
  t.after(() => agent.destroy());
  const get = (): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port: edge.port, servername: HOST, headers: { host: HOST }, agent };
      httpsRequest(options, resolve).once('error', reject).end();
    });
  const first = await get();
  first.resume();
  await once(first, 'end');
  const busy = await edge.connect({ ALPNProtocols: ['http/1.1'] });
  const answer = readAll(busy);
  busy.write(`POST / HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: 4\r\n\r\nab`);
  while (edge.edge.stats().requestsInFlight === 0) await new Promise((resolve) => setImmediate(resolve));
  edge.edge.drain();
  busy.write('cd');
  assert.match(await answer, /^HTTP\/1\.1 200 [^]*Connection: close/);
  await edge.edge.idle({ signal: AbortSignal.timeout(10_000) });
  const plain = connect(edge.plainPort, '127.0.0.1');
  await assert.rejects(once(plain, 'connect'), { code: 'ECONNREFUSED' });
  while (edge.edge.stats().connections > 0) await new Promise((resolve) => setImmediate(resolve));
});

test('odd input never ends the process: random bytes before and after TLS', async (t) => {
  const edge = await startFor(t, { limits: { headersTimeoutMs: 500, tlsHandshakeTimeoutMs: 500 } });
  const sendRaw = async (port: number, bytes: Uint8Array): Promise<void> => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    socket.end(bytes);
    await once(socket, 'close');
  };
  const sendTls = async (bytes: Uint8Array, protocol: string): Promise<void> => {
    const socket = await edge.connect({ ALPNProtocols: [protocol], servername: HOST });
    socket.on('error', () => {});
    socket.resume();
    socket.end(bytes);
    await once(socket, 'close');
  };
  const line = fc.constantFrom(
    'GET / HTTP/1.1\r\n',
    'POST /%zz HTTP/1.1\r\n',
    `Host: ${HOST}\r\n`,
    'Content-Length: 5\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Upgrade: websocket\r\nConnection: upgrade\r\n',
    'Expect: 100-continue\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'CONNECT x:1 HTTP/1.1\r\n',
    '\r\n',
    '5\r\nhello\r\n0\r\n\r\n',
  );
  const text = fc
    .array(fc.oneof(line, fc.string()), { maxLength: 8 })
    .map((parts) => Buffer.from(parts.join(''), 'latin1'));
  await fc.assert(
    fc.asyncProperty(fc.oneof(text, fc.uint8Array({ maxLength: 200 })), (bytes) => sendRaw(edge.port, bytes)),
    { numRuns: 30 },
  );
  await fc.assert(
    fc.asyncProperty(text, (bytes) => sendRaw(edge.plainPort, bytes)),
    { numRuns: 60 },
  );
  await fc.assert(
    fc.asyncProperty(text, (bytes) => sendTls(bytes, 'http/1.1')),
    { numRuns: 100 },
  );
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, preface) =>
      sendTls(
        preface
          ? Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0', 'latin1'), bytes])
          : bytes,
        'h2',
      ),
    ),
    { numRuns: 100 },
  );
  for (const servername of ['a'.repeat(255), 'x\u00ff.test', '..', '%00', '-']) {
    const socket = await edge
      .connect({ servername, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
      .catch(() => undefined);
    socket?.destroy();
  }
  await isServed(edge);
});
