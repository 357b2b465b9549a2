import type { Clock } from '../../shared/src/clock.ts';

/** A wait that somebody else can end. */
export interface Waker {
  /** Resolves after `delayMs` or at the next `wake`, whichever is first; rejects with the signal's reason. */
  wait(delayMs: number, signal: AbortSignal): Promise<void>;
  wake(): void;
}

export const createWaker = (clock: Clock): Waker => {
  const sleepers = new Set<() => void>();
  return {
    wait: (delayMs, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason as Error);
        const finish = (act: () => void): void => {
          cancel();
          sleepers.delete(onWake);
          signal.removeEventListener('abort', onAbort);
          act();
        };
        const onWake = (): void => finish(resolve);
        const onAbort = (): void => finish(() => reject(signal.reason as Error));
        const cancel = clock.timer(delayMs, onWake);
        sleepers.add(onWake);
        signal.addEventListener('abort', onAbort, { once: true });
      }),
    wake() {
      for (const wakeUp of [...sleepers]) wakeUp();
    },
  };
};
