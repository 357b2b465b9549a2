import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { watchFlow } from '../../gateway/src/proxy/deadline.ts';
import { createManualClock } from '../support/manual-clock.ts';

const HOUR = 3_600_000;
const MINUTE = 60_000;

describe('watchFlow', () => {
  const watched = (idleMs: number) => {
    const clock = createManualClock();
    const over: string[] = [];
    const watch = watchFlow(clock, { idleMs, stalledMs: 5 * MINUTE }, (reason) => over.push(reason));
    return { clock, over, watch };
  };

  it('ends a stream on which nothing moves for so long, counted from the last bytes', async () => {
    const { clock, over, watch } = watched(HOUR);
    await clock.advance(HOUR - MINUTE);
    watch.moved();
    await clock.advance(HOUR - MINUTE);
    assert.deepEqual(over, []);
    await clock.advance(MINUTE);
    assert.deepEqual(over, ['idle']);
  });

  it('ends one earlier whose client takes nothing, and not one that takes something again', async () => {
    const { clock, over, watch } = watched(HOUR);
    watch.blocked();
    await clock.advance(4 * MINUTE);
    watch.moved();
    await clock.advance(10 * MINUTE);
    assert.deepEqual(over, []);
    watch.blocked();
    await clock.advance(10 * MINUTE);
    assert.deepEqual(over, ['stalled']);
  });

  it('never ends an idle one where silence is no fault, but one that is stalled', async () => {
    const { clock, over, watch } = watched(Infinity);
    await clock.advance(48 * HOUR);
    assert.deepEqual(over, []);
    watch.moved();
    watch.blocked();
    await clock.advance(10 * MINUTE);
    assert.deepEqual(over, ['stalled']);
  });

  it('ends one whose client has ended its direction, once nothing moves any more', async () => {
    const { clock, over, watch } = watched(Infinity);
    watch.halfClosed();
    await clock.advance(4 * MINUTE);
    watch.moved();
    await clock.advance(4 * MINUTE);
    assert.deepEqual(over, []);
    await clock.advance(6 * MINUTE);
    assert.equal(over.length, 1);
  });

  it('does nothing once it was stopped', async () => {
    const { clock, over, watch } = watched(MINUTE);
    watch.stop();
    await clock.advance(HOUR);
    assert.deepEqual(over, []);
  });
});
