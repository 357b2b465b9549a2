import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import { after, before, test, type TestContext } from 'node:test';
import type { UpgradeExchange } from '../../gateway/src/proxy/exchange.ts';
import { exchangeRaw, readAll, startEdge, type EdgeTestOptions, type EdgeUnderTest } from '../support/edge.ts';

const HOST = '3000--demo.gateway.localhost';
let edge: EdgeUnderTest;
before(async () => {
  edge = await startEdge();
});
after(() => edge.close());

/** An edge of one test's own. */
const startFor = async (t: TestContext, options: EdgeTestOptions): Promise<EdgeUnderTest> => {
  const own = await startEdge(options);
  t.after(() => own.close());
  return own;
};
const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1]);
const errorOf = (answer: string): string | undefined => /^Gateway-Error: (\S+)\r$/im.exec(answer)?.[1];
/** Sends raw bytes and asserts that nothing of them reached the forwarder. */
const refused = async (
  bytes: string,
  options?: Parameters<typeof exchangeRaw>[2],
): Promise<[number, string | undefined]> => {
  const reached = edge.forwarded.length;
  const answer = await exchangeRaw(edge, bytes, options);
  assert.equal(edge.forwarded.length, reached, 'the upstream sees nothing of it');
  return [statusOf(answer), errorOf(answer)];
};
const get = (fields: string, line = 'GET / HTTP/1.1'): string => `${line}\r\n${fields}\r\n`;

test('a request reaches the forwarder as it was sent', async () => {
  const answer = await exchangeRaw(
    edge,
    `POST //a/%zz/../b?x HTTP/1.1\r\nhOsT: 3000--DEMO.gateway.localhost.:${edge.port}\r\nX-a: 1\r\nx-A: 2\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello`,
  );
  assert.equal(statusOf(answer), 200);
  const seen = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4)) as Record<string, unknown>;
  assert.equal(seen['path'], '//a/%zz/../b?x');
  assert.equal(seen['host'], HOST);
  assert.equal(seen['authority'], `3000--DEMO.gateway.localhost.:${edge.port}`);
  assert.equal(seen['authorityPort'], edge.port);
  assert.equal(seen['clientAddress'], '127.0.0.1');
  assert.equal(seen['bytes'], 5);
  assert.deepEqual((seen['rawHeaders'] as string[]).slice(0, 6), ['hOsT', seen['authority'], 'X-a', '1', 'x-A', '2']);
});

test('CONNECT, TRACE and unknown methods are answered with 501', async () => {
  assert.deepEqual(await refused(`CONNECT ${HOST}:443 HTTP/1.1\r\nHost: ${HOST}:443\r\n\r\nhidden`), [
    501,
    'method_not_supported',
  ]);
  assert.deepEqual(await refused(get(`Host: ${HOST}\r\n`, 'TRACE / HTTP/1.1')), [501, 'method_not_supported']);
  assert.deepEqual(await refused(get(`Host: ${HOST}\r\n`, 'FROBNICATE / HTTP/1.1')), [501, 'method_not_supported']);
});

test('hosts: foreign 421, unknown 404, deeper 404; a foreign or other server name 421', async () => {
  assert.deepEqual(await refused(get('Host: evil.test\r\nConnection: close\r\n')), [421, 'misdirected']);
  assert.deepEqual(await refused(get('Host: 3000--demo.gateway.localhost.evil.test\r\n')), [421, 'misdirected']);
  assert.deepEqual(await refused(get('Host: a.b.gateway.localhost\r\n')), [404, 'not_found']);
  assert.deepEqual(await refused(get('Host: 22999s--demo.gateway.localhost\r\n')), [404, 'not_found']);
  assert.deepEqual(await refused(get(`Host: ${HOST}\r\n`), { servername: 'evil.test', rejectUnauthorized: false }), [
    421,
    'misdirected',
  ]);
  assert.deepEqual(await refused(get(`Host: ${HOST}\r\n`), { servername: 'tunnel.gateway.localhost' }), [
    421,
    'misdirected',
  ]);
});

test('a request head beyond the limit is 431, whoever sends it sees the answer', async () => {
  const [status, code] = await refused(get(`Host: ${HOST}\r\nX-A: ${'a'.repeat(200_000)}\r\n`));
  assert.deepEqual([status, code], [431, 'headers_too_large']);
  const many = Array.from({ length: 300 }, (_, index) => `a${index}: 1\r\n`).join('');
  assert.deepEqual(await refused(get(`Host: ${HOST}\r\n${many}`)), [431, 'headers_too_large']);
});

test('OPTIONS * and health are answered by the gateway', async () => {
  const close = 'Connection: close\r\n';
  const options = await exchangeRaw(edge, get(`Host: ${HOST}\r\n${close}`, 'OPTIONS * HTTP/1.1'));
  assert.equal(statusOf(options), 204);
  assert.match(options, /^Allow: GET, HEAD, POST/m);
  for (const host of ['gateway.localhost', '127.0.0.1', '127.0.0.1:12345', '[::1]']) {
    const health = await exchangeRaw(edge, get(`Host: ${host}\r\n${close}`, 'GET /_health?x HTTP/1.1'));
    assert.equal(statusOf(health), 200, host);
    assert.ok(health.endsWith('ok\n'));
  }
  assert.equal(statusOf(await exchangeRaw(edge, get(`Host: 127.0.0.1\r\n${close}`, 'POST /_health HTTP/1.1'))), 405);
  assert.equal(statusOf(await exchangeRaw(edge, get(`Host: 127.0.0.1\r\n${close}`))), 421);
  const onPort = await exchangeRaw(edge, get(`Host: ${HOST}\r\n${close}`, 'GET /_health HTTP/1.1'));
  assert.match(onPort, /"path":"\/_health"/, 'on a port host the path is the application’s');
});

test('an upgrade other than WebSocket is an ordinary request without its fields', async () => {
  const answer = await exchangeRaw(
    edge,
    get(`Host: ${HOST}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: close, Upgrade, HTTP2-Settings\r\n`),
  );
  assert.equal(statusOf(answer), 200);
  assert.doesNotMatch(answer, /h2c|AAMAAABk/);
});

test('HTTP/1.0 is answered, then closed, whatever it asks for', async () => {
  const answer = await exchangeRaw(edge, get(`Host: ${HOST}\r\nConnection: keep-alive\r\n`, 'GET / HTTP/1.0'));
  assert.equal(statusOf(answer), 200);
});

test('pipelined requests are answered in order, one at a time', async (t) => {
  const order: string[] = [];
  let inFlight = 0;
  let most = 0;
  const slow = await startFor(t, {
    forwarder: {
      request(exchange) {
        most = Math.max(most, (inFlight += 1));
        order.push(exchange.target);
        setImmediate(() => {
          inFlight -= 1;
          (exchange.response as ServerResponse).end(exchange.target);
        });
      },
    },
  });
  const requests = ['/1', '/2', '/3'].map((path) => get(`Host: ${HOST}\r\n`, `GET ${path} HTTP/1.1`)).join('');
  const answer = await exchangeRaw(slow, requests + get(`Host: ${HOST}\r\nHost: x\r\n`));
  assert.deepEqual(order, ['/1', '/2', '/3']);
  assert.equal(most, 1);
  assert.deepEqual(
    [...answer.matchAll(/HTTP\/1\.1 (\d+) /g)].map((match) => match[1]),
    ['200', '200', '200', '400'],
  );
});

test('a request behind one whose answer closes the connection is never started', async (t) => {
  const held: ServerResponse[] = [];
  const reached = Promise.withResolvers<void>();
  const own = await startFor(t, {
    forwarder: {
      request(exchange) {
        held.push(exchange.response as ServerResponse);
        reached.resolve();
      },
    },
  });
  const socket = await own.connect({ ALPNProtocols: ['http/1.1'] });
  const answer = readAll(socket);
  socket.write(get(`Host: ${HOST}\r\n`) + get(`Host: ${HOST}\r\n`, 'POST /behind HTTP/1.1'));
  await reached.promise;
  while (own.edge.stats().requestsInFlight < 2) await new Promise((resolve) => setImmediate(resolve));
  own.edge.drain();
  held[0]!.end('last');
  assert.match(await answer, /^HTTP\/1\.1 200 [^]*\r\nConnection: close\r\n[^]*last/);
  assert.equal(own.forwarded.length, 1);
  await own.edge.idle({ signal: AbortSignal.timeout(10_000) });
});

test('a body that breaks off into nonsense fails its request with 400 and reaches the access log', async () => {
  const started = edge.ended.length;
  const answer = await exchangeRaw(
    edge,
    `POST / HTTP/1.1\r\nHost: ${HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n`,
  );
  assert.equal(statusOf(answer), 400);
  const { exchange, status } = await edge.nextEnd(started + 1);
  assert.equal(status, 400);
  assert.equal(exchange.record.errorCode, 'bad_request');
  assert.ok(exchange.signal.aborted, 'the forwarder is told');
});

test('no exchange has an accessor of its own: V8 would keep each until a full collection', async (t) => {
  const own = await startFor(t, {});
  const socket = await own.connect({ ALPNProtocols: ['http/1.1'] });
  const answer = readAll(socket);
  socket.write(get(`Host: ${HOST}\r\nConnection: close\r\n`));
  await answer;
  const { exchange } = own.forwarded[0]!;
  const properties = Object.entries(Object.getOwnPropertyDescriptors(exchange));
  assert.ok(properties.length > 10);
  assert.deepEqual(
    properties.filter(([, { get: accessor }]) => accessor).map(([name]) => name),
    [],
  );
});

test('a client that leaves aborts its exchange; the access log says 499', async (t) => {
  let started!: () => void;
  const atForwarder = new Promise<void>((resolve) => (started = resolve));
  const silent = await startFor(t, { forwarder: { request: () => started() } });
  const socket = await silent.connect({ ALPNProtocols: ['http/1.1'] });
  socket.write(get(`Host: ${HOST}\r\n`));
  await atForwarder;
  const { exchange } = silent.forwarded[0]!;
  assert.equal(exchange.signal.aborted, false);
  socket.destroy();
  await once(exchange.signal, 'abort');
  assert.equal((await silent.nextEnd(1)).status, 499);
});

test('a failure after the response began cuts the connection: no clean end', async (t) => {
  const cutting = await startFor(t, {
    forwarder: {
      request(exchange) {
        (exchange.response as ServerResponse).write('half', () => exchange.fail('upstream_reset'));
      },
    },
  });
  const response = await new Promise<IncomingMessage>((resolve, reject) =>
    httpsRequest(
      { host: '127.0.0.1', port: cutting.port, ca: cutting.ca, servername: HOST, headers: { host: HOST } },
      resolve,
    )
      .once('error', reject)
      .end(),
  );
  response.resume();
  const [error] = (await once(response, 'error')) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'ECONNRESET');
  assert.equal(response.complete, false);
  assert.equal((await cutting.nextEnd(1)).exchange.record.errorCode, 'upstream_reset');
});

test('a fault in a handler is 500 for one request', async (t) => {
  const faulty = await startFor(t, {
    forwarder: {
      request() {
        throw new Error('boom');
      },
    },
  });
  const answer = await exchangeRaw(faulty, get(`Host: ${HOST}\r\nConnection: close\r\n`));
  assert.equal(statusOf(answer), 500);
  assert.equal(errorOf(answer), 'internal');
  assert.doesNotMatch(answer, /boom/);
});

test('after an error the connection goes on, with the rest of the body thrown away', async (t) => {
  const failing = await startFor(t, { forwarder: { request: (exchange) => exchange.fail('runner_offline') } });
  const body = 'x'.repeat(300_000);
  const answer = await exchangeRaw(
    failing,
    `POST / HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: ${body.length}\r\n\r\n${body}` +
      get(`Host: ${HOST}\r\nConnection: close\r\n`),
  );
  assert.equal(answer.match(/HTTP\/1\.1 503 /g)?.length, 2);
  assert.match(answer, /^Retry-After: 5\r$/m);
});

const upgradeHead = `GET /ws HTTP/1.1\r\nHost: ${HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`;

test('a WebSocket upgrade gives the forwarder the socket and what came behind the head', async (t) => {
  const upgrading = await startFor(t, {
    forwarder: {
      upgrade(exchange: UpgradeExchange) {
        exchange.record.status = 101;
        exchange.socket.write(`HTTP/1.1 101 Switching Protocols\r\n\r\n${exchange.head.toString()}`);
        exchange.socket.pipe(exchange.socket);
      },
    },
  });
  const socket = await upgrading.connect({ ALPNProtocols: ['http/1.1'] });
  const all = readAll(socket);
  socket.write(`${upgradeHead}\r\nearly`);
  await once(socket, 'data');
  assert.deepEqual(upgrading.edge.stats().upgrades, 1);
  socket.end(' and late');
  assert.equal(await all, 'HTTP/1.1 101 Switching Protocols\r\n\r\nearly and late');
  const { status, exchange } = await upgrading.nextEnd(1);
  assert.equal(status, 101);
  assert.ok(exchange.signal.aborted);
});

test('upgraded streams are half-open: the client may end first and still be sent to', async (t) => {
  const upgrading = await startFor(t, {
    forwarder: {
      upgrade({ socket, record }) {
        record.status = 101;
        socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n');
        socket.resume();
        // Long enough after the client's end that an automatic end would have come first.
        socket.once('end', () => setImmediate(() => setImmediate(() => socket.end('after the end'))));
      },
    },
  });
  const socket = await upgrading.connect({ ALPNProtocols: ['http/1.1'], allowHalfOpen: true } as object);
  const all = readAll(socket);
  socket.write(`${upgradeHead}\r\n`);
  await once(socket, 'data');
  socket.end();
  assert.match(await all, /after the end$/);
});

test('a refused upgrade is an ordinary answer, then the end', async () => {
  const answer = await exchangeRaw(edge, `${upgradeHead}\r\n`);
  assert.equal(statusOf(answer), 404);
  assert.equal(errorOf(answer), 'port_not_exposed');
  assert.match(answer, /^Connection: close\r$/m);
  assert.deepEqual(await refused(`${upgradeHead}Content-Length: 5\r\n\r\nhello`), [400, 'bad_request']);
  assert.deepEqual(
    await refused(`GET / HTTP/1.1\r\nHost: gateway.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`),
    [404, 'not_found'],
  );
});

test('an upgrade behind an unanswered request is refused', async (t) => {
  const silent = await startFor(t, { forwarder: { request: () => {} } });
  await exchangeRaw(silent, get(`Host: ${HOST}\r\n`) + `${upgradeHead}\r\n`);
  assert.deepEqual(
    silent.forwarded.map(({ exchange }) => exchange.target),
    ['/'],
  );
});

test('the plain listener redirects to https and answers health', async () => {
  const plain = async (bytes: string): Promise<string> => {
    const socket = connect(edge.plainPort, '127.0.0.1');
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.end(bytes);
    await once(socket, 'close');
    return Buffer.concat(chunks).toString('latin1');
  };
  const close = 'Connection: close\r\n';
  const redirect = await plain(
    get(`Host: ${HOST.toUpperCase()}:${edge.plainPort}\r\n${close}`, 'POST //a/%zz?b HTTP/1.1'),
  );
  assert.equal(statusOf(redirect), 308);
  assert.match(redirect, new RegExp(`^Location: https://${HOST}//a/%zz\\?b\r$`, 'm'));
  assert.equal(statusOf(await plain(get(`Host: 127.0.0.1\r\n${close}`, 'GET /_health HTTP/1.1'))), 200);
  assert.equal(statusOf(await plain(get(`Host: evil.test\r\n${close}`))), 421);
  assert.equal(statusOf(await plain(get(`Host: ${HOST}:1\r\n${close}`))), 400);
  assert.equal(statusOf(await plain(get(`Host: ${HOST}\r\nHost: ${HOST}\r\n`))), 400);
  assert.equal(statusOf(await plain('nonsense\r\n\r\n')), 400);
});
