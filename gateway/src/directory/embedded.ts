/** The directory of a gateway that stands alone: one SQLite file, which the command line may use at the same time. */
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError } from '../../../shared/src/errors.ts';
import type { Directory } from './directory.ts';
import { createEmbeddedBlocks } from './embedded-blocks.ts';
import { createEmbeddedEnvironments } from './embedded-environments.ts';
import { createEmbeddedKeys } from './embedded-keys.ts';
import { createEmbeddedRevocations } from './embedded-revocations.ts';
import { createEmbeddedRunners } from './embedded-runners.ts';
import { openStore } from './embedded-store.ts';
import type { DirectoryLog } from './embedded-store.ts';

/** How often forgotten names and tokens are removed, ms. They count as forgotten from their time on, so it is no hurry. */
const SWEEP_INTERVAL_MS = 60 * 60 * 1_000;

/**
 * Opens or makes the file. `issuer` names the cluster in memberships; it is kept from first use on, so that runners
 * stay enrolled when the configuration later names other domains.
 */
export const openEmbeddedDirectory = async (
  deps: { readonly clock: Clock; readonly log?: DirectoryLog | undefined },
  options: { readonly path: string; readonly issuer: string },
): Promise<Directory> => {
  const store = await openStore(deps, options);
  const { sweep: sweepRunners, ...runners } = createEmbeddedRunners(store);
  const { sweep: sweepEnvironments, ...environments } = createEmbeddedEnvironments(store);
  const { sweep: sweepKeys, ...keys } = createEmbeddedKeys(store, options.issuer);
  const { sweep: sweepRevocations, ...revocations } = createEmbeddedRevocations(store);
  let cancelSweep: (() => void) | undefined;

  const sweep = (): void => {
    try {
      sweepEnvironments();
      store.write(sweepRunners);
      sweepKeys();
      sweepRevocations();
    } catch (error) {
      deps.log?.warn({ err: error }, `the directory cannot be swept: ${describeError(error)}`);
    }
    cancelSweep = deps.clock.timer(SWEEP_INTERVAL_MS, sweep);
  };
  sweep();

  return {
    ...runners,
    ...environments,
    ...keys,
    ...revocations,
    ...createEmbeddedBlocks(store),
    watch: (listener) => store.watch(listener),
    close: async () => {
      cancelSweep?.();
      store.close();
    },
  };
};
