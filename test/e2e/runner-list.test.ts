/** What operators see of their runners: beside a gateway that runs, with a runner that comes and goes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runProcess } from '../support/processes.ts';
import { until } from '../support/runner.ts';
import { GATEWAY_MAIN, startServedProcesses } from '../support/served-processes.ts';

test(
  'runner list tells who is online, how and from where, and when it was seen last',
  { timeout: 120_000 },
  async (t) => {
    const world = await startServedProcesses(t, (_request, response) => response.end('ok'));
    const gateway = async (...args: string[]): Promise<string> => {
      const done = await runProcess(process.execPath, [GATEWAY_MAIN, ...args, '--config', world.gatewayConfig]);
      assert.deepEqual([done.code, done.stderr], [0, ''], args.join(' '));
      return done.stdout;
    };
    const list = async () => JSON.parse(await gateway('runner', 'list', '--json')) as Record<string, unknown>[];
    const [online] = await list();
    assert.deepEqual(
      [
        online?.['online'],
        online?.['transports'],
        online?.['addresses'],
        online?.['connection'],
        online?.['environments'],
      ],
      [true, ['quic'], ['127.0.0.1'], 'private', 1],
    );
    const texts = [await gateway('runner', 'list'), await gateway('environment', 'list'), await gateway('status')];
    assert.match(texts[0]!, /^[0-9a-f-]{36} {2}\S+\n +online, quic, private, 1 environment\n +from 127\.0\.0\.1\n/m);
    for (const line of texts.join('').split('\n')) assert.ok(line.length <= 80, line);

    const before = Date.now();
    await world.client.stop();
    await until(async () => (await list())[0]?.['online'] === false);
    const [offline] = await list();
    assert.equal(offline?.['connection'], null);
    assert.ok(Math.abs(Date.parse(String(offline?.['lastSeenAt'])) - before) < 60_000);
    assert.match(await gateway('runner', 'list'), /offline, seen \d{4}-\d\d-\d\d \d\d:\d\d UTC/);
  },
);
