/** Two gateways of one directory, each behind a door of its own, and a runner whose configuration lists both. */
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { connectRunner, type RunnerClient, type RunnerOptions } from '../../tunnel-client/src/client.ts';
import { makeTestCertificate } from './certificate.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from './gateway.ts';
import { startUpstream } from './runner.ts';

export interface SlowDoor {
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

export interface GatewayBehindDoor {
  readonly gateway: TestGateway;
  readonly door: SlowDoor;
  readonly url: string;
}

export interface GatewayPair {
  readonly us: GatewayBehindDoor;
  readonly eu: GatewayBehindDoor;
  /** Of a runner that may join, for whoever starts it another way. */
  readonly runner: { readonly id: string; readonly exchangeToken: string; readonly stateDir: string };
  /** Path of the certificate of both, PEM. */
  readonly certificate: string;
  start(more?: Partial<RunnerOptions>): RunnerClient;
  isServedBy(which: GatewayBehindDoor): Promise<boolean>;
}

export const startGatewayPair = async (t: TestContext): Promise<GatewayPair> => {
  const stateDir = await mkdtemp(join(tmpdir(), 'gateway-test-'));
  t.after(() => rm(stateDir, { recursive: true, force: true }));
  const directory = await openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
  );
  t.after(() => directory.close());
  // Two that sign themselves under the same name would be taken for one another.
  const { certificate, key } = await makeTestCertificate(DOMAIN, `*.${DOMAIN}`);
  const tls = { certificate: join(stateDir, 'certificate.pem'), key: join(stateDir, 'key.pem') };
  await writeFile(tls.certificate, certificate);
  await writeFile(tls.key, key);
  const make = async (): Promise<GatewayBehindDoor> => {
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
  const start = (more: Partial<RunnerOptions> = {}): RunnerClient => {
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
  const isServedBy = async ({ gateway, door }: GatewayBehindDoor): Promise<boolean> => {
    const host = portHost('demo', upstream.port);
    const { status } = await gateway.request(host, '/', { headers: { host: `${host}:${door.port}` } });
    return status === 200;
  };
  return {
    ...{ us, eu, start, isServedBy, certificate: tls.certificate },
    runner: { id: runner.id, exchangeToken, stateDir: runnerState },
  };
};
