/** Mutated HTTP/1.1 requests with a clean one for another environment behind them: see test/support/mutation.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startHostileWorld } from '../support/hostile-world.ts';
import { runMutations } from '../support/mutation.ts';
import { during } from '../support/whole-way.ts';

const RUNS = 2_000;
const SEED = 20_261_120;

test(`${RUNS} mutated requests: no application sees what is not its own`, { timeout: 110_000 }, async (t) => {
  const world = await during(t, startHostileWorld());
  const result = await runMutations(world, { runs: RUNS, seed: SEED });
  t.diagnostic(JSON.stringify(result));
  assert.equal(result.runs, RUNS);
  // Many mutations leave a valid request, many do not: a run that shows neither shows nothing.
  assert.ok(result.canaries > RUNS / 10, `${result.canaries} canaries were served`);
  assert.ok(result.refused > RUNS / 10, `${result.refused} requests were refused`);
  await world.way.gateway.request(world.quiet.host, '/quiet').then(({ status }) => assert.equal(status, 200));
});
