/** Follows a file: tells its new text when it has changed, however it was replaced. */
import { watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '../../shared/src/clock.ts';

/**
 * The file is read as often without being told to, ms: network file systems tell nothing, and where a directory is
 * swapped behind a symbolic link (Kubernetes), the watch stays with the old one.
 */
const POLL_MS = 5_000;
/** After an event it is read this much later, ms: an editor writes in several steps. */
const SETTLE_MS = 100;

export interface WatchedFile {
  close(): void;
}

/**
 * `text` is what the caller knows already. `onChange` is called once for each new content; `onError` when the file cannot
 * be read, once until it can again.
 */
export const watchFile = (
  deps: { clock: Clock; onChange: (text: string) => void; onError: (error: Error) => void },
  options: { path: string; text: string },
): WatchedFile => {
  const { clock } = deps;
  let known = options.text;
  let failed = false;
  let closed = false;
  let reading = false;
  let cancel = (): void => undefined;

  const check = async (): Promise<void> => {
    if (reading || closed) return;
    reading = true;
    try {
      const text = await readFile(options.path, 'utf8');
      failed = false;
      if (text !== known && !closed) {
        known = text;
        deps.onChange(text);
      }
    } catch (error) {
      // Between the two steps of a replacement there may be no file for a moment: the poll looks again.
      if (!failed && !closed) deps.onError(error as Error);
      failed = true;
    } finally {
      reading = false;
      schedule(POLL_MS);
    }
  };
  const schedule = (delayMs: number): void => {
    cancel();
    if (!closed) cancel = clock.timer(delayMs, () => void check());
  };

  let watcher: ReturnType<typeof watch> | undefined;
  try {
    // The directory and not the file: a file that is replaced takes its watch with it.
    watcher = watch(dirname(options.path), { persistent: false }, () => schedule(SETTLE_MS));
    watcher.on('error', () => watcher?.close());
  } catch {
    // No more watches to be had: the poll has to do.
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
