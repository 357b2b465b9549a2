/** A clock that stands still until the test moves it. */
import type { Clock } from '../../shared/src/clock.ts';

export interface ManualClock extends Clock {
  /** Moves both clocks and runs the timers that come due, in their order, letting promises settle in between. */
  advance(ms: number): Promise<void>;
  /** Moves the wall clock alone. */
  setWall(now: number): void;
}

/** Lets everything that is ready run: promises, and what they schedule for the next turns of the loop. */
export const settle = async (turns = 5): Promise<void> => {
  for (let turn = 0; turn < turns; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
};

export const createManualClock = (start = Date.UTC(2026, 0, 1)): ManualClock => {
  let wall = start;
  let monotonic = 1_000;
  const timers = new Set<{ at: number; callback: () => void }>();
  return {
    now: () => wall,
    monotonic: () => monotonic,
    timer(delayMs, callback) {
      const timer = { at: monotonic + Math.max(0, delayMs), callback };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    setWall(now) {
      wall = now;
    },
    async advance(ms) {
      const end = monotonic + ms;
      for (;;) {
        await settle();
        const next = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
        if (!next) break;
        timers.delete(next);
        wall += Math.max(0, next.at - monotonic);
        monotonic = Math.max(monotonic, next.at);
        next.callback();
      }
      wall += end - monotonic;
      monotonic = end;
      await settle();
    },
  };
};
