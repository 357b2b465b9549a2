import type { Clock } from '../../shared/src/clock.ts';

/** RFC 8305 section 5, "Connection Attempt Delay": how long an attempt is alone before the next address is tried. */
export const CONNECTION_ATTEMPT_DELAY_MS = 250;
/** Addresses of one name that are tried; a name with more is not tried further. */
export const MAX_ADDRESSES = 16;

export interface ResolvedAddress {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Families in turn, beginning with that of the first address (RFC 8305 section 4). */
export const interleaveFamilies = <T extends { readonly family: 4 | 6 }>(addresses: readonly T[]): T[] => {
  const first = addresses.filter(({ family }) => family === addresses[0]?.family);
  const second = addresses.filter(({ family }) => family !== addresses[0]?.family);
  return first
    .flatMap((entry, index) => (second[index] ? [entry, second[index]] : [entry]))
    .concat(second.slice(first.length));
};

/**
 * Connects to whichever candidate answers first. They are started in order, each {@link CONNECTION_ATTEMPT_DELAY_MS}
 * after the one before, or at once when that has failed. The losers' signals are aborted; one that connects all the
 * same is given to `discard`. Rejects with an AggregateError when all have failed, or with the reason of `signal`.
 */
export const raceAttempts = <C, R>(
  deps: { clock: Clock },
  candidates: readonly C[],
  attempt: (candidate: C, options: { signal: AbortSignal }) => Promise<R>,
  discard: (late: R) => void,
  options: {
    signal: AbortSignal;
    /** Until the candidate behind the one of this index is started, ms. */
    delayAfter?: (index: number) => number;
  },
): Promise<R> =>
  new Promise<R>((resolve, reject) => {
    const { signal, delayAfter = () => CONNECTION_ATTEMPT_DELAY_MS } = options;
    const losers = new AbortController();
    const errors: unknown[] = [];
    let next = 0;
    let settled = false;
    let cancelTimer = (): void => undefined;

    const settle = (): void => {
      settled = true;
      cancelTimer();
      signal.removeEventListener('abort', onAbort);
      losers.abort(new DOMException('another attempt won', 'AbortError'));
    };
    const onAbort = (): void => {
      settle();
      reject(signal.reason as Error);
    };
    const startNext = (): void => {
      cancelTimer();
      if (settled || next >= candidates.length) return;
      const index = next++;
      const candidate = candidates[index] as C;
      cancelTimer = deps.clock.timer(delayAfter(index), startNext);
      attempt(candidate, { signal: losers.signal }).then(
        (result) => {
          if (settled) return discard(result);
          settle();
          resolve(result);
        },
        (error: unknown) => {
          if (settled) return;
          errors.push(error);
          if (errors.length < candidates.length) return startNext();
          settle();
          reject(errors.length === 1 ? (error as Error) : new AggregateError(errors, 'no address answered'));
        },
      );
    };

    if (signal.aborted) return reject(signal.reason as Error);
    if (candidates.length === 0) return reject(new AggregateError([], 'there is no address to try'));
    signal.addEventListener('abort', onAbort, { once: true });
    startNext();
  });
