/**
 * Sessions that were ended before their time, kept in the directory and known to every gateway of it within seconds.
 * The check is local: no request waits for the directory.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Directory } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';

/** A revocation is kept for so long, ms: longer than the 8 h that a session lives. */
export const REVOCATION_LIFETIME_MS = 9 * 60 * 60 * 1_000;
/** Until the list is read again after the directory did not answer, ms. Revocations bite within 10 s. */
const RELOAD_MS = 1_000;

export interface Revocations {
  /** Ends one session everywhere. Rejects with RefusedError `unavailable`. */
  revokeSession(sessionId: string): Promise<void>;
  /** Ends every session of the user that was issued before now. */
  revokeUser(userId: string): Promise<void>;
  /** `issuedAt`: ms since the epoch. */
  isRevoked(session: { readonly sessionId: string; readonly user: string; readonly issuedAt: number }): boolean;
  /** Calls back when the list has changed. Returns what ends it. */
  onChange(listener: () => void): () => void;
  close(): void;
}

/** Reads the list; rejects when that is not possible. */
export const createRevocations = async (deps: {
  readonly directory: Pick<Directory, 'revoke' | 'revocations' | 'watch'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'warn'>;
}): Promise<Revocations> => {
  const { directory, clock, log } = deps;
  const listeners = new Set<() => void>();
  let sessions = new Set<string>();
  let users = new Map<string, number>();
  let cancel: () => void = () => {};
  let isClosed = false;
  let generation = 0;

  const load = async (): Promise<void> => {
    const mine = ++generation;
    const list = await directory.revocations();
    // A later one has read what is newer.
    if (mine !== generation) return;
    sessions = new Set(list.flatMap(({ kind, subject }) => (kind === 'session' ? [subject] : [])));
    users = new Map(list.flatMap(({ kind, subject, revokedAt }) => (kind === 'user' ? [[subject, revokedAt]] : [])));
  };
  const reload = async (): Promise<void> => {
    cancel();
    try {
      await load();
    } catch (error) {
      if (isClosed) return;
      log.warn({ err: error }, 'the list of revoked sessions cannot be read, it is tried again');
      cancel = clock.timer(RELOAD_MS, () => void reload());
      return;
    }
    if (!isClosed) for (const listener of [...listeners]) listener();
  };

  const unwatch = directory.watch(({ kind }) => {
    if (kind === 'revocations' || kind === 'all') void reload();
  });
  try {
    await load();
  } catch (error) {
    unwatch();
    throw error;
  }

  const revoke = async (kind: 'session' | 'user', subject: string): Promise<void> => {
    const revokedAt = clock.now();
    await directory.revoke({ kind, subject, revokedAt, expiresAt: revokedAt + REVOCATION_LIFETIME_MS });
    // The watch tells of it too; whoever waits for this wants it to hold here.
    await reload();
  };
  return {
    revokeSession: (sessionId) => revoke('session', sessionId),
    revokeUser: (userId) => revoke('user', userId),
    isRevoked({ sessionId, user, issuedAt }) {
      if (sessions.has(sessionId)) return true;
      const revokedAt = users.get(user);
      return revokedAt !== undefined && issuedAt <= revokedAt;
    },
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
