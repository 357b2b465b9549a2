/** One timer that stands for whatever an exchange waits for at the moment. */
import type { Clock } from '../../../shared/src/clock.ts';

export interface Deadline {
  /** Replaces what was waited for before. */
  start(delayMs: number, callback: () => void): void;
  stop(): void;
}

export const createDeadline = (clock: Clock): Deadline => {
  let cancel: (() => void) | undefined;
  const stop = (): void => {
    cancel?.();
    cancel = undefined;
  };
  return {
    start(delayMs, callback) {
      stop();
      cancel = clock.timer(delayMs, callback);
    },
    stop,
  };
};

export interface FlowWatch {
  /** Bytes moved, in either direction. */
  moved(): void;
  /** The client does not take what waits for it, until the next `moved`. */
  blocked(): void;
  /** The client has ended its direction, and may be gone: silence counts as being stalled from now on. */
  halfClosed(): void;
  stop(): void;
}

/**
 * Watches a stream whose length nobody knows: ends it when nothing moves for `idleMs`, and earlier, after `stalledMs`,
 * when bytes wait for a client that does not take them. Looks at the clock now and then instead of at each chunk.
 */
export const watchFlow = (
  clock: Clock,
  limits: { readonly idleMs: number; readonly stalledMs: number },
  onOver: (reason: 'idle' | 'stalled') => void,
): FlowWatch => {
  const deadline = createDeadline(clock);
  let movedAt = clock.monotonic();
  let isBlocked = false;
  let isHalfClosed = false;
  const limit = (): number => (isBlocked || isHalfClosed ? limits.stalledMs : limits.idleMs);
  const arm = (): void => {
    const leftMs = movedAt + limit() - clock.monotonic();
    if (leftMs <= 0) return onOver(isBlocked ? 'stalled' : 'idle');
    deadline.start(Math.min(leftMs, limits.stalledMs), arm);
  };
  arm();
  return {
    moved() {
      movedAt = clock.monotonic();
      isBlocked = false;
    },
    blocked() {
      isBlocked = true;
    },
    halfClosed() {
      isHalfClosed = true;
    },
    stop: deadline.stop,
  };
};
