/**
 * Environments and organizations of which an operator lets nothing be served, kept in the directory and known to every
 * gateway of it within seconds. The check is local: no request waits for the directory.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Directory } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';

/** Until the list is read again after the directory did not answer, ms. Blocks take effect within 60 s. */
export const RELOAD_MS = 1_000;

export interface Blocks {
  isBlocked(of: { readonly environmentId: string; readonly organization: string | undefined }): boolean;
  /** Calls back when the list has changed. Returns what ends it. */
  onChange(listener: () => void): () => void;
  close(): void;
}

/** Reads the list; rejects when that is not possible. */
export const createBlocks = async (deps: {
  readonly directory: Pick<Directory, 'blocks' | 'watch'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'warn'>;
}): Promise<Blocks> => {
  const { directory, clock, log } = deps;
  const listeners = new Set<() => void>();
  let environments = new Set<string>();
  let organizations = new Set<string>();
  let cancel: () => void = () => {};
  let isClosed = false;
  let generation = 0;

  const load = async (): Promise<void> => {
    const mine = ++generation;
    const list = await directory.blocks();
    // A later one has read what is newer.
    if (mine !== generation) return;
    environments = new Set(list.flatMap(({ kind, subject }) => (kind === 'environment' ? [subject] : [])));
    organizations = new Set(list.flatMap(({ kind, subject }) => (kind === 'organization' ? [subject] : [])));
  };
  const reload = async (): Promise<void> => {
    cancel();
    try {
      await load();
    } catch (error) {
      if (isClosed) return;
      log.warn({ err: error }, 'the list of blocked environments cannot be read, it is tried again');
      cancel = clock.timer(RELOAD_MS, () => void reload());
      return;
    }
    if (!isClosed) for (const listener of [...listeners]) listener();
  };

  const unwatch = directory.watch(({ kind }) => {
    if (kind === 'blocks' || kind === 'all') void reload();
  });
  try {
    await load();
  } catch (error) {
    unwatch();
    throw error;
  }
  return {
    isBlocked: ({ environmentId, organization }) =>
      environments.has(environmentId) || (organization !== undefined && organizations.has(organization)),
    onChange(listener) {
      const own = (): void => listener();
      listeners.add(own);
      return () => listeners.delete(own);
    },
    close() {
      isClosed = true;
      cancel();
      unwatch();
      listeners.clear();
    },
  };
};
