/**
 * Sessions that were ended before their time, kept in the directory and known to every gateway of it within seconds.
 * The check is local: no request waits for the directory.
 */
import type { Directory } from '../directory/directory.ts';
import { follow, type Followed, type FollowedDeps } from './followed.ts';

/** A revocation is kept for so long, ms: longer than the 8 h that a session lives. */
export const REVOCATION_LIFETIME_MS = 9 * 60 * 60 * 1_000;

export interface Revocations extends Pick<Followed<unknown>, 'onChange' | 'close'> {
  /** Ends one session everywhere. Rejects with RefusedError `unavailable`. */
  revokeSession(sessionId: string): Promise<void>;
  /** Ends every session of the user that was issued before now. */
  revokeUser(userId: string): Promise<void>;
  /** `issuedAt`: ms since the epoch. */
  isRevoked(session: { readonly sessionId: string; readonly user: string; readonly issuedAt: number }): boolean;
}

/** Reads the list; rejects when that is not possible. */
export const createRevocations = async (
  deps: FollowedDeps & { readonly directory: Pick<Directory, 'revoke' | 'revocations'> },
): Promise<Revocations> => {
  const { directory, clock } = deps;
  const { current, reload, onChange, close } = await follow(deps, {
    async read() {
      const list = await directory.revocations();
      return {
        sessions: new Set(list.flatMap(({ kind, subject }) => (kind === 'session' ? [subject] : []))),
        users: new Map(
          list.flatMap(({ kind, subject, revokedAt }) => (kind === 'user' ? [[subject, revokedAt] as const] : [])),
        ),
      };
    },
    isAbout: ({ kind }) => kind === 'revocations',
    failure: 'the list of revoked sessions cannot be read, it is tried again',
  });

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
      const { sessions, users } = current();
      if (sessions.has(sessionId)) return true;
      const revokedAt = users.get(user);
      return revokedAt !== undefined && issuedAt <= revokedAt;
    },
    onChange,
    close,
  };
};
