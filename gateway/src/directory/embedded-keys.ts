/** The key rings in the SQLite file. */
import type { Directory } from './directory.ts';
import type { Store } from './embedded-store.ts';
import { acceptedKeys, authorityOf, firstKey, KEY_USES, rotated } from './key-ring.ts';
import type { KeyRing, KeyUse, RingKey } from './key-ring.ts';

interface Row {
  readonly key_id: string;
  readonly secret: string;
  readonly created_at: number;
  readonly signs_from: number;
  readonly accepted_until: number | null;
}

const toKey = (row: Row): RingKey => ({
  keyId: row.key_id,
  secret: new Uint8Array(Buffer.from(row.secret, 'base64url')),
  createdAt: row.created_at,
  signsFrom: row.signs_from,
  acceptedUntil: row.accepted_until ?? undefined,
});

/** `issuer` is kept from the first use on. */
export const createEmbeddedKeys = (
  store: Store,
  issuer: string,
): Pick<Directory, 'keyRing' | 'rotateKeys' | 'authority'> & { sweep(): void } => {
  const { database, clock } = store;
  // The newest is the one that none replaces: times may be the same.
  const select = database.prepare(
    'SELECT * FROM keys WHERE use = ? ORDER BY accepted_until IS NOT NULL, signs_from DESC, created_at DESC, key_id',
  );
  const removeAll = database.prepare('DELETE FROM keys WHERE use = ?');
  const insert = database.prepare(
    'INSERT INTO keys (use, key_id, secret, created_at, signs_from, accepted_until) VALUES (?, ?, ?, ?, ?, ?)',
  );
  const setting = database.prepare(`SELECT value FROM settings WHERE name = 'issuer'`);
  const insertSetting = database.prepare(
    `INSERT INTO settings (name, value) VALUES ('issuer', ?) ON CONFLICT (name) DO NOTHING`,
  );

  const load = (use: KeyUse): KeyRing | undefined => {
    const stored = setting.get() as { value: string } | undefined;
    const keys = acceptedKeys((select.all(use) as unknown as Row[]).map(toKey), clock.now());
    return stored && keys.length > 0 ? { use, issuer: stored.value, keys } : undefined;
  };
  const put = (use: KeyUse, keys: readonly RingKey[]): void => {
    removeAll.run(use);
    for (const { keyId, secret, createdAt, signsFrom, acceptedUntil } of keys) {
      const text = Buffer.from(secret).toString('base64url');
      insert.run(use, keyId, text, createdAt, signsFrom, acceptedUntil ?? null);
    }
  };
  const keyRing = (use: KeyUse): KeyRing =>
    store.read(() => load(use)) ??
    store.write((record) => {
      // Under the lock: another process may have been first.
      const other = load(use);
      if (other) return other;
      insertSetting.run(issuer);
      put(use, [firstKey(use, clock.now())]);
      record({ kind: 'keys', use });
      return load(use)!;
    });

  return {
    keyRing: async (use) => keyRing(use),
    rotateKeys: async (use, options = {}) => {
      keyRing(use);
      return store.write((record) => {
        const ring = load(use)!;
        if (options.replaces !== undefined && ring.keys[0]?.keyId !== options.replaces) return ring;
        const next = rotated(use, ring.keys, clock.now(), options);
        if (next === ring.keys) return ring;
        put(use, next);
        record({ kind: 'keys', use });
        return load(use)!;
      });
    },
    authority: async () => authorityOf(keyRing('authority'), clock.now()),
    sweep() {
      for (const use of KEY_USES) {
        const rows = store.read(() => select.all(use)) as unknown as Row[];
        if (rows.length === acceptedKeys(rows.map(toKey), clock.now()).length) continue;
        store.write(() => {
          const ring = load(use);
          if (ring) put(use, ring.keys);
        });
      }
    },
  };
};
