import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectHttp2, constants, type ClientHttp2Session, type OutgoingHttpHeaders } from 'node:http2';
import type { ServerResponse } from 'node:http';
import { after, before, test, type TestContext } from 'node:test';
import Fastify from 'fastify';
import { frame, headerBlock, startRawHttp2 } from '../support/raw-http2.ts';
import { until } from '../support/runner.ts';
import { startEdge, type EdgeTestOptions, type EdgeUnderTest } from '../support/edge.ts';

const HOST = '3000--demo.gateway.localhost';
let edge: EdgeUnderTest;
before(async () => {
  edge = await startEdge();
});
after(() => edge.close());

const startFor = async (t: TestContext, options: EdgeTestOptions): Promise<EdgeUnderTest> => {
  const own = await startEdge(options);
  t.after(() => own.close());
  return own;
};
const openSession = async (to: EdgeUnderTest, servername = HOST): Promise<ClientHttp2Session> => {
  const socket = await to.connect({ ALPNProtocols: ['h2'], servername });
  const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket });
  session.on('error', () => {});
  await once(session, 'remoteSettings');
  return session;
};

interface Answer {
  readonly status: number | undefined;
  readonly headers: Record<string, unknown>;
  readonly body: string;
  /** Code of RST_STREAM, 0 for a clean end. */
  readonly reset: number;
}
const ask = (session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string): Promise<Answer> =>
  new Promise((resolve) => {
    const stream = session.request(headers, { endStream: body === undefined });
    let received: Record<string, unknown> = {};
    const chunks: Buffer[] = [];
    stream.on('response', (fields) => (received = fields));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('error', () => {});
    stream.on('close', () =>
      resolve({
        status: received[':status'] as number | undefined,
        headers: received,
        body: Buffer.concat(chunks).toString(),
        reset: stream.rstCode ?? 0,
      }),
    );
    if (body !== undefined) stream.end(body);
  });

test('requests of several hosts share a connection, and each is routed by its own authority', async () => {
  const session = await openSession(edge);
  const answers = await Promise.all(
    ['a', 'b', 'c'].map((id) =>
      ask(session, { ':path': `//x/%zz?${id}`, ':authority': `3000--${id}.gateway.localhost` }),
    ),
  );
  assert.deepEqual(
    answers.map(({ body }) => (JSON.parse(body) as { target: { environmentId: string } }).target.environmentId),
    ['a', 'b', 'c'],
  );
  session.close();
});

test('a body passes, with the length it names', async () => {
  const session = await openSession(edge);
  const answer = await ask(session, { ':method': 'POST', ':path': '/' }, 'x'.repeat(300_000));
  assert.equal((JSON.parse(answer.body) as { bytes: number }).bytes, 300_000);
  session.close();
});

const refusals: Readonly<Record<string, [OutgoingHttpHeaders, number]>> = {
  'scheme http': [{ ':path': '/', ':scheme': 'http' }, 400],
  'authority differs from host': [{ ':path': '/', ':authority': HOST, host: '3000--other.gateway.localhost' }, 400],
  'absolute path': [{ ':path': `https://${HOST}/` }, 400],
  'space in the path': [{ ':path': '/a b' }, 400],
  'fragment in the path': [{ ':path': '/a#b' }, 400],
  'foreign host': [{ ':path': '/', ':authority': 'evil.test' }, 421],
  'malformed host': [{ ':path': '/', ':authority': 'a b' }, 400],
  transfer_encoding: [{ ':path': '/', transfer_encoding: 'chunked' }, 400],
  TRACE: [{ ':path': '/', ':method': 'TRACE' }, 501],
  CONNECT: [{ ':method': 'CONNECT', ':authority': `${HOST}:443` }, 501],
  'unknown expectation': [{ ':path': '/', expect: 'x' }, 417],
};
for (const [name, [headers, status]] of Object.entries(refusals)) {
  test(`refused with ${status}: ${name}`, async () => {
    const reached = edge.forwarded.length;
    const session = await openSession(edge);
    const answer = await ask(session, headers);
    // nghttp2 refuses some by itself, with a reset.
    if (answer.status !== undefined) assert.equal(answer.status, status);
    else assert.notEqual(answer.reset, 0);
    assert.equal(edge.forwarded.length, reached);
    session.close();
  });
}

test('a content-length that lies resets the stream', async () => {
  const session = await openSession(edge);
  const answer = await ask(session, { ':method': 'POST', ':path': '/', 'content-length': '3' }, 'longer');
  assert.notEqual(answer.reset, 0);
  assert.equal(answer.status, undefined);
  session.close();
});

test('a connection for the tunnel name carries no other host', async () => {
  const session = await openSession(edge, 'tunnel.gateway.localhost');
  assert.equal((await ask(session, { ':path': '/' })).status, 421);
  session.close();
});

test('a failure after the response began resets the stream and no other', async (t) => {
  const cutting = await startFor(t, {
    forwarder: {
      request(exchange) {
        const response = exchange.response as ServerResponse;
        if (exchange.target === '/good') return void response.end('good');
        response.write('half', () => exchange.fail('upstream_reset'));
      },
    },
  });
  const session = await openSession(cutting);
  const [cut, good] = await Promise.all([ask(session, { ':path': '/cut' }), ask(session, { ':path': '/good' })]);
  assert.equal(cut.status, 200);
  assert.equal(cut.reset, constants.NGHTTP2_INTERNAL_ERROR);
  assert.deepEqual([good.reset, good.body], [0, 'good']);
  session.close();
});

test('HEAD errors have headers and no body', async (t) => {
  const own = await startFor(t, { forwarder: { request: (exchange) => exchange.fail('runner_offline') } });
  const session = await openSession(own);
  const head = await ask(session, { ':path': '/', ':method': 'HEAD' });
  assert.equal(head.status, 503);
  assert.equal(head.headers['gateway-error'], 'runner_offline');
  assert.equal(head.headers['retry-after'], '5');
  assert.equal(head.body, '');
  assert.ok(Number(head.headers['content-length']) > 0);
  session.close();
});

test('a reset by the client aborts its exchange; the access log says 499', async (t) => {
  let reached!: () => void;
  const atForwarder = new Promise<void>((resolve) => (reached = resolve));
  const own = await startFor(t, { forwarder: { request: () => reached() } });
  const session = await openSession(own);
  const stream = session.request({ ':path': '/' });
  stream.on('error', () => {});
  await atForwarder;
  stream.close(constants.NGHTTP2_CANCEL);
  const { exchange, status } = await own.nextEnd(1);
  assert.equal(status, 499);
  assert.ok(exchange.signal.aborted);
  session.close();
});

/** `GET / https` for {@link HOST}. */
const GET_HEAD = headerBlock([
  [':method', 'GET'],
  [':scheme', 'https'],
  [':path', '/'],
  [':authority', HOST],
]);
const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0, Buffer.alloc(0))]);

/** Sends what `next` gives for stream after stream, until the server has closed the connection; at most `most` times. */
const floodUntilClosed = async (
  own: EdgeUnderTest,
  most: number,
  next: (streamId: number) => Buffer,
): Promise<number> => {
  const socket = await own.connect({ ALPNProtocols: ['h2'] });
  socket.on('error', () => {});
  socket.resume();
  const closed = once(socket, 'close');
  socket.write(PREFACE);
  let sent = 0;
  while (sent < most && socket.writable) {
    socket.write(next(2 * sent + 1));
    sent += 1;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await closed;
  return sent;
};

test('rapid reset: work at the upstream stays within the limit, the connection is closed, others are served', async (t) => {
  const own = await startFor(t, {
    limits: { requestsInFlightPerConnection: 20, resetsPerConnection: 60 },
    forwarder: {
      request: (exchange, target) =>
        void (target.environmentId === 'quiet' && (exchange.response as ServerResponse).end('ok')),
    },
  });
  const quiet = await openSession(own);
  const cancel = Buffer.from([0, 0, 0, constants.NGHTTP2_CANCEL]);
  await floodUntilClosed(own, 5_000, (id) => Buffer.concat([frame(1, 5, id, GET_HEAD), frame(3, 0, id, cancel)]));
  assert.ok(own.forwarded.length <= 60, `${own.forwarded.length} requests were started`);
  const open = own.forwarded.filter(({ exchange }) => !exchange.signal.aborted);
  assert.equal(open.length, 0, 'every request that was started is aborted');
  assert.equal((await ask(quiet, { ':path': '/', ':authority': '3000--quiet.gateway.localhost' })).body, 'ok');
  quiet.close();
});

test('resets that a client forces (MadeYouReset) close the connection after ten', async (t) => {
  const own = await startFor(t, { forwarder: { request: () => {} } });
  // WINDOW_UPDATE of zero is an error of the stream (RFC 9113 section 6.9): the server has to reset it.
  await floodUntilClosed(own, 5_000, (id) =>
    Buffer.concat([frame(1, 5, id, GET_HEAD), frame(8, 0, id, Buffer.alloc(4))]),
  );
  assert.ok(own.forwarded.length <= 10, `${own.forwarded.length} requests were started`);
});

test('requests that wait for a slot are served when one is free', async (t) => {
  const held: (() => void)[] = [];
  let reached!: () => void;
  const own = await startFor(t, {
    limits: { requestsInFlightPerConnection: 2 },
    forwarder: {
      request(exchange) {
        held.push(() => (exchange.response as ServerResponse).end());
        reached?.();
      },
    },
  });
  const session = await openSession(own);
  assert.equal(session.remoteSettings.maxConcurrentStreams, 2);
  const answers = ['/1', '/2', '/3'].map((path) => ask(session, { ':path': path }));
  while (held.length < 2) await new Promise<void>((resolve) => (reached = resolve));
  assert.equal(own.edge.stats().requestsInFlight, 2);
  for (let index = 0; index < 3; index++) {
    while (held.length <= index) await new Promise<void>((resolve) => (reached = resolve));
    held[index]!();
  }
  for (const answer of await Promise.all(answers)) assert.equal(answer.status, 200);
  session.close();
});

test('too many fields: 431; a list beyond the limit: refused', async (t) => {
  const own = await startFor(t, {});
  const session = await openSession(own);
  const many: OutgoingHttpHeaders = { ':path': '/' };
  for (let index = 0; index < 300; index++) many[`x-${index}`] = '1';
  assert.equal((await ask(session, many)).status, 431);
  const large = await ask(session, { ':path': '/', 'x-large': 'a'.repeat(70_000) });
  assert.notEqual(large.status, 200);
  assert.equal(own.forwarded.length, 0);
  session.destroy();
});

test('a Fastify instance answers for its hosts over both protocols', async (t) => {
  const app = Fastify();
  app.get('/v1/hello', (request) => ({ hello: request.hostname }));
  await app.ready();
  t.after(() => app.close());
  const own = await startFor(t, {
    handlers: {
      apex: (_request, _response, exchange) => exchange.fail('not_found'),
      api: (request, response) => app.routing(request as never, response as never),
    },
  });
  const session = await openSession(own);
  const answer = await ask(session, { ':path': '/v1/hello', ':authority': 'api.gateway.localhost' });
  assert.equal(answer.status, 200);
  assert.match(answer.body, /hello/);
  const missing = await ask(session, { ':path': '/', ':authority': 'gateway.localhost' });
  assert.equal(missing.status, 404);
  assert.equal(missing.headers['gateway-error'], 'not_found');
  session.close();
});

test('draining: the session is told to go, what is in flight ends well', async (t) => {
  const held: (() => void)[] = [];
  let reached!: () => void;
  const atForwarder = new Promise<void>((resolve) => (reached = resolve));
  const own = await startFor(t, {
    forwarder: {
      request(exchange) {
        held.push(() => (exchange.response as ServerResponse).end('late'));
        reached();
      },
    },
  });
  const session = await openSession(own);
  const answer = ask(session, { ':path': '/' });
  await atForwarder;
  const goneAway = once(session, 'goaway');
  own.edge.drain();
  own.edge.drain();
  await goneAway;
  const idle = own.edge.idle({ signal: AbortSignal.timeout(10_000) });
  held[0]!();
  assert.equal((await answer).body, 'late');
  await idle;
  await assert.rejects(own.connect(), { code: 'ECONNREFUSED' });
  if (!session.closed) await once(session, 'close');
});

test('draining: what passes GOAWAY on its way is not begun, and the client can tell', async (t) => {
  const held: (() => void)[] = [];
  const own = await startFor(t, {
    forwarder: { request: (exchange) => held.push(() => (exchange.response as ServerResponse).end('late')) },
  });
  const raw = startRawHttp2(await own.connect({ ALPNProtocols: ['h2'], servername: HOST }));
  const first = raw.open(GET_HEAD);
  await until(() => held.length === 1);
  own.edge.drain();
  await until(() => raw.goaway !== undefined);
  assert.deepEqual([raw.goaway, raw.lastStreamId], [constants.NGHTTP2_NO_ERROR, first]);
  const crossed = raw.open(GET_HEAD);
  held[0]!();
  assert.deepEqual((await raw.answer(first)).body, 'late');
  await raw.closed;
  assert.equal((await raw.answer(crossed)).status, undefined);
  assert.equal(own.forwarded.length, 1);
});
