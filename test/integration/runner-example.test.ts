/** The example of docs/runner-integration.md as somebody would start it, at a real gateway. */
import assert from 'node:assert/strict';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { DOMAIN, startTestGateway } from '../support/gateway.ts';
import { startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const EXAMPLE = resolve(import.meta.dirname, '../../docs/examples/embedded-runner.ts');

test('the embedded runner of the documentation serves its environment and drains', async (t) => {
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'example' });
  const directory = await temporaryDirectory(t);
  const example = startProcess(
    t,
    process.execPath,
    [EXAMPLE, gateway.url, runner.id, exchangeToken, join(gateway.stateDir, 'self-signed/certificate.pem')],
    { env: { STATE_DIR: join(directory, 'state') } },
  );
  const [, url = ''] = await example.waitForOutput(/^environment \S+ (https:\S+)$/m);
  const { hostname } = new URL(url);
  assert.ok(hostname.endsWith(`.${DOMAIN}`));

  const answer = await gateway.request(hostname);
  assert.equal(answer.status, 200);
  assert.equal(answer.body, `hello from an environment, you asked for ${hostname}:${gateway.httpsPort}\n`);
  assert.match(example.output(), /^state online$/m);
  assert.match(example.output(), /^leg up gw-/m);

  const exit = await example.stop();
  assert.deepEqual(exit, { code: 0, signal: null }, example.output());
  assert.match(example.output(), /^state draining\n(?:.*\n)*state closed$/m);
  const offline = await gateway.request(hostname);
  assert.equal(offline.headers['gateway-error'], 'runner_offline');
});
