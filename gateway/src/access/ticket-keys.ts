/**
 * The key of TLS session tickets, as the directory's ring has it: clients resume at every gateway of the directory, and
 * after a restart. While the directory is away the known keys go on.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Directory } from '../directory/directory.ts';
import { pendingKey, signingKey, type KeyRing } from '../directory/key-ring.ts';
import type { Logger } from '../observability/log.ts';

/** Until the ring is read again after the directory did not answer, ms. */
const RELOAD_MS = 5_000;

export interface TicketKeys {
  /** 48 bytes. */
  current(): Buffer;
  /** Calls back with each new key. Returns what ends it. */
  onChange(listener: (key: Buffer) => void): () => void;
  close(): void;
}

/** Reads the ring; rejects when that is not possible. */
export const createTicketKeys = async (deps: {
  readonly directory: Pick<Directory, 'keyRing' | 'watch'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'warn'>;
}): Promise<TicketKeys> => {
  const { directory, clock, log } = deps;
  const listeners = new Set<(key: Buffer) => void>();
  let cancelSwitch: () => void = () => {};
  let cancelReload: () => void = () => {};
  let isClosed = false;
  let ring: KeyRing = await directory.keyRing('tickets');
  let told = signingKey(ring, clock.now()).keyId;

  const current = (): Buffer => Buffer.from(signingKey(ring, clock.now()).secret);
  /** Tells of the key if it is another one, and waits for the next. */
  const update = (): void => {
    cancelSwitch();
    if (isClosed) return;
    const now = clock.now();
    const { keyId } = signingKey(ring, now);
    if (keyId !== told) {
      told = keyId;
      for (const listener of [...listeners]) listener(current());
    }
    const pending = pendingKey(ring, now);
    if (pending) cancelSwitch = clock.timer(pending.signsFrom - now, update);
  };
  const reload = async (): Promise<void> => {
    cancelReload();
    try {
      ring = await directory.keyRing('tickets');
    } catch (error) {
      if (isClosed) return;
      log.warn({ err: error }, 'the keys of TLS tickets cannot be read, it is tried again');
      cancelReload = clock.timer(RELOAD_MS, () => void reload());
      return;
    }
    update();
  };
  const unwatch = directory.watch((change) => {
    if (change.kind === 'all' || (change.kind === 'keys' && change.use === 'tickets')) void reload();
  });
  update();
  return {
    current,
    onChange(listener) {
      const own = (key: Buffer): void => listener(key);
      listeners.add(own);
      return () => listeners.delete(own);
    },
    close() {
      isClosed = true;
      cancelSwitch();
      cancelReload();
      unwatch();
      listeners.clear();
    },
  };
};
