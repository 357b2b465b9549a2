/** A log that nobody reads keeps nobody from being served (fault row 29). */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { MAX_LOGGED_PATH } from '../../gateway/src/observability/access-log.ts';
import { MAX_LOG_BUFFER_BYTES } from '../../gateway/src/observability/log.ts';
import { freePort } from '../support/free-port.ts';
import { DOMAIN } from '../support/gateway.ts';
import { cleanEnvironment } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';
import { GATEWAY_MAIN } from '../support/served-processes.ts';

/** Of lines with the longest path, what fills the buffer of the log and the pipe behind it, and more. */
const REQUESTS = Math.ceil((MAX_LOG_BUFFER_BYTES + (1 << 20)) / MAX_LOGGED_PATH);
/** Streams of one connection at once, below the gateway's limit. */
const AT_ONCE = 50;

const get = (socketPath: string, path: string): Promise<{ status: number; body: string }> =>
  new Promise((resolve) => {
    const asked = httpRequest({ socketPath, path, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    });
    asked.on('error', () => resolve({ status: 0, body: '' })).end();
  });

const startStuck = async (t: TestContext) => {
  const directory = await temporaryDirectory(t);
  const internal = join(directory, 'gateway.sock');
  const https = await freePort();
  const config = join(directory, 'gateway.yaml');
  await writeFile(
    config,
    JSON.stringify({
      listeners: { https: [`127.0.0.1:${https}`], quic: ['127.0.0.1:0'], internal: `unix:${internal}` },
      stateDir: join(directory, 'state'),
    }),
  );
  // Nobody ever reads this pipe.
  const gateway = spawn(process.execPath, [GATEWAY_MAIN, 'serve', '--config', config], {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.after(() => gateway.kill('SIGKILL'));
  await until(async () => (await get(internal, '/readyz')).status === 200, 60_000);
  const dropped = async (): Promise<number> =>
    Number(/^gitpod_gateway_log_lines_dropped_total (\d+)$/m.exec((await get(internal, '/metrics')).body)?.[1]);
  return { gateway, internal, https, directory, dropped };
};

test('a gateway whose stdout is stuck serves, counts what it drops, and ends', { timeout: 120_000 }, async (t) => {
  const { gateway, internal, https, directory, dropped } = await startStuck(t);
  assert.equal(await dropped(), 0);

  const ca = await readFile(join(directory, 'state/self-signed/certificate.pem'));
  const session = connectHttp2(`https://${DOMAIN}:${https}`, {
    createConnection: () =>
      connectTls({ host: '127.0.0.1', port: https, servername: DOMAIN, ca, ALPNProtocols: ['h2'] }),
  });
  t.after(() => session.destroy());
  const path = `/${'x'.repeat(MAX_LOGGED_PATH - 1)}`;
  const ask = (): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ':path': path });
      let status: number | undefined;
      stream.on('response', (headers) => (status = headers[':status']));
      stream.on('error', reject).on('close', () => resolve(status));
      stream.resume();
    });
  for (let sent = 0; sent < REQUESTS; sent += AT_ONCE) {
    const statuses = await Promise.all(Array.from({ length: AT_ONCE }, ask));
    assert.ok(statuses.every((status) => status === 404));
  }
  assert.ok((await dropped()) > 0, 'lines were dropped, and counted');
  assert.equal((await get(internal, '/readyz')).status, 200);
  session.close();
  gateway.kill('SIGTERM');
  const [code] = (await once(gateway, 'exit')) as [number | null];
  assert.equal(code, 0);
});
