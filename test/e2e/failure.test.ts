/** A gateway that is killed and comes back: its runner is back without anybody's help. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join, resolve } from 'node:path';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { fetchOnce, portHost } from '../support/gateway.ts';
import { runProcess, startProcess, type StartedProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const GATEWAY = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT = join(ROOT, 'tunnel-client/src/main.ts');
/** A runner is back this long after its gateway listens, when the outage was shorter than 10 s. */
const BACK_MS = 5_000;
/** From the kill until the restart, for the figure above to hold, ms. */
const OUTAGE_MS = 10_000;
/** After a longer outage (a machine that is slow to start the gateway): an attempt that fails late, and the pause after it. */
const BACK_LATER_MS = 3_000 + 5_000;

const attemptsIn = (client: StartedProcess): number =>
  client.output().split('the tunnel client has a problem').length - 1;

test('a gateway is killed, and comes back at once or after failed attempts', { timeout: 90_000 }, async (t) => {
  const directory = await temporaryDirectory(t);
  const config = join(directory, 'gateway.yaml');
  const configure = (https: number, quic: number): Promise<void> =>
    writeFile(
      config,
      JSON.stringify({
        listeners: { https: [`127.0.0.1:${https}`], quic: [`127.0.0.1:${quic}`], internal: '127.0.0.1:0' },
        stateDir: join(directory, 'gateway'),
      }),
    );
  const serve = (): StartedProcess => startProcess(t, process.execPath, [GATEWAY, 'serve', '--config', config]);
  await configure(0, 0);
  let gateway = serve();
  await gateway.waitForOutput(/the gateway serves/);
  const portOf = (listener: string): number =>
    Number(new RegExp(`"${listener}":\\["127\\.0\\.0\\.1:(\\d+)"\\]`).exec(gateway.output())?.[1]);
  const [https, quic] = [portOf('https'), portOf('quic')];
  await configure(https, quic);

  const application = createServer((request, response) => {
    if (request.url === '/begin') return void response.write('the beginning');
    if (request.url !== '/hang') response.end('hello');
  }).listen(0, '127.0.0.1');
  await once(application, 'listening');
  t.after(() => {
    application.closeAllConnections();
    application.close();
  });
  const { port } = application.address() as AddressInfo;
  const created = await runProcess(process.execPath, [
    GATEWAY,
    'runner',
    'create',
    '--name',
    'test',
    '--config',
    config,
    '--json',
  ]);
  const runner = JSON.parse(created.stdout) as { id: string; exchangeToken: string };
  const clientConfig = join(directory, 'client.yaml');
  await writeFile(
    clientConfig,
    JSON.stringify({
      gateway: `https://api.gateway.localhost:${https}`,
      runnerId: runner.id,
      exchangeToken: runner.exchangeToken,
      stateDir: join(directory, 'runner'),
      ca: join(directory, 'gateway/self-signed/certificate.pem'),
      internal: `unix:${join(directory, 'runner.sock')}`,
      environments: [{ id: 'demo', ports: [{ port, admission: 'everyone' }] }],
    }),
  );
  const client = startProcess(t, process.execPath, [TUNNEL_CLIENT, 'run', '--config', clientConfig]);
  const ask = (path = '/') => fetchOnce(https, portHost('demo', port), path);
  const statusOf = (): Promise<number> =>
    ask().then(
      ({ status }) => status,
      () => 0,
    );
  await until(async () => (await statusOf()) === 200);

  for (const failedAttempts of [0, 1]) {
    const inFlight = Promise.all([assert.rejects(ask('/hang')), assert.rejects(ask('/begin'))]);
    const arrived = once(application, 'request');
    await arrived;
    const attemptsBefore = attemptsIn(client);
    gateway.child.kill('SIGKILL');
    const killedAt = performance.now();
    await gateway.exited;
    // What was in flight is cut; nobody takes it for an answer.
    await inFlight;
    await until(() => attemptsIn(client) - attemptsBefore >= failedAttempts);
    gateway = serve();
    await gateway.waitForOutput(/the gateway serves/);
    const servingAt = performance.now();
    const limitMs = servingAt - killedAt < OUTAGE_MS ? BACK_MS : BACK_LATER_MS;
    await until(async () => (await statusOf()) === 200, limitMs);
    assert.equal(client.child.exitCode, null);
  }
});
