/** The legs of a runner as such, for what goes to the runner itself and not to one of its environments. */
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { LegEntry, RunnerEntry } from './routing-table.ts';

/** Those that were not left before those that were, instances that do not drain before those that do, then the newest. */
const compare = (a: LegEntry, b: LegEntry): number =>
  Number(a.left) - Number(b.left) ||
  Number(a.instance.draining) - Number(b.instance.draining) ||
  b.instance.startedAt - a.instance.startedAt ||
  b.servesSince - a.servesSince;

/** Legs that take new streams, best first. */
export const legsOfRunner = (runner: RunnerEntry | undefined): Leg[] =>
  [...(runner?.instances.values() ?? [])]
    .flatMap((instance) => [...instance.legs])
    .filter((entry) => entry.leg.isOpen && !entry.standby && !entry.deadPath)
    .sort(compare)
    .map((entry) => entry.leg);

export interface LegWatch {
  /** Calls back with every leg of the runner that comes up from now on. Returns the function that stops that. */
  watch(runnerId: string, listener: () => void): () => void;
  added(runnerId: string): void;
}

export const createLegWatch = (): LegWatch => {
  const listeners = new Map<string, Set<() => void>>();
  return {
    watch(runnerId, listener) {
      const own = listeners.get(runnerId) ?? new Set();
      listeners.set(runnerId, own);
      own.add(listener);
      return () => {
        own.delete(listener);
        if (own.size === 0 && listeners.get(runnerId) === own) listeners.delete(runnerId);
      };
    },
    added(runnerId) {
      for (const listener of [...(listeners.get(runnerId) ?? [])]) listener();
    },
  };
};
