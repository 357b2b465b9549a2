/** What stalled streams may cost, wherever it is measured. */
import assert from 'node:assert/strict';
import type { StallResult } from './stalled.ts';

const MIB = 1 << 20;
/** Growth of a process, whatever the number of streams. */
export const GROWTH_BYTES = 32 * MIB;
/** And for each stream that stands still. */
export const GROWTH_PER_STREAM_BYTES = MIB;
/** Of one body between application and client. */
export const HELD_BYTES = 8 * MIB;
export const REQUEST_MS = 1_000;

export const assertBounded = (result: StallResult, streams: number): void => {
  const shown = JSON.stringify(result);
  const growth = GROWTH_BYTES + streams * GROWTH_PER_STREAM_BYTES;
  assert.ok(result.gatewayGrowth <= growth, `the gateway grew too much: ${shown}`);
  assert.ok(result.tunnelClientGrowth <= growth, `the tunnel client grew too much: ${shown}`);
  assert.ok(result.mostHeld <= HELD_BYTES, `too much of a body is held: ${shown}`);
  assert.ok(result.slowestRequestMs <= REQUEST_MS, `another request waited: ${shown}`);
  assert.equal(result.legsLost, 0, shown);
};
