/** Gateway and tunnel client are asked to end while they work: what was begun is finished, and then they are gone. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage, RequestListener } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { test, type TestContext } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws';
import { until } from '../support/runner.ts';
import { measureSchedulingLag } from '../support/scheduling-lag.ts';
import { startLoad, startServedProcesses, type ServedProcesses } from '../support/served-processes.ts';

const BODY = 'x'.repeat(2_000);
const PER_SECOND = 500;
const DRAIN_DELAY_MS = 1_000;
const DRAIN_TIMEOUT_MS = 4_000;
/** What a process may take beyond its drain to end, ms; and as much as the machine kept it waiting meanwhile. */
const END_MS = 1_000;
const TIMEOUT = { timeout: 120_000 };

/** A page; an event stream; an upload that is answered with its length; an answer that takes as long as the test says. */
const application = (slow: { respond?: () => void }): RequestListener => {
  return (request, response) => {
    if (request.url === '/events') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const timer = setInterval(() => response.write('data: tick\n\n'), 100);
      response.on('close', () => clearInterval(timer));
    } else if (request.url === '/upload') {
      let bytes = 0;
      request.on('data', (chunk: Buffer) => (bytes += chunk.length));
      request.on('end', () => response.end(`${bytes} bytes`));
    } else if (request.url === '/slow') {
      slow.respond = () => response.end('slow but whole');
    } else response.end(BODY);
  };
};

const begin = ({ https, host }: ServedProcesses, path: string, options: RequestOptions = {}) => {
  const request = httpsRequest({
    host: '127.0.0.1',
    port: https,
    servername: host,
    path,
    agent: false,
    rejectUnauthorized: false,
    ...options,
    headers: { host: `${host}:${https}`, ...options.headers },
  });
  const answer = new Promise<{ status: number; body: string }>((resolve, reject) => {
    request.on('error', reject);
    request.on('response', (response: IncomingMessage) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    });
  });
  return { request, answer };
};

const openWebSocket = async (t: TestContext, world: ServedProcesses) => {
  const server = new WebSocketServer({ server: world.application });
  server.on('connection', (socket) => socket.on('message', (data) => socket.send(data)));
  const options: ClientOptions & Pick<ConnectionOptions, 'servername'> = {
    rejectUnauthorized: false,
    servername: world.host,
    headers: { host: `${world.host}:${world.https}` },
  };
  const socket = new WebSocket(`wss://127.0.0.1:${world.https}/ws`, options);
  t.after(() => {
    socket.terminate();
    server.close();
  });
  await once(socket, 'open');
  let closedAt: number | undefined;
  socket.on('error', () => {});
  const closed = new Promise<void>((resolve) => {
    socket.on('close', () => {
      closedAt = performance.now();
      resolve();
    });
  });
  return {
    closed,
    closedAt: () => closedAt,
    async echo(text: string): Promise<string> {
      socket.send(text);
      const [data] = (await once(socket, 'message')) as [Buffer];
      return String(data);
    },
  };
};

/** An event stream that notes when it ended. */
const openEvents = async (world: ServedProcesses) => {
  const { request, answer } = begin(world, '/events');
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  await once(response, 'data');
  let endedAt: number | undefined;
  const ended = answer
    .catch(() => undefined)
    .then(() => {
      endedAt = performance.now();
    });
  return { ended, endedAt: () => endedAt };
};

/** `tookMs`: from the signal to the end of the process. */
const assertEnd = (t: TestContext, seen: { tookMs: number; drainMs: number; lagMs: number }): void => {
  const { tookMs, drainMs, lagMs } = seen;
  t.diagnostic(`ended ${Math.round(tookMs)} ms after the signal; the machine lagged by ${Math.round(lagMs)} ms`);
  assert.ok(tookMs <= drainMs + END_MS + lagMs, `${tookMs} ms with a drain of ${drainMs} ms and a lag of ${lagMs} ms`);
};

test('a gateway that is ended under load answers all that it accepted', TIMEOUT, async (t) => {
  const world = await startServedProcesses(t, application({}), {
    gateway: { drainDelay: `${DRAIN_DELAY_MS}ms`, drainTimeout: `${DRAIN_TIMEOUT_MS}ms` },
  });
  const socket = await openWebSocket(t, world);
  const events = await openEvents(world);
  const upload = begin(world, '/upload', { method: 'POST' });
  upload.request.write(Buffer.alloc(100_000));
  const load = startLoad(t, world, { perSecond: PER_SECOND, body: BODY });
  await once(world.application, 'request');
  while (load.sent < PER_SECOND) await once(world.application, 'request');

  const lag = measureSchedulingLag(t);
  const signalledAt = performance.now();
  world.gateway.child.kill('SIGTERM');
  let status = await world.ready();
  while (status === 200) status = await world.ready();
  const notReadyAt = performance.now();
  assert.equal(status, 503);

  await world.gateway.waitForOutput(/the gateway drains/);
  assert.equal(await socket.echo('while it drains'), 'while it drains');
  const { sent: beforeRefusal } = load;
  // Refused connections say that it listens no more.
  const isRefused = async (): Promise<boolean> => {
    const probe = begin(world, '/');
    probe.request.end();
    return probe.answer.then(
      () => false,
      (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED',
    );
  };
  while (!(await isRefused()));
  await until(() => load.refusals > 0);
  assert.equal(await socket.echo('after the last connection'), 'after the last connection');
  upload.request.end(Buffer.alloc(100_000));
  assert.deepEqual(await upload.answer, { status: 200, body: '200000 bytes' });

  const result = await load.stop();
  const exit = await world.gateway.exited;
  const endedAt = performance.now();
  const lagMs = lag.take();
  await Promise.all([socket.closed, events.ended]);
  assert.deepEqual(exit, { code: 0, signal: null }, world.gateway.output().slice(-2_000));
  assert.deepEqual(result.failures, []);
  assert.equal(result.answered + result.refused.length, result.sent);
  assert.ok(result.answered >= beforeRefusal, 'what was asked before the listener ended was answered');
  const firstRefusal = load.startedAt + Math.min(...result.refused);
  assert.ok(firstRefusal - signalledAt >= DRAIN_DELAY_MS, `refused ${firstRefusal - signalledAt} ms after the signal`);
  assert.ok(notReadyAt < firstRefusal, 'load balancers could know before');

  const drainMs = DRAIN_DELAY_MS + DRAIN_TIMEOUT_MS;
  for (const [name, at] of [
    ['WebSocket', socket.closedAt()],
    ['event stream', events.endedAt()],
  ] as const) {
    assert.ok((at ?? 0) - signalledAt >= drainMs - 50, `the ${name} lived for ${(at ?? 0) - signalledAt} ms`);
  }
  assertEnd(t, { tookMs: endedAt - signalledAt, drainMs, lagMs });
  t.diagnostic(
    `${result.answered} answered, ${result.refused.length} refused, first refusal after ` +
      `${Math.round(firstRefusal - signalledAt)} ms`,
  );
});

test('an idle gateway ends at once, and a second signal ends a drain', TIMEOUT, async (t) => {
  const options = { gateway: { drainTimeout: '10m' } };
  await t.test('idle', async (t) => {
    const world = await startServedProcesses(t, application({}), options);
    const lag = measureSchedulingLag(t);
    const signalledAt = performance.now();
    world.gateway.child.kill('SIGTERM');
    assert.deepEqual(await world.gateway.exited, { code: 0, signal: null });
    assertEnd(t, { tookMs: performance.now() - signalledAt, drainMs: 0, lagMs: lag.take() });
  });
  await t.test('second signal', async (t) => {
    const world = await startServedProcesses(t, application({}), options);
    const socket = await openWebSocket(t, world);
    world.gateway.child.kill('SIGTERM');
    await world.gateway.waitForOutput(/the gateway drains/);
    assert.equal(await socket.echo('still here'), 'still here');
    const lag = measureSchedulingLag(t);
    const signalledAt = performance.now();
    world.gateway.child.kill('SIGTERM');
    assert.deepEqual(await world.gateway.exited, { code: 143, signal: null });
    assertEnd(t, { tookMs: performance.now() - signalledAt, drainMs: 0, lagMs: lag.take() });
    await socket.closed;
  });
});

test('a tunnel client that is ended finishes what is open, and a second signal ends it', TIMEOUT, async (t) => {
  await t.test('drain', async (t) => {
    const slow: { respond?: () => void } = {};
    const world = await startServedProcesses(t, application(slow), { client: { drainTimeout: '4s' } });
    const socket = await openWebSocket(t, world);
    const asked = begin(world, '/slow');
    asked.request.end();
    await once(world.application, 'request');
    const lag = measureSchedulingLag(t);
    const signalledAt = performance.now();
    world.client.child.kill('SIGTERM');
    await world.gateway.waitForOutput(/runner drains/);
    assert.equal(await socket.echo('while it drains'), 'while it drains');
    slow.respond?.();
    assert.deepEqual(await asked.answer, { status: 200, body: 'slow but whole' });
    assert.deepEqual(await world.client.exited, { code: 0, signal: null });
    assertEnd(t, { tookMs: performance.now() - signalledAt, drainMs: DRAIN_TIMEOUT_MS, lagMs: lag.take() });
    await socket.closed;
    const livedMs = (socket.closedAt() ?? 0) - signalledAt;
    assert.ok(livedMs >= DRAIN_TIMEOUT_MS - 50, `${livedMs} ms`);
  });
  await t.test('idle, and a second signal', async (t) => {
    const world = await startServedProcesses(t, application({}), { client: { drainTimeout: '10m' } });
    const second = await world.startSecondClient();
    const lag = measureSchedulingLag(t);
    const idleAt = performance.now();
    second.child.kill('SIGTERM');
    assert.deepEqual(await second.exited, { code: 0, signal: null });
    assertEnd(t, { tookMs: performance.now() - idleAt, drainMs: 0, lagMs: lag.take() });
    const socket = await openWebSocket(t, world);
    world.client.child.kill('SIGTERM');
    await world.gateway.waitForOutput(/runner drains[^]*runner drains/);
    lag.take();
    const signalledAt = performance.now();
    world.client.child.kill('SIGTERM');
    assert.deepEqual(await world.client.exited, { code: 143, signal: null });
    assertEnd(t, { tookMs: performance.now() - signalledAt, drainMs: 0, lagMs: lag.take() });
    await socket.closed;
  });
});
