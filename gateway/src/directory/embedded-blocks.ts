/** The list of blocked environments and organizations in the SQLite file. */
import type { Block, Directory } from './directory.ts';
import type { Store } from './embedded-store.ts';

interface Row {
  readonly kind: Block['kind'];
  readonly subject: string;
  readonly blocked_at: number;
}

export const createEmbeddedBlocks = (store: Store): Pick<Directory, 'block' | 'unblock' | 'blocks'> => {
  const { database, clock } = store;
  const put = database.prepare(
    'INSERT INTO blocks (kind, subject, blocked_at) VALUES (?, ?, ?) ON CONFLICT (kind, subject) DO NOTHING',
  );
  const remove = database.prepare('DELETE FROM blocks WHERE kind = ? AND subject = ?');
  const all = database.prepare('SELECT * FROM blocks ORDER BY blocked_at, kind, subject');
  return {
    block: async ({ kind, subject }) =>
      store.write((record) => {
        if (put.run(kind, subject, clock.now()).changes > 0) record({ kind: 'blocks' });
      }),
    unblock: async ({ kind, subject }) =>
      store.write((record) => {
        const isBlocked = remove.run(kind, subject).changes > 0;
        if (isBlocked) record({ kind: 'blocks' });
        return isBlocked;
      }),
    blocks: async () =>
      store.read(() =>
        (all.all() as unknown as Row[]).map((row) => ({
          kind: row.kind,
          subject: row.subject,
          blockedAt: row.blocked_at,
        })),
      ),
  };
};
