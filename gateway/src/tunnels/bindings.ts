/** Who holds the environments that nobody announces here: looked up in the directory, remembered until it changes. */
import { LRUCache } from 'lru-cache';
import type { Directory, EnvironmentBinding } from '../directory/directory.ts';

/** Looked-up bindings, 1 KiB each; those of names that do not exist too. The least recently used goes first. */
const CACHED_BINDINGS = 10_000;

export interface Bindings {
  /** Rejects when the directory is away and nothing is remembered. */
  get(environmentId: string): Promise<EnvironmentBinding | undefined>;
  /** Forgets one environment, or all. */
  invalidate(environmentId: string | undefined): void;
}

export const createBindings = (directory: Directory): Bindings => {
  const cache = new LRUCache<string, { binding: EnvironmentBinding | undefined }>({ max: CACHED_BINDINGS });
  /** Grows with each change, so that a look-up that was under way meanwhile is not remembered. */
  let generation = 0;
  return {
    async get(environmentId) {
      const cached = cache.get(environmentId);
      if (cached) return cached.binding;
      const before = generation;
      const binding = await directory.environment(environmentId);
      if (before === generation) cache.set(environmentId, { binding });
      return binding;
    },
    invalidate(environmentId) {
      generation += 1;
      if (environmentId === undefined) cache.clear();
      else cache.delete(environmentId);
    },
  };
};
