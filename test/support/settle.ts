/** Moves a manual clock in a program that works with promises. */
import type { ManualClock } from './manual-clock.ts';

/** Lets everything that is ready run: promises, and what they schedule for the next turns of the loop. */
export const settle = async (turns = 5): Promise<void> => {
  for (let turn = 0; turn < turns; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
};

/** Moves `clock` on in steps, and lets what each step started run before the next one. */
export const advanceAndSettle = async (clock: ManualClock, ms: number, stepMs = 500): Promise<void> => {
  await settle();
  for (let rest = ms; rest > 0; rest -= stepMs) {
    clock.advance(Math.min(rest, stepMs));
    await settle();
  }
};
