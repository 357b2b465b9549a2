/** Callbacks on runner hosts: what reaches the runner's service, what comes back, and what never gets through. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage, RequestListener } from 'node:http';
import { connect as connectTls } from 'node:tls';
import { test, type TestContext } from 'node:test';
import { CALLBACK_PATH, startCallbackWorld, toService, type CallbackWorld } from '../support/callbacks.ts';
import { startUpstream, type TestUpstream } from '../support/runner.ts';
import type { Enrolled, RunnerLeg } from '../support/tunnels.ts';

const FORM = { 'content-type': 'application/x-www-form-urlencoded' };

interface Arrived {
  readonly request: IncomingMessage;
  readonly body: string;
}

interface Scene extends CallbackWorld {
  readonly runner: Enrolled;
  readonly leg: RunnerLeg;
  readonly service: TestUpstream;
  readonly arrived: Arrived[];
  ask: (path: string, options?: Parameters<CallbackWorld['request']>[2]) => ReturnType<CallbackWorld['request']>;
}

/** A runner with a leg, and a service behind it that answers with `answer` once it has the whole request. */
const startScene = async (
  t: TestContext,
  answer: RequestListener = (_, response) => response.end('done'),
): Promise<Scene> => {
  const arrived: Arrived[] = [];
  const service = await startUpstream((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      arrived.push({ request, body: Buffer.concat(chunks).toString('latin1') });
      answer(request, response);
    });
  });
  t.after(() => service.close());
  const world = await startCallbackWorld();
  t.after(() => world.close());
  const runner = await world.tunnels.enrol();
  const leg = await runner.dial({ onStream: toService(service.port) });
  return {
    ...world,
    runner,
    leg,
    service,
    arrived,
    ask: (path, options) => world.request(runner.id, path, options),
  };
};

test('a GET reaches the service byte for byte, and its redirect and cookies come back', async (t) => {
  const scene = await startScene(t, (_request, response) => {
    response.writeHead(302, [
      'Location', '/signed-in?for=me',
      'Set-Cookie', 'session=1; HttpOnly; Path=/',
      'Set-Cookie', 'other=2; Domain=gateway.localhost; Path=/',
      'Set-Cookie', '__Host-gitpod_logs=stolen; Secure; Path=/',
      'Cache-Control', 'public, max-age=3600',
      'Referrer-Policy', 'unsafe-url',
      'X-Of-The-Service', 'yes',
    ]); // prettier-ignore
    response.end();
  });
  // What URL parsers rewrite, and what form parsers would decode.
  const query = "?code=a'b|c%2fd%2F%41+e&code=2&state={x}&&=&empty";
  const answer = await scene.ask(`${CALLBACK_PATH}${query}`, {
    headers: {
      cookie: 'a=1; __Host-gitpod_logs=ours; b=2',
      'x-forwarded-for': '203.0.113.9',
      'x-of-the-client': 'kept',
      'content-length': '0',
    },
  });
  assert.equal(answer.status, 302);
  assert.equal(answer.headers.location, '/signed-in?for=me');
  assert.deepEqual(answer.headers['set-cookie'], ['session=1; HttpOnly; Path=/', 'other=2; Path=/']);
  assert.equal(answer.headers['cache-control'], 'no-store');
  assert.equal(answer.headers['referrer-policy'], 'no-referrer');
  assert.equal(answer.headers['x-of-the-service'], 'yes');

  const [{ request, body }] = scene.arrived as [Arrived];
  assert.equal(request.method, 'GET');
  assert.equal(request.url, `${CALLBACK_PATH}${query}`);
  assert.equal(body, '');
  const host = `${scene.runner.id}.gateway.localhost:${scene.edge.port}`;
  assert.equal(request.headers.host, host);
  assert.equal(request.headers['x-forwarded-host'], host);
  assert.equal(request.headers['x-forwarded-proto'], 'https');
  assert.equal(request.headers['x-forwarded-for'], '127.0.0.1');
  assert.equal(request.headers['x-of-the-client'], 'kept');
  assert.equal(request.headers.cookie, 'a=1; b=2');

  const { exchange, status } = await scene.edge.nextEnd(1);
  assert.equal(status, 302);
  assert.equal(exchange.record.runnerId, scene.runner.id);
  assert.equal(exchange.record.legId, scene.tunnels.registry.legs()[0]?.legId);
  assert.ok(exchange.record.upstreamMs !== undefined && exchange.record.tunnelMs !== undefined);
});

test('a form of a POST reaches the service, with and without a length, over HTTP/1.1 and HTTP/2', async (t) => {
  const scene = await startScene(t, (_request, response) => response.end('thanks'));
  const form = `code=${'x'.repeat(60_000)}&state=%2B+%C3%A4&id_token=e30.e30.`;
  const type = 'application/x-www-form-urlencoded; charset=UTF-8';
  const answers = [
    await scene.ask(CALLBACK_PATH, { method: 'POST', headers: { 'content-type': type }, payload: form }),
    await scene.ask(CALLBACK_PATH, {
      method: 'POST',
      headers: { 'content-type': type, 'transfer-encoding': 'chunked' },
      payload: form,
    }),
  ];
  for (const { status, body } of answers) assert.deepEqual([status, body], [200, 'thanks']);
  const session = await scene.connectH2(scene.runner.id);
  const stream = session.request({ ':method': 'POST', ':path': CALLBACK_PATH, 'content-type': type });
  stream.end(form);
  const [head] = (await once(stream, 'response')) as [Record<string, string>];
  assert.equal(head[':status'], 200);
  assert.equal(head['cache-control'], 'no-store');
  assert.equal(head['referrer-policy'], 'no-referrer');
  stream.resume();
  await once(stream, 'close');

  assert.equal(scene.arrived.length, 3);
  for (const { request, body } of scene.arrived) {
    assert.equal(request.method, 'POST');
    assert.equal(body, form);
    assert.equal(request.headers['content-type'], type);
    assert.equal(request.headers['content-length'], String(form.length));
  }
  assert.equal((await scene.edge.nextEnd(1)).exchange.record.bytesReceived, form.length);
  assert.equal((await scene.edge.nextEnd(1)).exchange.record.bytesSent, 'thanks'.length);
});

test('other methods, paths, types and sizes are refused, and the service sees nothing of them', async (t) => {
  const scene = await startScene(t);
  for (const method of ['HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await scene.ask(`${CALLBACK_PATH}?code=1`, { method });
    assert.deepEqual([status, headers.allow], [405, 'GET, POST'], method);
    assert.equal(headers['cache-control'], 'no-store');
    assert.equal(headers['referrer-policy'], 'no-referrer');
  }
  for (const path of [
    '/',
    '/oauth/github/callback/',
    '/oauth/GITHUB/callback',
    '/oauth/github',
    '/_health',
    '/oauth/a/callback/b?code=1',
  ]) {
    for (const method of ['GET', 'POST']) assert.equal((await scene.ask(path, { method })).status, 404, path);
  }
  const post = (headers: Record<string, string>, payload: string) =>
    scene.ask(CALLBACK_PATH, { method: 'POST', headers, payload });
  assert.equal((await post({ 'content-type': 'application/json' }, '{}')).status, 415);
  const limit = 64 << 10;
  const tooLarge = 'x'.repeat(limit + 1);
  assert.equal((await post(FORM, tooLarge)).headers['gateway-error'], 'body_too_large');
  assert.equal((await post({ ...FORM, 'transfer-encoding': 'chunked' }, tooLarge)).status, 413);
  assert.equal(scene.service.requests(), 0);
  assert.equal((await post(FORM, tooLarge.slice(1))).status, 200);
  assert.equal(scene.service.requests(), 1);
});

test('an upgrade on a runner host is refused', async (t) => {
  const scene = await startScene(t);
  const { status } = await scene.ask(CALLBACK_PATH, {
    headers: {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
      'sec-websocket-version': '13',
    },
  });
  assert.equal(status, 404);
  assert.equal(scene.service.requests(), 0);
});

test('a runner that does not exist, or was revoked, is answered at once', async (t) => {
  const scene = await startScene(t);
  assert.equal((await scene.request('nobody', `${CALLBACK_PATH}?code=1`)).status, 404);
  await scene.tunnels.directory.revokeRunner(scene.runner.id);
  await scene.leg.leg.closed;
  assert.equal((await scene.ask(CALLBACK_PATH)).status, 404);
  scene.tunnels.setDirectoryUp(false);
  const { status, headers } = await scene.request('somebody', CALLBACK_PATH);
  assert.deepEqual([status, headers['gateway-error']], [503, 'login_unavailable']);
  assert.equal(scene.service.requests(), 0);
});

test('the code is sent once, also when the service answers 503, and when it hangs up', async (t) => {
  let hangUp = false;
  const scene = await startScene(t, (request, response) => {
    if (hangUp) return void request.socket.destroy();
    response.writeHead(503, { 'Retry-After': '0' });
    response.end('busy');
  });
  const { status, body } = await scene.ask(`${CALLBACK_PATH}?code=1`);
  assert.deepEqual([status, body], [503, 'busy']);
  assert.equal(scene.service.requests(), 1);
  hangUp = true;
  const cut = await scene.ask(`${CALLBACK_PATH}?code=2`, { headers: { accept: 'text/html' } });
  assert.deepEqual([cut.status, cut.headers['gateway-error']], [502, 'login_interrupted']);
  // The page does not ask again by itself, which would send the code a second time.
  assert.doesNotMatch(cut.body, /data-retry=/);
  assert.match(cut.body, /Start the login again/);
  assert.equal(cut.headers['retry-after'], undefined);
  assert.equal(scene.service.requests(), 2);
});

test('a leg that is lost in the middle of a login', async (t) => {
  const scene = await startScene(t, (request, response) => {
    // Without a length, so that its end is all that tells whether it is complete.
    if (request.url?.includes('begin')) response.writeHead(200, { Connection: 'close' }).write('half of ');
    scene.leg.leg.abort('lost');
  });
  const lost = await scene.ask(`${CALLBACK_PATH}?code=1`);
  assert.deepEqual([lost.status, lost.headers['gateway-error']], [502, 'login_interrupted']);
  assert.equal(scene.service.requests(), 1);
});

test('an answer that is cut is seen as cut', async (t) => {
  let cut: (() => void) | undefined;
  const scene = await startScene(t, (_request, response) => {
    response.shouldKeepAlive = false;
    response.useChunkedEncodingByDefault = false;
    response.writeHead(200, { Connection: 'close' });
    response.write('half of ');
    cut = () => scene.leg.leg.abort('lost');
  });
  const host = `${scene.runner.id}.gateway.localhost`;
  const socket = connectTls({ host: '127.0.0.1', port: scene.edge.port, servername: host, ca: scene.edge.ca });
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk;
    if (text.includes('half of')) cut?.();
  });
  socket.on('error', () => undefined);
  socket.write(`GET ${CALLBACK_PATH} HTTP/1.1\r\nHost: ${host}:${scene.edge.port}\r\n\r\n`);
  await once(socket, 'close');
  assert.match(text, /Transfer-Encoding: chunked/i);
  assert.doesNotMatch(text, /\r\n0\r\n\r\n$/, 'the answer ended as if it were whole');
});

test('an answer that ends with its connection is whole', async (t) => {
  const scene = await startScene(t, (_request, response) => {
    response.shouldKeepAlive = false;
    response.useChunkedEncodingByDefault = false;
    response.writeHead(200, { Connection: 'close' });
    response.end('all of it');
  });
  assert.equal((await scene.ask(CALLBACK_PATH)).body, 'all of it');
});

test('a service that is not there, or was not configured, is told apart', async (t) => {
  const world = await startCallbackWorld();
  t.after(() => world.close());
  const gone = await startUpstream(() => undefined);
  await gone.close();
  const unreachable = await world.tunnels.enrol();
  await unreachable.dial({ onStream: toService(gone.port) });
  const unconfigured = await world.tunnels.enrol();
  await unconfigured.dial({ onStream: (stream) => stream.refuse('forbidden_target') });
  const codeOf = async ({ id }: Enrolled) => {
    const { status, headers } = await world.request(id, `${CALLBACK_PATH}?code=1`);
    return [status, headers['gateway-error']];
  };
  assert.deepEqual(await codeOf(unreachable), [502, 'login_service_unreachable']);
  assert.deepEqual(await codeOf(unconfigured), [502, 'login_not_configured']);
});

test('a service that sends its own callback round in a circle is stopped', async (t) => {
  const scene = await startScene(t);
  const hops = `3000--demo, 0--${scene.runner.id}`;
  const { status } = await scene.ask(CALLBACK_PATH, { headers: { 'gitpod-gateway-hops': hops } });
  assert.equal(status, 508);
  assert.equal(scene.service.requests(), 0);
});

test('what is not HTTP is a broken answer', async (t) => {
  const world = await startCallbackWorld();
  t.after(() => world.close());
  const runner = await world.tunnels.enrol();
  await runner.dial({
    onStream(stream) {
      stream.accept();
      stream.once('data', () => stream.end('SSH-2.0-OpenSSH\r\n'));
    },
  });
  const { status, headers } = await world.request(runner.id, CALLBACK_PATH);
  assert.deepEqual([status, headers['gateway-error']], [502, 'upstream_invalid']);
});
