/** What happened to each runner lately, for its page. The log has all of it; this is what is kept in memory. */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../../shared/src/clock.ts';

/** Events that are kept for one runner; the oldest goes first. */
export const MAX_EVENTS = 50;
/** Runners of which events are kept; the one that was quiet the longest is forgotten first. About 10 MB at the worst. */
const MAX_RUNNERS = 2_000;

export interface RunnerEvent {
  /** ms since the epoch. */
  readonly at: number;
  readonly level: 'info' | 'warn';
  readonly text: string;
}

export interface RunnerEvents {
  add(runnerId: string, level: RunnerEvent['level'], text: string): void;
  /** The latest first. */
  of(runnerId: string): readonly RunnerEvent[];
}

export const createRunnerEvents = ({ clock }: { readonly clock: Clock }): RunnerEvents => {
  const runners = new LRUCache<string, RunnerEvent[]>({ max: MAX_RUNNERS });
  return {
    add(runnerId, level, text) {
      const events = runners.get(runnerId) ?? [];
      events.push({ at: clock.now(), level, text });
      if (events.length > MAX_EVENTS) events.shift();
      runners.set(runnerId, events);
    },
    of: (runnerId) => (runners.peek(runnerId) ?? []).toReversed(),
  };
};
