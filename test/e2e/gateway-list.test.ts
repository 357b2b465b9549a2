/** `tunnel-client gateway list | reselect` as a program, beside a running client: over its internal listener. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { GatewayStatus } from '../../tunnel-client/src/status.ts';
import { type GatewayPair, startGatewayPair } from '../support/gateway-pair.ts';
import { type Finished, runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';

const MAIN = join(import.meta.dirname, '../../tunnel-client/src/main.ts');
const TIMEOUT_MS = 60_000;
const NO_PROXY = { HTTPS_PROXY: undefined, https_proxy: undefined };
const run = (...args: string[]): Promise<Finished> =>
  runProcess(process.execPath, [MAIN, ...args], { timeoutMs: TIMEOUT_MS, env: NO_PROXY });

const configure = async (t: TestContext, pair: GatewayPair, gateways: readonly string[]): Promise<string> => {
  const config = join(await temporaryDirectory(t), 'client.yaml');
  const { id: runnerId, exchangeToken, stateDir } = pair.runner;
  await writeFile(
    config,
    JSON.stringify({
      ...{ gateway: gateways, runnerId, exchangeToken, stateDir, ca: pair.certificate },
      ...{ internal: '127.0.0.1:0', logFormat: 'json' },
    }),
  );
  return config;
};
const startClient = async (t: TestContext, config: string): Promise<{ address: string; token: string }> => {
  const program = startProcess(t, process.execPath, [MAIN, 'run', '--config', config], { env: NO_PROXY });
  const [, address = ''] = await program.waitForOutput(/internal (127\.0\.0\.1:\d+)/);
  await program.waitForOutput(/"msg":"leg up"/);
  const { stateDir } = JSON.parse(await readFile(config, 'utf8')) as { stateDir: string };
  return { address, token: (await readFile(join(stateDir, 'internal.token'), 'utf8')).trim() };
};
const lineOf = (text: string, gateway: string): string =>
  text
    .split('\n')
    .find((line) => line.startsWith(gateway))
    ?.trimEnd() ?? `${gateway} is not in\n${text}`;

describe('tunnel-client gateway', { timeout: 180_000 }, () => {
  it('lists, changes nothing, and moves when it is asked to; the interface says the same', async (t) => {
    const pair = await startGatewayPair(t);
    const { us, eu } = pair;
    us.door.delayMs = 400;
    const config = await configure(t, pair, [us.url, eu.url]);
    const before = await run('gateway', 'list', '--config', config);
    assert.equal(before.code, 0, before.stderr);
    assert.match(lineOf(before.stdout, us.url), /^\S+ +\d{3}\.\d ms$/, 'not the fastest, and none is in use yet');
    assert.match(lineOf(before.stdout, eu.url), /^\S+ +\d+\.\d ms +fastest$/);

    const { address, token } = await startClient(t, config);
    const ask = (
      path: string,
      method = 'GET',
      headers: Record<string, string> = { authorization: `Bearer ${token}` },
    ) => fetch(`http://${address}${path}`, { method, headers });
    assert.equal((await ask('/gateway', 'GET', {})).status, 401);
    assert.equal((await ask('/gateway/reselect', 'POST', {})).status, 401);
    const wrongMethod = await ask('/gateway/reselect');
    assert.deepEqual([wrongMethod.status, wrongMethod.headers.get('allow')], [405, 'POST']);
    const first = (await (await ask('/gateway')).json()) as GatewayStatus;
    assert.equal(first.gateway, eu.url);
    assert.deepEqual(
      first.measurements.map(({ gateway }) => gateway),
      [us.url, eu.url],
    );

    us.door.delayMs = 0;
    eu.door.delayMs = 400;
    const listed = await run('gateway', 'list', '--config', config);
    assert.match(lineOf(listed.stdout, us.url), / ms +fastest$/);
    assert.match(lineOf(listed.stdout, eu.url), / ms +in use$/);
    assert.equal(((await (await ask('/gateway')).json()) as GatewayStatus).gateway, eu.url, 'it only looked');

    const flags = ['--config', config, '--internal', address];
    const moved = await run('gateway', 'reselect', ...flags);
    assert.equal(moved.code, 0, moved.stderr);
    assert.match(lineOf(moved.stdout, us.url), / ms +in use, fastest$/);
    assert.match(moved.stdout, new RegExp(`^The runner is at ${us.url}\\.$`, 'm'));
    await until(() => us.gateway.gateway.registry.legs().length === 1);
    assert.equal(((await (await ask('/gateway')).json()) as GatewayStatus).gateway, us.url);

    // The one that is used, and the other one too: then there is nothing to move to.
    us.door.delayMs = undefined;
    eu.door.delayMs = undefined;
    const stuck = await run('gateway', 'reselect', ...flags);
    assert.equal(stuck.code, 1);
    assert.match(stuck.stderr, /^The gateway was not changed: none of the gateways can be reached\. /);
    assert.equal((await ask('/gateway/reselect', 'POST')).status, 503);
    const none = await run('gateway', 'list', '--config', config);
    assert.equal(none.code, 1);
    assert.match(lineOf(none.stdout, us.url), /^\S+ +no answer +in use$/);
    assert.match(none.stdout, /^api\.gateway\.localhost:\d+ \(tried .*\n {2}\S/m, 'what went wrong stands below');
    assert.ok(none.stdout.split('\n').every((line) => line.length <= 80));
  });

  it('with one gateway there is nothing to choose, and nothing is measured', async (t) => {
    const pair = await startGatewayPair(t);
    const config = await configure(t, pair, [pair.eu.url]);
    const { address } = await startClient(t, config);
    const answer = await run('gateway', 'reselect', '--config', config, '--internal', address);
    assert.deepEqual([answer.code, answer.stdout], [0, `The configuration names one gateway: ${pair.eu.url}.\n`]);
    const json = await run('gateway', 'list', '--config', config, '--json');
    const { gateway, measurements } = JSON.parse(json.stdout) as GatewayStatus;
    assert.equal(gateway, pair.eu.url);
    assert.ok(Number(measurements[0]?.connectMs) > 0);
    const nobody = await run('gateway', 'reselect', '--config', config, '--internal', '127.0.0.1:1');
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /^No tunnel client answers at 127\.0\.0\.1:1: /);
  });
});
