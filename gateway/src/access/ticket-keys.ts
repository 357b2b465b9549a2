/**
 * The key of TLS session tickets, as the directory's ring has it: clients resume at every gateway of the directory, and
 * after a restart. While the directory is away the known keys go on.
 */
import type { Directory } from '../directory/directory.ts';
import { pendingKey, signingKey } from '../directory/key-ring.ts';
import { follow, type FollowedDeps } from './followed.ts';

/** Until the ring is read again after the directory did not answer, ms: twice before a new key signs. */
const RING_RELOAD_MS = 5_000;

export interface TicketKeys {
  /** 48 bytes. */
  current(): Buffer;
  /** Calls back with each new key. Returns what ends it. */
  onChange(listener: (key: Buffer) => void): () => void;
  close(): void;
}

/** Reads the ring; rejects when that is not possible. */
export const createTicketKeys = async (
  deps: FollowedDeps & { readonly directory: Pick<Directory, 'keyRing'> },
): Promise<TicketKeys> => {
  const { directory, clock } = deps;
  const ring = await follow(deps, {
    read: () => directory.keyRing('tickets'),
    isAbout: (change) => change.kind === 'keys' && change.use === 'tickets',
    failure: 'the keys of TLS tickets cannot be read, it is tried again',
    reloadMs: RING_RELOAD_MS,
  });
  const listeners = new Set<(key: Buffer) => void>();
  let cancelSwitch: () => void = () => {};
  let told = signingKey(ring.current(), clock.now()).keyId;

  const current = (): Buffer => Buffer.from(signingKey(ring.current(), clock.now()).secret);
  /** Tells of the key if it is another one, and waits for the next. */
  const update = (): void => {
    cancelSwitch();
    const now = clock.now();
    const { keyId } = signingKey(ring.current(), now);
    if (keyId !== told) {
      told = keyId;
      for (const listener of [...listeners]) listener(current());
    }
    const pending = pendingKey(ring.current(), now);
    if (pending) cancelSwitch = clock.timer(pending.signsFrom - now, update);
  };
  ring.onChange(update);
  update();
  return {
    current,
    onChange(listener) {
      const own = (key: Buffer): void => listener(key);
      listeners.add(own);
      return () => listeners.delete(own);
    },
    close() {
      ring.close();
      cancelSwitch();
      listeners.clear();
    },
  };
};
