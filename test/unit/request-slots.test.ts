import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRequestSlots, RESET_HOLD_MS, RESET_WINDOW_MS, type Slot } from '../../gateway/src/edge/request-slots.ts';
import type { Clock } from '../../shared/src/clock.ts';

const manualClock = (): Clock & { advance(ms: number): void } => {
  let now = 0;
  const timers = new Set<{ at: number; callback: () => void }>();
  return {
    now: () => now,
    monotonic: () => now,
    timer(delayMs, callback) {
      const timer = { at: now + delayMs, callback };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    advance(ms) {
      now += ms;
      for (const timer of [...timers].sort((a, b) => a.at - b.at)) {
        if (timer.at > now) continue;
        timers.delete(timer);
        timer.callback();
      }
    },
  };
};
const setUp = (limits = { inFlight: 2, waiting: 3, resets: 5 }) => {
  const clock = manualClock();
  const started: number[] = [];
  const abuse: string[] = [];
  const slots = createRequestSlots({ clock, onAbuse: (reason) => abuse.push(reason) }, limits);
  const enter = (id: number): Slot => {
    const slot = slots.create();
    slot.run(() => started.push(id));
    return slot;
  };
  return { clock, started, abuse, slots, enter };
};

test('requests beyond the limit wait for a slot, in order', () => {
  const { started, enter } = setUp();
  const [first, second] = [enter(1), enter(2)];
  enter(3);
  enter(4);
  assert.deepEqual(started, [1, 2]);
  second.leave('ended');
  second.leave('ended');
  assert.deepEqual(started, [1, 2, 3], 'leaving twice frees one slot');
  first.leave('ended');
  assert.deepEqual(started, [1, 2, 3, 4]);
});

test('what is reset while it waits is never started', () => {
  const { started, enter } = setUp();
  const first = enter(1);
  enter(2);
  enter(3).leave('reset');
  enter(4);
  first.leave('ended');
  assert.deepEqual(started, [1, 2, 4]);
});

test('the slot of a reset request is free only when the reset has had time to arrive', () => {
  const { clock, started, enter, slots } = setUp();
  enter(1).leave('reset');
  enter(2).leave('reset');
  enter(3);
  assert.deepEqual(started, [1, 2]);
  assert.equal(slots.taken, 2);
  clock.advance(RESET_HOLD_MS);
  assert.deepEqual(started, [1, 2, 3]);
});

test('more resets than allowed within the window are abuse, once', () => {
  const { clock, abuse, enter } = setUp({ inFlight: 100, waiting: 3, resets: 5 });
  for (let id = 0; id < 5; id++) enter(id).leave('reset');
  assert.deepEqual(abuse, []);
  clock.advance(RESET_WINDOW_MS);
  for (let id = 0; id < 5; id++) enter(id).leave('reset');
  assert.deepEqual(abuse, []);
  enter(6).leave('reset');
  enter(7).leave('reset');
  assert.deepEqual(abuse, ['resets']);
});

test('more waiting requests than allowed are abuse, and nothing is started after it', () => {
  const { started, abuse, enter } = setUp();
  const slots = [1, 2, 3, 4, 5, 6].map(enter);
  assert.deepEqual(abuse, ['waiting']);
  for (const slot of slots) slot.leave('ended');
  assert.deepEqual(started, [1, 2]);
});

test('a request that ends within its start gives its slot back', () => {
  const { slots, started, enter } = setUp({ inFlight: 1, waiting: 5, resets: 5 });
  const slot = slots.create();
  slot.run(() => slot.leave('ended'));
  enter(2);
  assert.deepEqual(started, [2]);
  assert.equal(slots.taken, 1);
});
