/**
 * Something of the directory that every gateway has at hand: read once, and again when the directory says that it
 * changed. No request waits for the directory; while it is away, what is known goes on.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Directory, DirectoryChange } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';

/** Until it is read again after the directory did not answer, ms. Revocations bite within 10 s, blocks within 60 s. */
const RELOAD_MS = 1_000;

export interface Followed<T> {
  current(): T;
  /** Reads it now. A failure is logged, and tried again. */
  reload(): Promise<void>;
  /** Calls back when it was read again. Returns what ends it. */
  onChange(listener: () => void): () => void;
  close(): void;
}

export interface FollowedDeps {
  readonly directory: Pick<Directory, 'watch'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'warn'>;
}

/** Rejects when it cannot be read. */
export const follow = async <T>(
  { directory, clock, log }: FollowedDeps,
  options: {
    readonly read: () => Promise<T>;
    readonly isAbout: (change: DirectoryChange) => boolean;
    /** What is logged when it cannot be read again. */
    readonly failure: string;
    /** Default: {@link RELOAD_MS}. */
    readonly reloadMs?: number;
  },
): Promise<Followed<T>> => {
  const { read, isAbout, failure, reloadMs = RELOAD_MS } = options;
  const listeners = new Set<() => void>();
  let cancel: () => void = () => {};
  let isClosed = false;
  let asked = 0;
  let answered = 0;
  let current: T;

  const load = async (): Promise<void> => {
    const mine = ++asked;
    const value = await read();
    // What was asked for later is newer, even if it came before.
    if (mine < answered) return;
    answered = mine;
    current = value;
  };
  const reload = async (): Promise<void> => {
    cancel();
    try {
      await load();
    } catch (error) {
      if (isClosed) return;
      log.warn({ err: error }, failure);
      cancel = clock.timer(reloadMs, () => void reload());
      return;
    }
    if (!isClosed) for (const listener of [...listeners]) listener();
  };

  const unwatch = directory.watch((change) => {
    if (change.kind === 'all' || isAbout(change)) void reload();
  });
  try {
    await load();
  } catch (error) {
    unwatch();
    throw error;
  }
  return {
    current: () => current,
    reload,
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
