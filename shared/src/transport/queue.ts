/** What waits in a transport: callers for something to come, or something for callers. */

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

export interface Queue<T> {
  put(item: T): void;
  /** The item that was put first. Rejects with the signal's reason, then nothing is lost. */
  next(signal: AbortSignal): Promise<T>;
  /** Forgets what waits, and rejects those who wait. */
  fail(error: Error): void;
}

export const createQueue = <T>(): Queue<T> => {
  const ready: T[] = [];
  const waiting = new Set<Waiter<T>>();
  const first = (): Waiter<T> | undefined => {
    for (const waiter of waiting) {
      waiting.delete(waiter);
      return waiter;
    }
    return undefined;
  };
  return {
    put: (item) => {
      const waiter = first();
      if (waiter === undefined) ready.push(item);
      else waiter.resolve(item);
    },
    next: (signal) => {
      if (signal.aborted) return Promise.reject(signal.reason as Error);
      const item = ready.shift();
      if (item !== undefined) return Promise.resolve(item);
      return new Promise((resolve, reject) => {
        const onAbort = (): void => {
          waiting.delete(waiter);
          reject(signal.reason as Error);
        };
        const settled = (): void => signal.removeEventListener('abort', onAbort);
        const waiter: Waiter<T> = {
          resolve: (value) => (settled(), resolve(value)),
          reject: (error) => (settled(), reject(error)),
        };
        waiting.add(waiter);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    fail: (error) => {
      ready.length = 0;
      for (let waiter = first(); waiter !== undefined; waiter = first()) waiter.reject(error);
    },
  };
};
