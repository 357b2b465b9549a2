/** The mutations of test/integration/ambiguous-mutation.test.ts, many more of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startHostileWorld } from '../support/hostile-world.ts';
import { runMutations } from '../support/mutation.ts';
import { during } from '../support/whole-way.ts';

const RUNS = 50_000;
const SEED = 20_261_121;

test(`${RUNS} mutated requests: no application sees what is not its own`, async (t) => {
  const world = await during(t, startHostileWorld());
  const result = await runMutations(world, { runs: RUNS, seed: SEED });
  t.diagnostic(JSON.stringify(result));
  assert.equal(result.runs, RUNS);
  assert.ok(result.canaries > RUNS / 10, `${result.canaries} canaries were served`);
  assert.ok(result.refused > RUNS / 10, `${result.refused} requests were refused`);
});
