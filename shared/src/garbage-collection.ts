/**
 * How a program's garbage is collected. Payload lies outside of V8's heap but counts towards its limits, and the limits
 * start full collections, of which each looks at all that is alive. That took a quarter of the time of a download. Only
 * programs set this, never the library: it is one setting of the whole process.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** On top of what is alive after a collection. V8 itself goes up to 300 where it finds that this pays. */
const HEAP_GROWTH_PERCENT = 200;
/**
 * Payload after which young objects are collected, bytes: nearly all of it belongs to them, and to look at them takes
 * half a millisecond. V8 comes to it only when they fill 16 MiB by themselves, and starts full collections from some 36 MiB on.
 */
const PAYLOAD_BYTES = 8 << 20;
/** Between looks at how much there is, ms: 8 MiB at 400 MiB/s. */
const BUSY_LOOK_MS = 20;
/** The same while there is no more than at the last look, ms. */
const QUIET_LOOK_MS = 250;

/** From now on, without keeping the process alive. */
export const tuneGarbageCollection = (): void => {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`);
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: { type: 'minor' }) => void;
  setFlagsFromString('--no-expose-gc');
  const payload = (): number => getHeapStatistics().external_memory;
  let before = payload();
  let collectedAt = before;
  const look = (): void => {
    const now = payload();
    // What a collection frees is counted a little later.
    collectedAt = Math.min(collectedAt, now);
    if (now - collectedAt >= PAYLOAD_BYTES) {
      collect({ type: 'minor' });
      collectedAt = payload();
    }
    setTimeout(look, now > before ? BUSY_LOOK_MS : QUIET_LOOK_MS).unref();
    before = now;
  };
  look();
};
