/** A tunnel client is replaced by a newer process of the same runner while visitors come: nobody notices. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { startLoad, startServedProcesses } from '../support/served-processes.ts';
import { updateRunner } from '../support/runner-update.ts';

test('a runner is updated under 200 requests a second: 0 of 2,000 fail', { timeout: 120_000 }, (t) =>
  updateRunner(t, { total: 2_000 }),
);

test('the counters of the load see a runner that is killed', { timeout: 120_000 }, async (t) => {
  const world = await startServedProcesses(t, (_request, response) => response.end('page'), {});
  const load = startLoad(t, world, { perSecond: 200, body: 'page' });
  await once(world.application, 'request');
  world.client.child.kill('SIGKILL');
  await world.client.exited;
  await world.gateway.waitForOutput(/leg down/);
  const { sent } = load;
  while (load.sent < sent + 100) await new Promise((resolve) => setImmediate(resolve));
  const { failures } = await load.stop();
  assert.ok(failures.length > 0);
});
