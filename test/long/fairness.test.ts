import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { measureFairness } from '../bench/fairness.ts';
import { startWorld } from '../bench/world.ts';

const DOWNLOADS = 200;
/** Median of a small request beside the downloads, against that on an idle leg. */
const SLOWER = 3;
/** A machine that is busy with something else gets so many tries. */
const TRIES = 3;

describe('a leg', () => {
  it(`serves small requests of one environment beside ${DOWNLOADS} downloads of another`, async (t) => {
    const world = await startWorld({ environments: ['bulk', 'small'], separateApplications: true });
    t.after(() => world.stop());
    let best = Infinity;
    for (let attempt = 0; attempt < TRIES && best > SLOWER; attempt++) {
      const result = await measureFairness(world, DOWNLOADS);
      t.diagnostic(JSON.stringify(result));
      assert.ok(result.bulkRate > 0, 'the downloads do not move');
      best = Math.min(best, result.busyMs / result.idleMs);
    }
    assert.ok(best <= SLOWER, `small requests take ${best.toFixed(1)} times as long`);
  });
});
