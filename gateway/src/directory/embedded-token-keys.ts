/** The keys of tokens in the SQLite file: one that signs, and those before it for as long as their tokens may live. */
import { createKey, keyFingerprint, parseKey, privateKeyToJwk } from '../../../shared/src/identity/keys.ts';
import { MAX_PREVIOUS_TOKEN_KEYS, TOKEN_KEY_OVERLAP_MS } from './directory.ts';
import type { Directory, TokenKeys } from './directory.ts';
import type { Store } from './embedded-store.ts';

interface Row {
  readonly key_id: string;
  readonly jwk: string;
  readonly replaced_at: number | null;
}

export const createEmbeddedTokenKeys = (
  store: Store,
  issuer: () => Promise<string>,
): Pick<Directory, 'tokenKeys' | 'rotateTokenKeys'> & { sweep(): void } => {
  const { database, clock } = store;
  const all = database.prepare(
    'SELECT key_id, jwk, replaced_at FROM token_keys ORDER BY replaced_at IS NOT NULL, replaced_at DESC, key_id',
  );
  const insert = database.prepare('INSERT INTO token_keys (key_id, jwk, created_at) VALUES (?, ?, ?)');
  const replace = database.prepare('UPDATE token_keys SET replaced_at = ? WHERE replaced_at IS NULL');
  const removeAll = database.prepare('DELETE FROM token_keys');
  const removeExpired = database.prepare('DELETE FROM token_keys WHERE replaced_at <= ?');
  const removeBeyond = database.prepare(
    `DELETE FROM token_keys WHERE key_id IN (
       SELECT key_id FROM token_keys WHERE replaced_at IS NOT NULL ORDER BY replaced_at DESC, key_id LIMIT -1 OFFSET ?)`,
  );

  const load = (): Omit<TokenKeys, 'issuer'> | undefined => {
    const keys = (all.all() as unknown as Row[]).map(({ key_id, jwk, replaced_at }) => ({
      keyId: key_id,
      key: parseKey(jwk),
      acceptedUntil: replaced_at === null ? undefined : replaced_at + TOKEN_KEY_OVERLAP_MS,
    }));
    const current = keys.find(({ acceptedUntil }) => acceptedUntil === undefined);
    if (!current) return undefined;
    const previous = keys.flatMap(({ acceptedUntil, ...key }) =>
      acceptedUntil !== undefined && acceptedUntil > clock.now() ? [{ ...key, acceptedUntil }] : [],
    );
    return { current: { keyId: current.keyId, key: current.key }, previous };
  };
  const add = (): void => {
    const key = createKey();
    const keyId = keyFingerprint(key.publicKey).replace('SHA256:', '');
    insert.run(keyId, JSON.stringify(privateKeyToJwk(key)), clock.now());
  };

  return {
    async tokenKeys() {
      const known = store.read(load);
      if (known) return { ...known, issuer: await issuer() };
      const made = store.write((record) => {
        // Under the lock: another process may have been first.
        const other = load();
        if (other) return other;
        add();
        record({ kind: 'token_keys' });
        return load()!;
      });
      return { ...made, issuer: await issuer() };
    },
    async rotateTokenKeys(options = {}) {
      const made = store.write((record) => {
        if (options.void) removeAll.run();
        else {
          replace.run(clock.now());
          removeBeyond.run(MAX_PREVIOUS_TOKEN_KEYS);
        }
        add();
        record({ kind: 'token_keys' });
        return load()!;
      });
      return { ...made, issuer: await issuer() };
    },
    sweep: () => store.write(() => void removeExpired.run(clock.now() - TOKEN_KEY_OVERLAP_MS)),
  };
};
