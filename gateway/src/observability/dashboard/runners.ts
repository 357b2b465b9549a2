/** The runners of the directory, kept here: an open page asks every other second. Tells what changes about them. */
import { describeError } from '../../../../shared/src/errors.ts';
import type { Directory, Runner } from '../../directory/directory.ts';
import type { Logger } from '../log.ts';
import type { RunnerEvents } from './runner-events.ts';

export interface KnownRunners {
  /** Rejects when the directory is away and nothing was read before. */
  all(): Promise<ReadonlyMap<string, Runner>>;
  close(): void;
}

export const createKnownRunners = (deps: {
  readonly directory: Pick<Directory, 'runner' | 'runners' | 'watch'>;
  readonly events: RunnerEvents;
  readonly log: Pick<Logger, 'warn'>;
}): KnownRunners => {
  const { directory, events, log } = deps;
  const known = new Map<string, Runner>();
  /** Undefined: has to be read, when somebody looks. */
  let loading: Promise<void> | undefined;

  const note = (before: Runner | undefined, after: Runner): void => {
    if (!before) return events.add(after.id, 'info', 'Created');
    if (after.revokedAt !== undefined && before.revokedAt === undefined) events.add(after.id, 'warn', 'Revoked');
    if (after.joinedAt !== undefined && after.joinedAt !== before.joinedAt) {
      events.add(
        after.id,
        'info',
        before.joinedAt === undefined ? 'Joined for the first time' : 'Joined with a new key',
      );
    }
  };
  const load = async (): Promise<void> => {
    for (const runner of await directory.runners()) known.set(runner.id, runner);
  };
  const reload = async (runnerId: string): Promise<void> => {
    const runner = await directory.runner(runnerId);
    if (!runner) return void known.delete(runnerId);
    note(known.get(runnerId), runner);
    known.set(runnerId, runner);
  };

  const unwatch = directory.watch((change) => {
    if (change.kind === 'all') loading = undefined;
    if (change.kind !== 'runner' || !loading) return;
    const before = loading;
    loading = before.then(() => reload(change.runnerId));
    loading.catch((error: unknown) => {
      loading = undefined;
      log.warn({ runnerId: change.runnerId, error: describeError(error) }, 'a runner could not be looked up');
    });
  });

  loading = load();
  loading.catch(() => {
    loading = undefined;
  });
  return {
    async all() {
      loading ??= load();
      try {
        await loading;
      } catch (error) {
        loading = undefined;
        if (known.size === 0) throw error;
      }
      return known;
    },
    close: unwatch,
  };
};
