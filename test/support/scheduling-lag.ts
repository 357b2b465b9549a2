/**
 * How long the machine keeps threads waiting that could run: what a test that measures time may add to what it expects,
 * and no more.
 */
import type { TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';

export interface SchedulingLag {
  /** The sum, ms, of how late a thread that does nothing else woke up, since the last call. */
  take(): number;
}

/** Sleeps for 10 ms at a time, and adds up by how much each time was longer. */
const SLEEPER = `
  const { workerData } = require('node:worker_threads');
  const sum = new Float64Array(workerData);
  const never = new Int32Array(new SharedArrayBuffer(4));
  const SLEEP_MS = 10;
  for (;;) {
    const before = performance.now();
    Atomics.wait(never, 0, 0, SLEEP_MS);
    sum[0] += Math.max(0, performance.now() - before - SLEEP_MS - 1);
  }
`;

export const measureSchedulingLag = (t: TestContext): SchedulingLag => {
  const shared = new SharedArrayBuffer(Float64Array.BYTES_PER_ELEMENT);
  const sum = new Float64Array(shared);
  const sleeper = new Worker(SLEEPER, { eval: true, workerData: shared });
  t.after(() => sleeper.terminate());
  let taken = 0;
  return {
    take() {
      const now = sum[0] ?? 0;
      const lag = now - taken;
      taken = now;
      return lag;
    },
  };
};
