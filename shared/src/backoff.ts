import type { Clock } from './clock.ts';

/** Full jitter: a random wait between 0 and a bound that doubles, so that many runners spread out by themselves. */
export interface BackoffOptions {
  /** Bound of the first wait, ms. */
  readonly initialMs: number;
  /** Largest bound during the first {@link outageMs} of an outage, ms: short outages end fast. */
  readonly shortCapMs: number;
  /** Largest bound after that, ms: a long outage is not hammered at. */
  readonly longCapMs: number;
  /** How long an outage counts as short, ms. */
  readonly outageMs: number;
  /** How long success has to last before the next failure starts from the beginning, ms. */
  readonly stableMs: number;
}

export const RECONNECT_BACKOFF: BackoffOptions = {
  initialMs: 500,
  shortCapMs: 5_000,
  longCapMs: 30_000,
  outageMs: 300_000,
  stableMs: 60_000,
};

export interface Backoff {
  /** The next wait in ms; `atLeastMs` is what the other side asked for, and is kept to. */
  next(atLeastMs?: number): number;
  /** It works. Forgotten again unless it stays so for `stableMs` before the next `next()`. */
  succeeded(): void;
}

export const createBackoff = (
  deps: { clock: Clock; random: () => number },
  options: BackoffOptions = RECONNECT_BACKOFF,
): Backoff => {
  let attempt = 0;
  let outageStarted: number | undefined;
  let succeededAt: number | undefined;
  return {
    next(atLeastMs = 0) {
      const now = deps.clock.monotonic();
      if (succeededAt !== undefined && now - succeededAt >= options.stableMs) {
        attempt = 0;
        outageStarted = undefined;
      }
      succeededAt = undefined;
      outageStarted ??= now;
      const cap = now - outageStarted < options.outageMs ? options.shortCapMs : options.longCapMs;
      const bound = Math.min(cap, options.initialMs * 2 ** Math.min(attempt, 30));
      attempt += 1;
      return atLeastMs + deps.random() * bound;
    },
    succeeded() {
      succeededAt = deps.clock.monotonic();
    },
  };
};
