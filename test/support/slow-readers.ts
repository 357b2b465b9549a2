/** Bodies of 1 GiB that nobody takes, on one leg: they stop their sender and cost nobody else anything. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assertBounded } from '../bench/stall-limits.ts';
import { measureStall } from '../bench/stalled.ts';
import { startWorld } from '../bench/world.ts';

const MIB = 1 << 20;
const skip = process.platform !== 'linux' && 'reads memory and sockets from /proc';

export const describeSlowReaders = (of: {
  readonly streams: number;
  /** Of the download whose speed is compared. */
  readonly speedBytes: number;
  /** Speed beside them, of the speed on an idle leg in the same run. */
  readonly speedRatio: number;
}): void => {
  describe('slow readers', { skip }, () => {
    for (const direction of ['download', 'upload'] as const) {
      it(`${of.streams} stalled ${direction}s stay small, and others go on`, async (t) => {
        const world = await startWorld({ environments: ['slow', 'other'] });
        t.after(() => world.stop());
        const { streams, speedBytes } = of;
        const result = await measureStall(world, { direction, streams, bytes: 1_024 * MIB, speedBytes });
        t.diagnostic(JSON.stringify(result));
        assertBounded(result, streams);
        assert.ok(result.speedRatio >= of.speedRatio, `a download beside them is slow: ${JSON.stringify(result)}`);
      });
    }
  });
};
