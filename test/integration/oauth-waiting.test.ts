/** A callback waits for a runner that is being restarted: until it is back, and no longer than is said. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect } from 'node:net';
import { createServer, type AddressInfo } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { test, type TestContext } from 'node:test';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import { ASK_AGAIN_MS } from '../../gateway/src/oauth/runner-streams.ts';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';
import { CALLBACK_PATH, startCallbackWorld, toService, type CallbackWorld } from '../support/callbacks.ts';
import { advanceInSteps, createManualClock, type ManualClock } from '../support/manual-clock.ts';
import { startUpstream, until, type TestUpstream } from '../support/runner.ts';
import type { Enrolled } from '../support/tunnels.ts';

interface Scene extends CallbackWorld {
  readonly clock: ManualClock;
  readonly runner: Enrolled;
  readonly service: TestUpstream;
  ask(): ReturnType<CallbackWorld['request']>;
}

/** A runner without a leg. The clock of the gateway stands still. */
const startScene = async (t: TestContext, limits: Partial<GatewayLimits> = {}): Promise<Scene> => {
  const clock = createManualClock();
  const service = await startUpstream((_request, response) => response.end('signed in'));
  t.after(() => service.close());
  const world = await startCallbackWorld({ clock, limits });
  t.after(() => world.close());
  const runner = await world.tunnels.enrol();
  const ask = () => world.request(runner.id, `${CALLBACK_PATH}?code=1`, { headers: { accept: 'text/html' } });
  return { ...world, clock, runner, service, ask };
};

/** Streams that come and are not answered: a process that was stopped, or a path that is dead. */
const silence = () => {
  const streams: IncomingTunnelStream[] = [];
  return {
    streams,
    onStream: (stream: IncomingTunnelStream) => void streams.push(stream.on('error', () => undefined)),
  };
};

test('it is finished by the first leg that comes up', async (t) => {
  const { callbacks, runner, service, ask } = await startScene(t);
  const answer = ask();
  await until(() => callbacks.waiting === 1);
  await runner.dial({ onStream: toService(service.port) });
  assert.equal((await answer).body, 'signed in');
  assert.equal(callbacks.waiting, 0);
  assert.equal(service.requests(), 1);
});

test('after 15 s it is answered with a page that says to start the login again', async (t) => {
  assert.equal(GATEWAY_LIMITS.callbackWaitMs, 15_000);
  const { callbacks, clock, ask } = await startScene(t);
  let isOver = false;
  const answer = ask().finally(() => (isOver = true));
  await until(() => callbacks.waiting === 1);
  await advanceInSteps(clock, GATEWAY_LIMITS.callbackWaitMs - 1);
  assert.equal(isOver, false);
  await clock.advance(1);
  const { status, headers, body } = await answer;
  assert.deepEqual([status, headers['gateway-error']], [503, 'login_runner_offline']);
  assert.match(body, /Start the login again/);
  assert.doesNotMatch(body, /data-retry=/);
  assert.equal(headers['cache-control'], 'no-store');
  assert.equal(headers['referrer-policy'], 'no-referrer');
  assert.equal(callbacks.waiting, 0);
});

test('a leg that is dead and does not know it yet is not waited for when another comes up', async (t) => {
  const { runner, service, ask } = await startScene(t);
  const dead = silence();
  await runner.dial({ instance: 'killed', startedAt: 1, onStream: dead.onStream });
  const answer = ask();
  await until(() => dead.streams.length === 1);
  await runner.dial({ instance: 'restarted', startedAt: 2, onStream: toService(service.port) });
  assert.equal((await answer).body, 'signed in');
  assert.equal(dead.streams[0]?.read(), null, 'the code went to a leg that had not answered');
});

test('a leg that is lost before it answers is like none', async (t) => {
  const { callbacks, runner, service, ask } = await startScene(t);
  const dead = silence();
  const killed = await runner.dial({ onStream: dead.onStream });
  const answer = ask();
  await until(() => dead.streams.length === 1);
  killed.leg.abort('lost');
  await until(() => callbacks.waiting === 1);
  await runner.dial({ instance: 'restarted', onStream: toService(service.port) });
  assert.equal((await answer).body, 'signed in');
});

test('a leg that drains sends it to the next, or lets it wait for one', async (t) => {
  const { callbacks, clock, runner, service, ask } = await startScene(t);
  await runner.dial({ instance: 'old', onStream: (stream) => stream.refuse('draining') });
  const answer = ask();
  await until(() => callbacks.waiting === 1);
  await runner.dial({ instance: 'new', startedAt: 2, onStream: toService(service.port) });
  assert.equal((await answer).body, 'signed in');

  // Both are there: it goes by the one that does not drain, whichever it asks first.
  assert.equal((await ask()).body, 'signed in');
  assert.equal(callbacks.waiting, 0);
  await clock.advance(0);
});

test('a service that starts beside its tunnel client is asked until it listens', async (t) => {
  const { callbacks, clock, runner, ask } = await startScene(t);
  const reserved = createServer();
  reserved.listen(0, '127.0.0.1');
  await once(reserved, 'listening');
  const { port } = reserved.address() as AddressInfo;
  reserved.close();
  await once(reserved, 'close');
  let refused = 0;
  const answer = ask();
  await until(() => callbacks.waiting === 1);
  await runner.dial({
    onStream(stream) {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        toService(port)(stream);
      });
      socket.once('error', () => {
        refused += 1;
        stream.refuse('refused');
      });
    },
  });
  await until(() => refused === 1);
  const service = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nsigned in'));
  });
  service.listen(port, '127.0.0.1');
  await once(service, 'listening');
  t.after(() => service.close());
  await advanceInSteps(clock, ASK_AGAIN_MS);
  assert.equal((await answer).body, 'signed in');
});

test('who had not to wait for the runner is told at once that its service is not there', async (t) => {
  const { runner, ask } = await startScene(t);
  await runner.dial({ onStream: (stream) => stream.refuse('refused') });
  assert.equal((await ask()).headers['gateway-error'], 'login_service_unreachable');
});

test('a leg that never answers is given up in the end', async (t) => {
  const { clock, runner, ask } = await startScene(t);
  const dead = silence();
  await runner.dial({ onStream: dead.onStream });
  const answer = ask();
  await until(() => dead.streams.length === 1);
  await advanceInSteps(clock, GATEWAY_LIMITS.connectTimeoutMs);
  await until(() => dead.streams.length === 2);
  await advanceInSteps(clock, GATEWAY_LIMITS.connectTimeoutMs);
  assert.equal((await answer).headers['gateway-error'], 'login_service_unreachable');
});

test('a client that leaves makes room', async (t) => {
  const { callbacks, edge, runner } = await startScene(t);
  const host = `${runner.id}.gateway.localhost`;
  const socket = connectTls({ host: '127.0.0.1', port: edge.port, servername: host, ca: edge.ca });
  socket.write(`GET ${CALLBACK_PATH} HTTP/1.1\r\nHost: ${host}:${edge.port}\r\n\r\n`);
  await until(() => callbacks.waiting === 1);
  socket.destroy();
  await until(() => callbacks.waiting === 0);
  assert.equal((await edge.nextEnd(1)).status, 499);
});

test('100 wait for one runner, the next is answered at once, and other runners are not touched', async (t) => {
  assert.equal(GATEWAY_LIMITS.callbacksWaitingPerRunner, 100);
  const { callbacks, connectH2, request, runner, service, tunnels, ask } = await startScene(t);
  const sessions: ClientHttp2Session[] = [await connectH2(runner.id), await connectH2(runner.id)];
  const streams: ClientHttp2Stream[] = sessions.flatMap((session) =>
    Array.from({ length: 50 }, () => session.request({ ':path': CALLBACK_PATH })),
  );
  const statuses = streams.map(async (stream) => {
    const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
    stream.resume();
    return head[':status'];
  });
  await until(() => callbacks.waiting === 100);
  const turnedAway = await ask();
  assert.deepEqual([turnedAway.status, turnedAway.headers['gateway-error']], [503, 'login_runner_offline']);
  assert.match(turnedAway.body, /Start the login again/);

  const other = await tunnels.enrol();
  await other.dial({ onStream: toService(service.port) });
  assert.equal((await request(other.id, CALLBACK_PATH)).status, 200);

  await runner.dial({ onStream: toService(service.port) });
  assert.deepEqual(new Set(await Promise.all(statuses)), new Set([200]));
  assert.equal(callbacks.waiting, 0);
});

test('a form that does not arrive is not waited for', async (t) => {
  const { clock, edge, runner, service } = await startScene(t);
  await runner.dial({ onStream: toService(service.port) });
  const host = `${runner.id}.gateway.localhost`;
  const socket = connectTls({ host: '127.0.0.1', port: edge.port, servername: host, ca: edge.ca });
  t.after(() => socket.destroy());
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  socket.write(
    `POST ${CALLBACK_PATH} HTTP/1.1\r\nHost: ${host}:${edge.port}\r\n` +
      'Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 20\r\n\r\ncode=',
  );
  await until(() => edge.edge.stats().requestsInFlight === 1);
  await clock.advance(GATEWAY_LIMITS.callbackBodyTimeoutMs);
  await until(() => text.includes('\r\n\r\n'));
  assert.match(text, /^HTTP\/1\.1 408 /);
  assert.equal(service.requests(), 0);
});
