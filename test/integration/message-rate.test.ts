/** A peer that floods the control stream loses its leg, and only that. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LEG_LIMITS } from '../../shared/src/protocol/limits.ts';
import { createMessageMeter } from '../../shared/src/protocol/message-meter.ts';
import { createManualClock } from '../support/manual-clock.ts';
import { environment, startTunnels } from '../support/tunnels.ts';

describe('the meter of control messages', () => {
  const limits = { messageBurst: 3, messagesPerSecond: 2, messageBurstBytes: 100, messageBytesPerSecond: 10 };

  it('takes a burst, then as many as time gives back', async () => {
    const clock = createManualClock();
    const meter = createMessageMeter({ clock }, limits);
    assert.deepEqual([meter.take(1), meter.take(1), meter.take(1)], [true, true, true]);
    await clock.advance(500);
    assert.deepEqual([meter.take(1), meter.take(1)], [true, false]);
  });

  it('counts bytes as well', async () => {
    const clock = createManualClock();
    const meter = createMessageMeter({ clock }, limits);
    assert.equal(meter.take(95), true);
    await clock.advance(1_000);
    assert.equal(meter.take(15), true);
    assert.equal(meter.take(1), false);
  });

  it('saves up no more than a burst', async () => {
    const clock = createManualClock();
    const meter = createMessageMeter({ clock }, limits);
    await clock.advance(3_600_000);
    assert.deepEqual(
      [1, 2, 3, 4].map(() => meter.take(0)),
      [true, true, true, false],
    );
  });
});

describe('a runner that floods its control stream', () => {
  it('is closed with `limit`; another runner does not notice', async (t) => {
    const tunnels = await startTunnels();
    t.after(() => tunnels.close());
    const quiet = await (await tunnels.enrol('quiet')).dial();
    await quiet.announce(1, [environment('quiet')]);
    const { leg } = await (await tunnels.enrol('flood')).dial();
    for (let sent = 0; sent < LEG_LIMITS.messageBurst * 2; sent++) {
      leg.send({ type: 'drain', reason: 'flood', deadlineMs: 0 });
    }
    const end = await leg.closed;
    assert.deepEqual([end.code, end.by], ['limit', 'remote']);
    assert.equal((await quiet.announce(2, [environment('quiet')])).at(0)?.accepted, true);
    assert.equal(quiet.leg.isOpen, true);
  });
});
