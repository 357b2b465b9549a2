/** The update of a runner: a second process of it joins under load, then the first one is ended. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws';
import { until } from './runner.ts';
import { startLoad, startServedProcesses } from './served-processes.ts';

const PER_SECOND = 200;
const BODY = 'y'.repeat(2_000);
/** The first process ends within this, with a WebSocket open that nobody closes, ms. */
const DRAIN_TIMEOUT_MS = 3_000;

export const updateRunner = async (t: TestContext, options: { readonly total: number }): Promise<void> => {
  const world = await startServedProcesses(t, (_request, response) => response.end(BODY), {
    client: { drainTimeout: `${DRAIN_TIMEOUT_MS}ms` },
  });
  const server = new WebSocketServer({ server: world.application });
  server.on('connection', (socket) => socket.on('message', (data) => socket.send(data)));
  const clientOptions: ClientOptions & Pick<ConnectionOptions, 'servername'> = {
    rejectUnauthorized: false,
    servername: world.host,
    headers: { host: `${world.host}:${world.https}` },
  };
  const socket = new WebSocket(`wss://127.0.0.1:${world.https}/`, clientOptions);
  t.after(() => {
    socket.terminate();
    server.close();
  });
  await once(socket, 'open');
  let closedAt: number | undefined;
  const closed = once(socket, 'close').then(() => {
    closedAt = performance.now();
  });
  const echo = async (text: string): Promise<void> => {
    socket.send(text);
    const [data] = (await once(socket, 'message')) as [Buffer];
    assert.equal(String(data), text);
  };

  const load = startLoad(t, world, { perSecond: PER_SECOND, body: BODY, total: options.total });
  await until(() => load.sent >= options.total / 10);
  const second = await world.startSecondClient();
  await echo('beside the second process');
  const endedAt = performance.now();
  world.client.child.kill('SIGTERM');
  await world.gateway.waitForOutput(/runner drains/);
  await echo('while the first process drains');
  const sentAtDrain = load.sent;
  assert.deepEqual(await world.client.exited, { code: 0, signal: null });
  await closed;
  assert.ok((closedAt ?? 0) - endedAt >= DRAIN_TIMEOUT_MS - 50, 'the WebSocket lived through the drain');
  await until(() => load.sent === options.total, (options.total / PER_SECOND) * 1_000 + 60_000);
  const result = await load.stop();
  assert.deepEqual(result.failures, []);
  assert.deepEqual(result.refused, []);
  assert.equal(result.answered, options.total);
  assert.ok(sentAtDrain < options.total, 'the load went on through the drain');
  assert.equal(second.child.exitCode, null);
  t.diagnostic(`${result.answered} of ${result.sent} answered; ${sentAtDrain} sent when the first process drained`);
};
