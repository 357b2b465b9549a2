/** A copy of the SQLite file while gateways use it. */
import { DatabaseSync, backup } from 'node:sqlite';

/** Pages that are copied in one turn; gateways may write between the turns. 1,000 pages are 4 MB. */
const PAGES_PER_TURN = 1_000;

/** Writes a consistent copy of the directory at `path` to `target`. Rejects when there is none. */
export const backUpEmbeddedDirectory = async (path: string, target: string): Promise<void> => {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    await backup(database, target, { rate: PAGES_PER_TURN });
  } finally {
    database.close();
  }
  const copy = new DatabaseSync(target);
  try {
    // One file, without a log beside it that could be forgotten.
    copy.exec('PRAGMA journal_mode = DELETE');
    const { integrity_check: verdict } = copy.prepare('PRAGMA integrity_check(1)').get() as { integrity_check: string };
    if (verdict !== 'ok') throw new Error(`the copy is damaged: ${verdict}`);
  } finally {
    copy.close();
  }
};
