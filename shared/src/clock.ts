/** Time as a collaborator, so that tests can move it. Wall time is for credentials, monotonic time for all else. */
export interface Clock {
  /** Wall clock, milliseconds since the epoch. May jump. */
  now(): number;
  /** Monotonic clock, milliseconds since some fixed point. Never jumps. */
  monotonic(): number;
  /** Calls `callback` once after `delayMs`, without keeping the process alive. Returns the function that cancels it. */
  timer(delayMs: number, callback: () => void): () => void;
}

/** `setTimeout` fires at once beyond this (2^31 − 1 ms, 24.8 days). */
const MAX_TIMER_MS = 2_147_483_647;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  timer(delayMs, callback) {
    const handle = setTimeout(callback, Math.min(Math.max(0, delayMs), MAX_TIMER_MS)).unref();
    return () => clearTimeout(handle);
  },
};

/** Waits `delayMs`; rejects with the signal's reason when that is aborted first. */
export const delay = (clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const onAbort = (): void => {
      cancel();
      reject(signal.reason as Error);
    };
    const cancel = clock.timer(delayMs, () => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
    signal.addEventListener('abort', onAbort, { once: true });
  });
