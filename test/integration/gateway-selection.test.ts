/** A list of gateways: the one that is connected to fastest is taken and kept; asked to, the runner moves. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import { renderStatus } from '../../tunnel-client/src/cli/status.ts';
import { connectRunner, type RunnerClient } from '../../tunnel-client/src/client.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startUpstream, until } from '../support/runner.ts';

const DAY_MS = 86_400_000;

interface SlowDoor {
  readonly port: number;
  /** Until a connection goes on, ms; undefined: it is refused. */
  delayMs: number | undefined;
  target: number;
  close(): Promise<void>;
}

/** TCP in front of a gateway. */
const startDoor = async (): Promise<SlowDoor> => {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    return socket;
  };
  const door: SlowDoor = {
    port: 0,
    delayMs: 0,
    target: 0,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  const server = createServer((front) => {
    keep(front);
    if (door.delayMs === undefined) return void front.destroy();
    setTimeout(() => {
      const back = keep(connect({ host: '127.0.0.1', port: door.target }));
      front.pipe(back).pipe(front);
    }, door.delayMs);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(door, { port: (server.address() as AddressInfo).port });
};

/** Two gateways of one directory, each behind a door of its own. */
const startTwo = async (t: TestContext) => {
  const stateDir = await mkdtemp(join(tmpdir(), 'gateway-test-'));
  t.after(() => rm(stateDir, { recursive: true, force: true }));
  const directory = await openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
  );
  t.after(() => directory.close());
  // Two that sign themselves under the same name would be taken for one another.
  const { certificate, key } = await makeSelfSignedCertificate({
    names: [DOMAIN, `*.${DOMAIN}`],
    notBefore: Date.now() - DAY_MS,
    notAfter: Date.now() + DAY_MS,
  });
  const tls = { certificate: join(stateDir, 'certificate.pem'), key: join(stateDir, 'key.pem') };
  await writeFile(tls.certificate, certificate);
  await writeFile(tls.key, key);
  const make = async (): Promise<{ gateway: TestGateway; door: SlowDoor; url: string }> => {
    const door = await startDoor();
    const gateway = await startTestGateway({ directory, config: { publicPort: door.port, tls: [tls] } });
    door.target = gateway.httpsPort;
    t.after(async () => {
      await gateway.close();
      await door.close();
    });
    return { gateway, door, url: `https://api.${DOMAIN}:${door.port}` };
  };
  const [us, eu] = [await make(), await make()];
  const { runner, exchangeToken } = await directory.createRunner({ name: 'chooser' });
  const upstream = await startUpstream((_request, response) => response.end('hello'));
  t.after(() => upstream.close());
  const runnerState = join(stateDir, 'runner');
  const start = (more: { reselectAfterMs?: number } = {}): RunnerClient => {
    const client = connectRunner({
      gateway: [us.url, eu.url],
      runnerId: runner.id,
      exchangeToken,
      stateDir: runnerState,
      ca: certificate,
      environments: [{ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] }],
      ...more,
    });
    t.after(() => client.close());
    return client;
  };
  const isServedBy = async ({ gateway, door }: typeof us): Promise<boolean> => {
    const host = portHost('demo', upstream.port);
    const { status } = await gateway.request(host, '/', { headers: { host: `${host}:${door.port}` } });
    return status === 200;
  };
  return { us, eu, start, isServedBy };
};

describe('a list of gateways', { timeout: 120_000 }, () => {
  it('is measured when the runner joins; the fastest one is taken, told, and kept over a restart', async (t) => {
    const { us, eu, start, isServedBy } = await startTwo(t);
    us.door.delayMs = 400;
    const client = start();
    await client.ready();
    const { gateway, measurements } = client.status();
    assert.equal(gateway, eu.url);
    assert.deepEqual(
      measurements.map((each) => each.gateway),
      [us.url, eu.url],
    );
    const [slow, fast] = measurements.map(({ connectMs }) => connectMs ?? NaN);
    assert.ok(slow !== undefined && fast !== undefined && slow >= 400 && fast < slow, `${slow} ms, ${fast} ms`);
    assert.match(renderStatus(client.status(), Date.now()), new RegExp(`\\* +${eu.url} +\\d`));
    await until(() => isServedBy(eu));
    await client.close();

    us.door.delayMs = 0;
    eu.door.delayMs = 400;
    const again = start();
    await again.ready();
    assert.equal(again.status().gateway, eu.url);
    assert.equal(again.status().measurements.length, 2, 'what was measured then is still told');
  });

  it('is measured again when asked to; the runner moves, and its legs at the old gateway end', async (t) => {
    const { us, eu, start, isServedBy } = await startTwo(t);
    us.door.delayMs = 400;
    const client = start();
    await client.ready();
    us.door.delayMs = 0;
    eu.door.delayMs = 400;
    const states: string[] = [];
    client.on('state', (state) => states.push(state));
    const result = await client.reselectGateway();
    assert.equal(result.gateway, us.url);
    await until(() => isServedBy(us));
    assert.deepEqual(states, [], 'there was a leg all along');
    await until(() => eu.gateway.gateway.registry.legs().length === 0, 30_000);
    assert.deepEqual(
      client.status().legs.map(({ gatewayId }) => gatewayId),
      [us.gateway.gateway.id],
    );
    // Nothing has changed since.
    assert.equal((await client.reselectGateway()).gateway, us.url);
  });

  it('is waited for while none of it answers', async (t) => {
    const { us, eu, start } = await startTwo(t);
    us.door.delayMs = undefined;
    eu.door.delayMs = undefined;
    const client = start();
    const told = new Promise<string>((resolve) => {
      client.on('error', (_error, { message }) => resolve(message));
    });
    assert.match(await told, /none of the gateways can be reached/);
    assert.equal(client.status().gateway, undefined);
    assert.throws(() => client.callbackUrl('github'), RangeError);
    eu.door.delayMs = 0;
    await client.ready({ signal: AbortSignal.timeout(30_000) });
    assert.equal(client.status().gateway, eu.url);
  });

  it('is measured again after the configured time without a leg', async (t) => {
    const { us, eu, start } = await startTwo(t);
    us.door.delayMs = 400;
    const client = start({ reselectAfterMs: 2_000 });
    client.on('error', () => undefined);
    await client.ready();
    assert.equal(client.status().gateway, eu.url);
    us.door.delayMs = 0;
    eu.door.delayMs = undefined;
    await eu.gateway.close();
    await until(() => client.status().gateway === us.url && client.status().state === 'online', 60_000);
  });
});
