/** Says when a file is to be looked at: when its directory tells of a change, and as often as that may have been missed. */
import { watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { Clock } from '../../../shared/src/clock.ts';

/** Network file systems tell of no change, and the watch stays with a directory that is swapped: looked at as often, ms. */
const POLL_MS = 1_000;
/** Between two looks at a file that changes all the time, ms: the delay nobody notices. */
const LOOK_SPACING_MS = 20;

/** `look` never rejects. */
export const watchLogFile = (
  deps: { clock: Clock; look: () => Promise<void> },
  options: { path: string },
): { close(): void } => {
  const { path } = options;
  let closed = false;
  let isLooking = false;
  let lookAgain = false;
  let cancel = (): void => undefined;

  const schedule = (delayMs: number): void => {
    cancel();
    if (!closed) cancel = deps.clock.timer(delayMs, () => void run());
  };
  const run = async (): Promise<void> => {
    lookAgain = false;
    isLooking = true;
    await deps.look();
    isLooking = false;
    schedule(lookAgain ? LOOK_SPACING_MS : POLL_MS);
  };

  let watcher: ReturnType<typeof watch> | undefined;
  try {
    // The directory and not the file: a file that is replaced takes its watch with it.
    watcher = watch(dirname(path), { persistent: false }, (_event, name) => {
      if (lookAgain || (name !== null && name !== basename(path))) return;
      lookAgain = true;
      if (!isLooking) schedule(LOOK_SPACING_MS);
    });
    watcher.on('error', () => watcher?.close());
  } catch {
    // No directory yet, or no more watches to be had: the poll has to do.
  }
  schedule(POLL_MS);
  return {
    close() {
      closed = true;
      cancel();
      watcher?.close();
    },
  };
};
