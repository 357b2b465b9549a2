/** Very many tunnel streams, one after the other, on one leg over QUIC: nothing stays behind. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { quicPair } from '../support/connection-pairs.ts';
import { echoing, makeLegs, never, readAll, target } from '../support/legs.ts';

const STREAMS = 300_000;
const WARM_UP = 20_000;
/** Streams at once. */
const LANES_OF_WORK = 64;
const MIB = 1 << 20;
/** Of the heap after a collection: what is kept per stream would show as 100 bytes × 300,000. */
const HEAP_GROWTH_BYTES = 4 * MIB;
/** Of the process: native memory too, which the allocator may keep in pieces. */
const RSS_GROWTH_BYTES = 24 * MIB;

/** The test runner starts test files without flags. */
const exposeGc = (): NodeJS.GCFunction => {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as NodeJS.GCFunction;
};

describe('a leg over QUIC', () => {
  it(`carries ${STREAMS} streams in a row and keeps nothing of them`, async (t) => {
    const gc = exposeGc();
    const legs = await makeLegs(quicPair, { runnerHandlers: echoing });
    t.after(() => legs.close());
    const run = async (count: number): Promise<void> => {
      let left = count;
      const work = async (): Promise<void> => {
        while (left > 0) {
          left -= 1;
          const stream = legs.gateway.openStream(target(), { signal: never });
          stream.end('hello');
          assert.equal((await readAll(stream)).toString(), 'hello');
        }
      };
      await Promise.all(Array.from({ length: LANES_OF_WORK }, work));
    };
    const memory = async (): Promise<NodeJS.MemoryUsage> => {
      for (let round = 0; round < 3; round++) {
        await gc({ type: 'major', execution: 'async' });
        await delay(100);
      }
      return process.memoryUsage();
    };
    await run(WARM_UP);
    const before = await memory();
    await run(STREAMS);
    const after = await memory();
    const heap = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers;
    const rss = after.rss - before.rss;
    t.diagnostic(
      `heap and buffers grew by ${(heap / MIB).toFixed(1)} MiB, the process by ${(rss / MIB).toFixed(1)} MiB`,
    );
    assert.equal(legs.gateway.stats().openStreams + legs.runner.stats().openStreams, 0);
    assert.ok(heap <= HEAP_GROWTH_BYTES, `${heap} bytes stay behind`);
    assert.ok(rss <= RSS_GROWTH_BYTES, `the process has grown by ${rss} bytes`);
  });
});
