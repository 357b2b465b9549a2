/**
 * Replaces keys that have become too old. Every gateway looks after all rings; the directory sees to it that of several
 * that find a key too old one makes a new one.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../observability/log.ts';
import type { Directory } from './directory.ts';
import { isRotationDue, KEY_USES } from './key-ring.ts';

/** How often the age of keys is looked at, ms. A timer over 30 days would not notice a clock that was set. */
export const KEY_AGE_CHECK_MS = 60_000;

/** Returns what ends it. */
export const keepKeysFresh = (deps: {
  readonly directory: Pick<Directory, 'keyRing' | 'rotateKeys'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}): (() => void) => {
  const { directory, clock, log } = deps;
  let isClosed = false;
  let cancel: () => void = () => {};

  const check = async (): Promise<void> => {
    for (const use of KEY_USES) {
      try {
        const ring = await directory.keyRing(use);
        const replaces = ring.keys[0]!.keyId;
        if (!isRotationDue(ring, clock.now()) || isClosed) continue;
        const next = await directory.rotateKeys(use, { replaces });
        const { keyId, signsFrom } = next.keys[0]!;
        log.info(
          { use, keyId, replaces, signsFrom: new Date(signsFrom).toISOString() },
          'a key was replaced by its age',
        );
      } catch (error) {
        if (isClosed) return;
        log.warn({ err: error, use }, 'the age of keys cannot be looked at, it is tried again');
      }
    }
    if (!isClosed) cancel = clock.timer(KEY_AGE_CHECK_MS, () => void check());
  };
  cancel = clock.timer(0, () => void check());
  return () => {
    isClosed = true;
    cancel();
  };
};
