/** What the dialer does with streams to logs and OAuth callbacks, and with those that pretend. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { afterEach, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { StreamRefusedError, StreamResetError } from '../../shared/src/errors.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import type { IncomingTunnelStream, TunnelStream } from '../../shared/src/protocol/leg.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import type { Target } from '../../shared/src/protocol/target.ts';
import { createDialer, type Dialer, type DialerDeps } from '../../tunnel-client/src/dialer.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { memoryPair } from '../support/connection-pairs.ts';
import { type LegPair, makeLegs, never, readAll, rejection, target } from '../support/legs.ts';
import { until } from '../support/runner.ts';

/** An address of this machine that no other test uses: the log port is always the same. */
const HOST = '127.22.9.9';

const worlds: { dialer: Dialer; legs: LegPair }[] = [];
const servers: Server[] = [];
const sockets = new Set<Socket>();

afterEach(async () => {
  for (const { dialer, legs } of worlds.splice(0)) {
    dialer.abort();
    await legs.close();
  }
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  for (const server of servers.splice(0)) {
    server.close();
    await once(server, 'close');
  }
});

const startWorld = async (deps: Partial<DialerDeps> = {}) => {
  const environment = environmentSchema.parse({ id: 'demo', host: HOST, ports: [{ port: 3000 }] });
  const dialer = createDialer({
    clock: systemClock,
    log: silentLogger,
    resolver: createResolver({ clock: systemClock }),
    environment: (id) => (id === 'demo' ? environment : undefined),
    ownPorts: () => [],
    ...deps,
  });
  const legs = await makeLegs(memoryPair, { runnerHandlers: { onStream: (stream) => dialer.handle(stream) } });
  worlds.push({ dialer, legs });
  const open = (over: Partial<Target>): TunnelStream => legs.gateway.openStream(target(over), { signal: never });
  const refusal = async (over: Partial<Target>): Promise<string> => {
    const error = await rejection(open(over).connected);
    if (error instanceof StreamRefusedError || error instanceof StreamResetError) return error.code;
    throw error;
  };
  return { dialer, open, refusal };
};

const listen = async (server: Server, port = 0, host = '127.0.0.1'): Promise<number> => {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  servers.push(server);
  server.listen(port, host);
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};
const echoServer = (): Server => createServer({ allowHalfOpen: true }, (socket) => void socket.pipe(socket));

const LOGS = { kind: 'logs', port: LOG_PORT } as const;
const OAUTH = { kind: 'oauth', environmentId: '', port: 0 } as const;

describe('a stream to logs', () => {
  it("goes to the environment's own server on 22999, through and through", async () => {
    await listen(echoServer(), LOG_PORT, HOST);
    const world = await startWorld();
    const stream = world.open(LOGS);
    stream.end('GET /logs');
    assert.equal((await readAll(stream)).toString(), 'GET /logs');
  });

  it('is refused while nothing listens there, which a client tries again', async () => {
    const world = await startWorld();
    assert.equal(await world.refusal(LOGS), 'refused');
  });

  it('goes to the built-in log server where that has the log, and to nothing else', async () => {
    const served: IncomingTunnelStream[] = [];
    const logs = {
      has: (id: string) => id === 'demo',
      serve(stream: IncomingTunnelStream) {
        served.push(stream);
        stream.pipe(stream);
      },
    };
    const world = await startWorld({ logs });
    const stream = world.open(LOGS);
    await stream.connected;
    assert.equal(served.length, 1);
    assert.equal(world.dialer.stats().open, 1);
    stream.end('bye');
    assert.equal((await readAll(stream)).toString(), 'bye');
    await until(() => world.dialer.stats().open === 0);
    assert.equal(await world.refusal({ ...LOGS, environmentId: 'other' }), 'unknown_environment');
    assert.equal(served.length, 1);
  });

  it('takes no other port, and no other kind takes 22999', async () => {
    const port = await listen(echoServer());
    const logs = { has: () => true, serve: () => assert.fail('it was served') };
    const world = await startWorld({ logs });
    assert.equal(await world.refusal({ kind: 'logs', port }), 'forbidden_target');
    assert.equal(await world.refusal({ kind: 'logs', port: 3000 }), 'forbidden_target');
    assert.equal(await world.refusal({ kind: 'logs', port: 0 }), 'forbidden_target');
    assert.equal(await world.refusal({ kind: 'port', port: LOG_PORT }), 'forbidden_target');
    assert.equal(await world.refusal({ kind: 'port', port: LOG_PORT, tls: true }), 'forbidden_target');
  });

  it('is refused with draining once the client ends', async () => {
    const world = await startWorld({ logs: { has: () => true, serve: () => assert.fail('it was served') } });
    world.dialer.drain();
    assert.equal(await world.refusal(LOGS), 'draining');
  });
});

describe('a stream to OAuth callbacks', () => {
  it('goes to the configured service, whatever environment and port it names', async () => {
    const port = await listen(echoServer());
    const world = await startWorld({ oauth: { host: '127.0.0.1', port, tls: false } });
    for (const over of [OAUTH, { kind: 'oauth', environmentId: 'demo', port: 3000 } as const]) {
      const stream = world.open(over);
      stream.end('GET /oauth/github/callback');
      assert.equal((await readAll(stream)).toString(), 'GET /oauth/github/callback');
    }
  });

  it('is forbidden without one, and refused while it does not listen', async () => {
    const none = await startWorld();
    assert.equal(await none.refusal(OAUTH), 'forbidden_target');
    const server = echoServer();
    const port = await listen(server);
    server.close();
    await once(server, 'close');
    servers.splice(0);
    const closed = await startWorld({ oauth: { host: '127.0.0.1', port, tls: false } });
    assert.equal(await closed.refusal(OAUTH), 'refused');
  });

  it("never reaches the client's own listener", async () => {
    const port = await listen(echoServer());
    const world = await startWorld({ oauth: { host: '127.0.0.1', port, tls: false }, ownPorts: () => [port] });
    assert.equal(await world.refusal(OAUTH), 'forbidden_target');
  });

  it('verifies the certificate of an https service: by its root and its name', async () => {
    const { certificate, key } = await makeTestCertificate('localhost');
    const port = await listen(
      createTlsServer({ cert: certificate, key, allowHalfOpen: true }, (socket) => void socket.pipe(socket)),
    );
    const oauth = { host: 'localhost', port, tls: true };
    const unknown = await startWorld({ oauth });
    assert.equal(await unknown.refusal(OAUTH), 'upstream_reset');
    const trusted = await startWorld({ oauth, ca: certificate });
    const stream = trusted.open(OAUTH);
    stream.end('code');
    assert.equal((await readAll(stream)).toString(), 'code');
    const otherName = await startWorld({ oauth: { ...oauth, host: '127.0.0.1' }, ca: certificate });
    assert.equal(await otherName.refusal(OAUTH), 'upstream_reset');
  });
});
