/** The inspector with a real gateway before it and real applications behind it: what it sees, and what nobody notices. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { type Duplex, Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { WebSocket, WebSocketServer } from 'ws';
import { systemClock } from '../../shared/src/clock.ts';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import { createDialer } from '../../tunnel-client/src/dialer.ts';
import {
  createInspector,
  type ExchangeSummary,
  type ExchangeView,
  type Inspector,
  type InspectorTap,
} from '../../tunnel-client/src/inspector/inspector.ts';
import { KEPT_BODY_BYTES } from '../../tunnel-client/src/inspector/request-store.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { memoryPair } from '../support/connection-pairs.ts';
import { makeLegs, never, readAll, target } from '../support/legs.ts';
import { until } from '../support/runner.ts';
import { type Application, httpApplication, httpsApplication } from '../support/applications.ts';
import { portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';

const SECRET = 's3cr3t';
const ENVIRONMENT = 'shop';
const LARGE = randomBytes(3 << 20);

const hashOf = async (readable: Readable): Promise<string> => {
  const hash = createHash('sha256');
  for await (const chunk of readable as AsyncIterable<Buffer>) hash.update(chunk);
  return hash.digest('hex');
};

/** What the application has been sent, as it arrived. */
const arrived: {
  method: string | undefined;
  url: string | undefined;
  authorization: string | undefined;
  body: string;
}[] = [];
let endEvents: (() => void) | undefined;

const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const { pathname } = new URL(request.url ?? '/', 'http://application');
  if (pathname === '/upload') return void response.end(await hashOf(request));
  const body = await readAll(request);
  const { authorization } = request.headers;
  arrived.push({ method: request.method, url: request.url, authorization, body: body.toString() });
  if (pathname === '/large') return void response.end(LARGE);
  if (pathname === '/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: one\n\n');
    endEvents = () => void response.end('data: two\n\n');
    return;
  }
  if (pathname === '/endless') {
    const endless = Readable.from(
      (function* () {
        for (;;) yield LARGE.subarray(0, 64 << 10);
      })(),
    );
    return void endless.pipe(response.once('close', () => endless.destroy()));
  }
  if (pathname === '/cut') {
    response.writeHead(200, { 'content-length': '10' });
    response.write('abc');
    return void setImmediate(() => response.destroy());
  }
  const json = JSON.stringify({ count: arrived.length, token: SECRET });
  response.writeHead(200, {
    'content-type': 'application/json',
    'set-cookie': `sid=${SECRET}; HttpOnly`,
    ...(pathname === '/gzip' ? { 'content-encoding': 'gzip' } : {}),
  });
  response.end(pathname === '/gzip' ? gzipSync(json) : json);
};

describe('the inspector', () => {
  let way: WholeWay;
  let application: Application;
  let secure: Application;
  let inspector: Inspector;
  let host: string;
  const sockets = new WebSocketServer({ noServer: true });
  before(async () => {
    application = await httpApplication((request, response) => void answer(request, response));
    application.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      sockets.handleUpgrade(request, socket, head, (opened) =>
        opened.on('message', (data, isBinary) => opened.send(data, { binary: isBinary })),
      ),
    );
    secure = await httpsApplication((request, response) => void answer(request, response));
    way = await startWholeWay({ runner: { inspector: true } });
    await way.expose(ENVIRONMENT, [application.port, { port: secure.port, protocol: 'https' }]);
    const { client } = way.runner;
    assert.ok(client.inspector);
    inspector = client.inspector;
    host = portHost(ENVIRONMENT, application.port);
  });
  after(async () => {
    await way?.close();
    await application?.close();
    await secure?.close();
  });

  const visit = async (
    path: string,
    options: { method?: string; body?: Buffer | string; headers?: Record<string, string>; at?: string } = {},
  ): Promise<{ status: number | undefined; body: Buffer }> => {
    const { method = 'GET', body, headers = {}, at = host } = options;
    const outgoing = httpsRequest(way.to(at, path, { method, headers }));
    outgoing.end(body);
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    return { status: response.statusCode, body: await readAll(response) };
  };
  /** The newest one of `path`, as soon as `holds`. */
  const seen = async (
    path: string,
    holds = (each: ExchangeSummary) => each.state !== 'open',
  ): Promise<ExchangeView> => {
    let found: ExchangeSummary | undefined;
    await until(() => {
      found = inspector.list(ENVIRONMENT).find(({ target: shown }) => shown?.startsWith(path));
      return found !== undefined && holds(found);
    });
    const view = await inspector.get(ENVIRONMENT, found?.id ?? '');
    assert.ok(view);
    return view;
  };

  it('keeps requests and responses with their headers and bodies, without their secrets', async () => {
    await visit(`/login?next=%2F&code=${SECRET}`, {
      method: 'POST',
      body: JSON.stringify({ user: 'me', password: SECRET }),
      headers: { 'content-type': 'application/json', authorization: `Bearer ${SECRET}`, cookie: `a=${SECRET}` },
    });
    const view = await seen('/login');
    assert.deepEqual(
      [view.method, view.target, view.status, view.state, view.port],
      ['POST', '/login?next=%2F&code=[redacted]', 200, 'done', application.port],
    );
    assert.equal(view.request.body.content?.text, '{"user":"me","password":"[redacted]"}');
    assert.match(view.response.body.content?.text ?? '', /^\{"count":\d+,"token":"\[redacted\]"\}$/);
    const headers = new Map(view.request.headers.map(([name, value]) => [name.toLowerCase(), value]));
    assert.equal(headers.get('authorization'), 'Bearer [redacted]');
    assert.equal(headers.get('cookie'), 'a=[redacted]');
    assert.ok(
      view.response.headers.some(([name, value]) => name === 'set-cookie' && value.startsWith('sid=[redacted]')),
    );
    assert.ok(view.durationMs !== undefined && view.answeredAfterMs !== undefined);
    assert.ok(view.durationMs >= view.answeredAfterMs);
    assert.ok(!JSON.stringify([view, inspector.list(ENVIRONMENT)]).includes(SECRET));
    // The application got all of it.
    assert.equal(arrived.at(-1)?.authorization, `Bearer ${SECRET}`);
  });

  it('tells requests on a kept connection apart, over HTTP/1.1 and HTTP/2', async () => {
    const session = await way.connectH2(host);
    const paths = Array.from({ length: 20 }, (_, index) => `/kept/${index}`);
    for (const path of paths.slice(0, 10)) {
      const stream = session.request({ ':path': path, ':authority': `${host}:${way.gateway.httpsPort}` });
      await hashOf(stream);
    }
    session.close();
    const before = application.connections();
    for (const path of paths.slice(10)) await visit(path);
    assert.ok(application.connections() - before < 10, 'connections to the application are kept');
    for (const path of paths) assert.equal((await seen(path)).status, 200, path);
    assert.equal((await seen('/kept/9')).response.body.content?.kind, 'text');
  });

  it('shows gzip as what it is, and what a TLS application answers', async () => {
    await visit('/gzip');
    const { response } = await seen('/gzip');
    assert.deepEqual(response.body.decoded, ['gzip']);
    assert.match(response.body.content?.text ?? '', /"token":"\[redacted\]"/);
    await visit('/secure', { at: portHost(ENVIRONMENT, secure.port) });
    const view = await seen('/secure');
    assert.deepEqual([view.status, view.port], [200, secure.port]);
  });

  it('changes no byte of a large upload or download, and keeps their beginning', async () => {
    const [up, down] = await Promise.all([
      visit('/upload', { method: 'PUT', body: LARGE }),
      visit('/large', { headers: { 'accept-encoding': 'identity' } }),
    ]);
    assert.equal(up.body.toString(), createHash('sha256').update(LARGE).digest('hex'));
    assert.ok(down.body.equals(LARGE));
    const upload = await seen('/upload');
    assert.deepEqual([upload.requestBytes, upload.request.body.isTruncated], [LARGE.length, true]);
    assert.match(upload.noReplay ?? '', /not kept whole/);
    const download = await seen('/large');
    const { content } = download.response.body;
    assert.ok(content?.kind === 'base64');
    assert.ok(Buffer.from(content.text, 'base64').equals(LARGE.subarray(0, KEPT_BODY_BYTES)));
  });

  it('waits no less than without it for who does not read', async () => {
    const outgoing = httpsRequest(way.to(host, '/endless'));
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    const passed = (): number =>
      inspector.list(ENVIRONMENT).find(({ target: of }) => of === '/endless')?.responseBytes ?? 0;
    // Nothing more comes while nobody reads: a second of looks.
    let [last, looks] = [-1, 0];
    await until(() => {
      looks = passed() === last ? looks + 1 : 0;
      last = passed();
      return last > 0 && looks > 50;
    });
    let received = 0;
    response.on('data', (chunk: Buffer) => (received += chunk.length));
    await until(() => received > last && passed() > last);
    response.destroy();
    await seen('/endless');
  });

  it('shows events while they come', async () => {
    const outgoing = httpsRequest(way.to(host, '/events'));
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    const body = readAll(response);
    const open = await seen('/events', ({ responseBytes }) => responseBytes > 0);
    assert.deepEqual([open.state, open.status, open.durationMs], ['open', 200, undefined]);
    assert.equal(open.response.body.content?.text, 'data: one\n\n');
    const changes: (readonly ExchangeSummary[])[] = [];
    const stop = inspector.watch(ENVIRONMENT, (changed) => changes.push(changed));
    endEvents?.();
    assert.equal((await body).toString(), 'data: one\n\ndata: two\n\n');
    assert.equal((await seen('/events')).response.body.content?.text, 'data: one\n\ndata: two\n\n');
    await until(() => changes.flat().some(({ id, state }) => id === open.id && state === 'done'));
    stop();
  });

  it('counts the bytes of a WebSocket', async () => {
    const socket = new WebSocket(`wss://${host}:${way.gateway.httpsPort}/ws?token=${SECRET}`, {
      rejectUnauthorized: false,
      lookup: (_name, _options, found) => found(null, [{ address: '127.0.0.1', family: 4 }] as never, 4),
    });
    await once(socket, 'open');
    const message = 'x'.repeat(1_000);
    socket.send(message);
    const [data] = (await once(socket, 'message')) as [Buffer];
    assert.equal(data.toString(), message);
    const open = await seen('/ws', ({ responseBytes }) => responseBytes >= 1_000);
    assert.deepEqual([open.state, open.status, open.target], ['upgraded', 101, '/ws?token=[redacted]']);
    assert.ok(open.passed.request >= 1_000 && open.durationMs === undefined);
    assert.match(open.noReplay ?? '', /another protocol/);
    socket.close();
    await once(socket, 'close');
    await seen('/ws', ({ durationMs }) => durationMs !== undefined);
  });

  it('marks what an application has cut', async () => {
    await assert.rejects(visit('/cut'));
    const { state, response } = await seen('/cut');
    assert.deepEqual([state, response.body.content?.text], ['cut', 'abc']);
  });

  it('sends a request again, whole, and keeps what comes of it', async () => {
    const body = `{"password":"${SECRET}"}`;
    await visit(`/again?code=${SECRET}`, { method: 'POST', body, headers: { authorization: `Bearer ${SECRET}` } });
    const first = await seen('/again');
    assert.equal(first.noReplay, undefined);
    const count = arrived.length;
    const id = await inspector.replay(ENVIRONMENT, first.id);
    const again = await seen('/again', (each) => each.id === id && each.state !== 'open');
    assert.deepEqual([again.replayOf, again.status, again.state], [first.id, 200, 'done']);
    assert.deepEqual(arrived.slice(count), [
      { method: 'POST', url: `/again?code=${SECRET}`, authorization: `Bearer ${SECRET}`, body },
    ]);
    assert.ok(!JSON.stringify(again).includes(SECRET));
    await assert.rejects(inspector.replay(ENVIRONMENT, '999999'), { code: 'not_found' });
    const upload = await seen('/upload');
    await assert.rejects(inspector.replay(ENVIRONMENT, upload.id), { code: 'not_replayable' });
    // Where the port is no longer exposed, it is not for a replay either.
    await way.expose(ENVIRONMENT, [secure.port]);
    await assert.rejects(inspector.replay(ENVIRONMENT, first.id), { code: 'unreachable' });
    await way.expose(ENVIRONMENT, [application.port, { port: secure.port, protocol: 'https' }]);
    assert.equal(arrived.length, count + 1);
  });

  it('sees nothing of logs and callbacks, and forgets when it is asked to', () => {
    assert.deepEqual(
      inspector.environments().map(({ id }) => id),
      [ENVIRONMENT],
    );
    inspector.clear(ENVIRONMENT);
    assert.deepEqual([inspector.environments(), inspector.bytes()], [[], 0]);
  });
});

describe('the inspector on a connection', () => {
  /** A stream to an application that echoes, joined by a dialer with and without an inspector. */
  const join = async (inspector?: InspectorTap) => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => undefined);
      socket.pipe(socket);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const dialer = createDialer({
      clock: systemClock,
      log: silentLogger,
      resolver: createResolver({ clock: systemClock }),
      environment: () => environmentSchema.parse({ id: 'demo', ports: [{ port }] }),
      ownPorts: () => [],
      ...(inspector ? { inspector } : {}),
    });
    const joined: { stream?: IncomingTunnelStream; upstream?: Readable } = {};
    const legs = await makeLegs(memoryPair, {
      runnerHandlers: {
        onStream(stream) {
          joined.stream = stream;
          stream.once('pipe', (source: Readable) => (joined.upstream = source));
          dialer.handle(stream);
        },
      },
    });
    const stream = legs.gateway.openStream(target({ port }), { signal: never });
    await stream.connected;
    await until(() => joined.upstream !== undefined);
    return {
      listeners: [joined.stream?.listenerCount('data'), joined.upstream?.listenerCount('data')],
      stream,
      async close() {
        dialer.abort();
        await legs.close();
        server.close();
        await once(server, 'close');
      },
    };
  };
  const create = () =>
    createInspector({ clock: systemClock, log: silentLogger, connect: () => Promise.reject(new Error('not here')) });

  it('is nothing but one listener in each direction, and none when it is off', async () => {
    const off = await join();
    assert.deepEqual(off.listeners, [1, 1]);
    await off.close();
    const inspector = create();
    const on = await join(inspector);
    assert.deepEqual(on.listeners, [2, 2]);
    await on.close();
    inspector.close();
  });

  it('lets bytes that are no HTTP pass as they are', async () => {
    const inspector = create();
    const { stream, close } = await join(inspector);
    const bytes = randomBytes(1 << 20);
    stream.end(bytes);
    assert.ok((await readAll(stream)).equals(bytes));
    await until(() => inspector.list('demo')[0]?.durationMs !== undefined);
    const [summary, ...others] = inspector.list('demo');
    assert.deepEqual([summary?.state, summary?.method, others.length], ['other', undefined, 0]);
    await close();
    inspector.close();
  });
});
