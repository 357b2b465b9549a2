/** A clock that stands still until the test moves it. */
import type { Clock } from '../../shared/src/clock.ts';

export interface ManualClock extends Clock {
  /**
   * Moves both clocks on, and runs the timers that are due in their order, before it returns. The promise resolves
   * when what they started has come as far as it can.
   */
  advance(ms: number): Promise<void>;
  /** Moves the wall clock alone, as an administrator does. */
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

/** Moves `clock` on in steps, and lets what each step started run before the next one. */
export const advanceInSteps = async (clock: ManualClock, ms: number, stepMs = 500): Promise<void> => {
  await settle();
  for (let rest = ms; rest > 0; rest -= stepMs) await clock.advance(Math.min(rest, stepMs));
};

export const createManualClock = (startMs: number = Date.UTC(2026, 0, 1)): ManualClock => {
  let wall = startMs;
  let monotonic = 0;
  const timers = new Set<{ readonly at: number; readonly callback: () => void }>();
  return {
    now: () => wall,
    monotonic: () => monotonic,
    timer(delayMs, callback) {
      const timer = { at: monotonic + Math.max(0, delayMs), callback };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    advance(ms) {
      const end = monotonic + ms;
      for (;;) {
        const due = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
        if (!due) break;
        timers.delete(due);
        wall += due.at - monotonic;
        monotonic = due.at;
        due.callback();
      }
      wall += end - monotonic;
      monotonic = end;
      return settle();
    },
    setWall(now) {
      wall = now;
    },
  };
};
