/**
 * How many requests of one connection are at the upstream at once. Requests beyond wait here, where they cost nothing;
 * what a client resets while it waits is never started. A slot whose request was reset stays taken for a moment, until
 * the reset has reached the upstream, so that opening and resetting fast gets a client no more than its slots (rapid
 * reset, CVE-2023-44487).
 */
import type { Clock } from '../../../shared/src/clock.ts';

/** Round trip of a far tunnel: by then the upstream has been told. */
export const RESET_HOLD_MS = 250;
/** Window in which resets are counted. */
export const RESET_WINDOW_MS = 10_000;

export interface SlotLimits {
  /** Requests at the upstream at once. */
  readonly inFlight: number;
  /** Requests that wait. Beyond: abuse. */
  readonly waiting: number;
  /** Resets within {@link RESET_WINDOW_MS}. Beyond: abuse. */
  readonly resets: number;
}

export interface Slot {
  /** Calls `start` now, or when a slot is free. Once. */
  run(start: () => void): void;
  /** Gives the slot back, or leaves the queue. The second call does nothing. */
  leave(how: 'ended' | 'reset'): void;
}

export interface RequestSlots {
  create(): Slot;
  readonly taken: number;
  /** Nothing is started any more. */
  close(): void;
}

interface Entry {
  start: () => void;
  state: 'idle' | 'waiting' | 'started' | 'left';
}

/** `onAbuse` is called once, when a client goes beyond what waits or is reset in a sane connection. */
export const createRequestSlots = (
  deps: { readonly clock: Clock; readonly onAbuse: (reason: 'waiting' | 'resets') => void },
  limits: SlotLimits,
): RequestSlots => {
  const queue = new Set<Entry>();
  let taken = 0;
  let closed = false;
  let windowStart = deps.clock.monotonic();
  let resets = 0;

  const abuse = (reason: 'waiting' | 'resets'): void => {
    if (closed) return;
    closed = true;
    queue.clear();
    deps.onAbuse(reason);
  };

  const begin = (entry: Entry): void => {
    entry.state = 'started';
    taken += 1;
    entry.start();
  };

  const release = (): void => {
    taken -= 1;
    for (const entry of queue) {
      if (closed || taken >= limits.inFlight) return;
      queue.delete(entry);
      begin(entry);
    }
  };

  const countReset = (): void => {
    const now = deps.clock.monotonic();
    if (now - windowStart >= RESET_WINDOW_MS) {
      windowStart = now;
      resets = 0;
    }
    resets += 1;
    if (resets > limits.resets) abuse('resets');
  };

  return {
    create() {
      const entry: Entry = { start: () => {}, state: 'idle' };
      return {
        run(start) {
          if (entry.state !== 'idle' || closed) return;
          entry.start = start;
          if (taken < limits.inFlight) return begin(entry);
          if (queue.size >= limits.waiting) return abuse('waiting');
          entry.state = 'waiting';
          queue.add(entry);
        },
        leave(how) {
          const { state } = entry;
          if (state === 'left') return;
          entry.state = 'left';
          queue.delete(entry);
          if (how === 'reset') countReset();
          if (state !== 'started') return;
          if (how === 'reset') deps.clock.timer(RESET_HOLD_MS, release);
          else release();
        },
      };
    },
    get taken() {
      return taken;
    },
    close() {
      closed = true;
      queue.clear();
    },
  };
};
