/**
 * A log in a file that somebody else writes: which files it has been is kept in file-generations.ts.
 *
 * The file is looked at when its directory tells of a change and each second; it is read only as far as a follower asks
 * for it, through a cache that all share.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../logger.ts';
import { type BlockCache, TruncatedError } from './block-cache.ts';
import { createFileCursor, type FileCursor, findTail } from './file-cursor.ts';
import { createFileGenerations } from './file-generations.ts';
import type { HistoryStore } from './file-history.ts';
import { watchLogFile } from './file-watch.ts';
import { createChangeSignal, type LogSource, type LogStart } from './log-source.ts';

/** A log that nobody follows is watched for so long, ms: a follower that lost its leg comes back within. */
const LINGER_MS = 600_000;

export interface FileSourceDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly cache: BlockCache;
  readonly history: HistoryStore;
}

export const createFileSource = (deps: FileSourceDeps, options: { path: string }): LogSource => {
  const { clock, log } = deps;
  const { path } = options;
  const change = createChangeSignal();
  const cursors = new Set<FileCursor>();
  const generations = createFileGenerations({ ...deps, cursors, onChange: change.raise }, { path });
  let users = 0;
  let starting: Promise<void> | undefined;
  let stopping: Promise<void> | undefined;
  let looking: Promise<void> | undefined;
  let failing = false;
  let closed = false;
  let watching: ReturnType<typeof watchLogFile> | undefined;
  let cancelLinger = (): void => undefined;

  const look = async (): Promise<void> => {
    // What changes from now on may come too late for a look that is under way.
    if (looking) await looking;
    looking ??= generations
      .inspect()
      .then(
        () => {
          failing = false;
        },
        (error: unknown) => {
          if (!failing && !closed) log.warn({ err: error, path }, 'a log cannot be looked at');
          failing = true;
        },
      )
      .finally(() => {
        looking = undefined;
      });
    await looking;
  };

  const start = async (): Promise<void> => {
    await generations.begin();
    watching = watchLogFile({ clock, look }, { path });
  };

  const stop = (): Promise<void> => {
    stopping ??= stopNow().finally(() => {
      stopping = undefined;
    });
    return stopping;
  };
  const stopNow = async (): Promise<void> => {
    starting = undefined;
    cancelLinger();
    watching?.close();
    watching = undefined;
    await looking;
    await generations.end();
  };

  const release = (): void => {
    users -= 1;
    if (users > 0 || closed) return;
    cancelLinger();
    cancelLinger = clock.timer(LINGER_MS, () => {
      stop().catch((error: unknown) => log.warn({ err: error, path }, 'a log could not be closed'));
    });
  };

  const tailOffset = async (from: LogStart): Promise<number | undefined> => {
    if (from.kind !== 'tail') return undefined;
    try {
      return await findTail(generations.list(), from.lines);
    } catch (error) {
      if (!(error instanceof TruncatedError)) throw error;
      await look();
      return findTail(generations.list(), from.lines);
    }
  };

  return {
    async open() {
      users += 1;
      cancelLinger();
      await stopping;
      const isFirst = starting === undefined;
      starting ??= start();
      try {
        await starting;
        if (!isFirst) await look();
      } catch (error) {
        starting = undefined;
        release();
        throw error;
      }
    },
    release,
    end: generations.nextBase,
    async cursor(from) {
      const cursor = createFileCursor(
        {
          generations: generations.list,
          look,
          nextBase: generations.nextBase,
          onClose: (closing) => cursors.delete(closing),
        },
        from,
        await tailOffset(from),
      );
      cursors.add(cursor);
      return cursor;
    },
    isOver: () => closed,
    version: change.version,
    changed: change.changed,
    stats: generations.stats,
    async close() {
      if (closed) return;
      closed = true;
      change.raise();
      await starting?.catch(() => undefined);
      await stop();
    },
  };
};
