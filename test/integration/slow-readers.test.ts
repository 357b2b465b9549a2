/** Streams that nobody reads stop their sender and cost nobody else anything. The full size is in test/long. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assertBounded } from '../bench/stall-limits.ts';
import { measureStall } from '../bench/stalled.ts';
import { startWorld } from '../bench/world.ts';

const MIB = 1 << 20;
const STREAMS = 16;
/** Of the speed on an idle leg. Low, because other tests run beside this one. */
const SPEED_RATIO = 0.4;

const skip = process.platform !== 'linux' && 'reads memory and sockets from /proc';

describe('slow readers', { skip }, () => {
  for (const direction of ['download', 'upload'] as const) {
    it(`${STREAMS} stalled ${direction}s stay small, and others go on`, async (t) => {
      const world = await startWorld({ environments: ['slow', 'other'] });
      t.after(() => world.stop());
      const result = await measureStall(world, {
        direction,
        streams: STREAMS,
        bytes: 1_024 * MIB,
        speedBytes: 8 * MIB,
      });
      t.diagnostic(JSON.stringify(result));
      assertBounded(result, STREAMS);
      assert.ok(result.speedRatio >= SPEED_RATIO, `a download beside them is slow: ${JSON.stringify(result)}`);
    });
  }
});
