/** The list of revoked sessions and users in the SQLite file. */
import type { Directory, Revocation } from './directory.ts';
import type { Store } from './embedded-store.ts';

interface Row {
  readonly kind: Revocation['kind'];
  readonly subject: string;
  readonly revoked_at: number;
  readonly expires_at: number;
}

export const createEmbeddedRevocations = (
  store: Store,
): Pick<Directory, 'revoke' | 'revocations'> & { sweep(): void } => {
  const { database, clock } = store;
  const put = database.prepare(
    `INSERT INTO revocations (kind, subject, revoked_at, expires_at) VALUES (?, ?, ?, ?)
     ON CONFLICT (kind, subject) DO UPDATE
     SET revoked_at = max(revoked_at, excluded.revoked_at), expires_at = max(expires_at, excluded.expires_at)`,
  );
  const all = database.prepare('SELECT * FROM revocations WHERE expires_at > ? ORDER BY revoked_at, kind, subject');
  const forget = database.prepare('DELETE FROM revocations WHERE expires_at <= ?');
  return {
    revoke: async ({ kind, subject, revokedAt, expiresAt }) =>
      store.write((record) => {
        put.run(kind, subject, revokedAt, expiresAt);
        record({ kind: 'revocations' });
      }),
    revocations: async () =>
      store.read(() =>
        (all.all(clock.now()) as unknown as Row[]).map((row) => ({
          kind: row.kind,
          subject: row.subject,
          revokedAt: row.revoked_at,
          expiresAt: row.expires_at,
        })),
      ),
    sweep: () => store.write(() => void forget.run(clock.now())),
  };
};
