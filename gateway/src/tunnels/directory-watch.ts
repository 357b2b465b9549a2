/**
 * Runs checks for whatever changed in the directory. Changes are gathered until the loop is free, and a check that
 * fails (the store is away) is made again, so that no revocation is lost.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Directory } from '../directory/directory.ts';

/** Until a failed check is made again, ms. Revocations bite within 10 s, of which this and the poll are two. */
const RECHECK_MS = 1_000;

export interface DirectoryChecks {
  readonly runner: (runnerId: string) => Promise<void>;
  readonly environments: (environmentIds: readonly string[]) => Promise<void>;
  /** Everything may be different. */
  readonly all: () => Promise<void>;
  /** At once with each change, before any check: what was looked up is stale. */
  readonly onChange: (environmentId: string | undefined) => void;
  readonly onError: (error: unknown) => void;
}

/** Begins watching; returns what ends it. */
export const watchDirectory = (
  deps: { readonly directory: Directory; readonly clock: Clock },
  checks: DirectoryChecks,
): (() => void) => {
  const runners = new Set<string>();
  const environments = new Set<string>();
  let all = false;
  let scheduled = false;
  let ended = false;
  let cancel: () => void = () => {};

  const attempt = async (check: () => Promise<void>, again: () => void): Promise<void> => {
    try {
      await check();
    } catch (error) {
      if (ended) return;
      checks.onError(error);
      again();
      schedule(RECHECK_MS);
    }
  };

  const run = async (): Promise<void> => {
    scheduled = false;
    const changedRunners = [...runners];
    const changedEnvironments = [...environments];
    const everything = all;
    runners.clear();
    environments.clear();
    all = false;
    if (everything) {
      return attempt(checks.all, () => {
        all = true;
      });
    }
    for (const id of changedRunners)
      await attempt(
        () => checks.runner(id),
        () => runners.add(id),
      );
    if (changedEnvironments.length > 0) {
      await attempt(
        () => checks.environments(changedEnvironments),
        () => {
          for (const id of changedEnvironments) environments.add(id);
        },
      );
    }
  };

  const schedule = (delayMs: number): void => {
    if (scheduled || ended) return;
    scheduled = true;
    cancel = deps.clock.timer(delayMs, () => void run());
  };

  const unwatch = deps.directory.watch((change) => {
    // No route and no runner hangs on keys and sessions.
    if (change.kind === 'keys' || change.kind === 'revocations' || change.kind === 'blocks') return;
    checks.onChange(change.kind === 'environment' ? change.environmentId : undefined);
    if (change.kind === 'runner') runners.add(change.runnerId);
    else if (change.kind === 'environment') environments.add(change.environmentId);
    else all = true;
    schedule(0);
  });
  return () => {
    ended = true;
    cancel();
    unwatch();
  };
};
