/** A real tunnel client at a gateway that speaks a later version of the protocol only: what its people are told. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { createKey } from '../../shared/src/identity/keys.ts';
import { createControlStream } from '../../shared/src/protocol/control-stream.ts';
import { listenQuic } from '../../shared/src/transport/quic.ts';
import { startTestGateway } from '../support/gateway.ts';
import { runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';

const CLIENT_MAIN = resolve(import.meta.dirname, '../../tunnel-client/src/main.ts');
const REASON =
  'the tunnel client speaks version 1 of the tunnel protocol, the gateway version 2: update the tunnel client';

test('log, status and diagnose of a tunnel client say that it is too old', { timeout: 120_000 }, async (t) => {
  const signal = new AbortController().signal;
  const later = await listenQuic({
    host: '127.0.0.1',
    port: 0,
    key: createKey(),
    onConnection(connection) {
      void (async () => {
        const control = createControlStream(await connection.acceptStream({ signal }));
        await control.receive();
        await control.send({ type: 'goodbye', code: 'protocol_version', reason: REASON, supported: [2] });
        await connection.closed;
      })().catch(() => undefined);
    },
  });
  t.after(() => later.close());
  const gateway = await startTestGateway({
    config: { advertise: { quic: [`127.0.0.1:${later.address.port}`], tcp: [] } },
  });
  t.after(() => gateway.close());
  const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'old' });
  const directory = await temporaryDirectory(t);
  const config = join(directory, 'client.yaml');
  await writeFile(join(directory, 'ca.pem'), gateway.ca);
  await writeFile(
    config,
    JSON.stringify({
      gateway: gateway.url,
      runnerId: runner.id,
      exchangeToken,
      stateDir: join(directory, 'state'),
      ca: join(directory, 'ca.pem'),
      internal: `unix:${join(directory, 'client.sock')}`,
      transport: 'quic',
      logFormat: 'json',
    }),
  );
  const command = (name: string) => [CLIENT_MAIN, name, '--config', config];
  const client = startProcess(t, process.execPath, command('run'));
  await client.waitForOutput(new RegExp(`protocol_version: ${REASON}`));
  await until(async () => {
    const status = await runProcess(process.execPath, command('status'));
    return status.stdout.replace(/\s+/g, ' ').includes('update the tunnel client');
  }, 60_000);
  await client.stop();
  const diagnosis = await runProcess(process.execPath, command('diagnose'), { timeoutMs: 60_000 });
  assert.match(diagnosis.stdout.replace(/\s+/g, ' '), /update the tunnel client/);
  assert.equal(diagnosis.code, 1);
});
