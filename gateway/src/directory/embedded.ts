/** The directory of a gateway that stands alone: one SQLite file, which the command line may use at the same time. */
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError } from '../../../shared/src/errors.ts';
import {
  createKey,
  keyFingerprint,
  parseKey,
  privateKeyToJwk,
  publicKeyToJwk,
} from '../../../shared/src/identity/keys.ts';
import type { Authority } from '../../../shared/src/identity/membership.ts';
import type { Directory } from './directory.ts';
import { createEmbeddedEnvironments } from './embedded-environments.ts';
import { createEmbeddedRunners } from './embedded-runners.ts';
import { openStore } from './embedded-store.ts';
import { createEmbeddedTokenKeys } from './embedded-token-keys.ts';
import type { DirectoryLog, Store } from './embedded-store.ts';

/** How often forgotten names and tokens are removed, ms. They count as forgotten from their time on, so it is no hurry. */
const SWEEP_INTERVAL_MS = 60 * 60 * 1_000;

const createAuthorities = (store: Store, issuer: string): Directory['authority'] => {
  const { database, clock } = store;
  const keys = database.prepare('SELECT key_id, jwk FROM authority_keys ORDER BY created_at DESC, key_id');
  const insertKey = database.prepare('INSERT INTO authority_keys (key_id, jwk, created_at) VALUES (?, ?, ?)');
  const setting = database.prepare(`SELECT value FROM settings WHERE name = 'issuer'`);
  const insertSetting = database.prepare(`INSERT INTO settings (name, value) VALUES ('issuer', ?)`);

  const load = (): Awaited<ReturnType<Directory['authority']>> | undefined => {
    const stored = setting.get() as { value: string } | undefined;
    const rows = keys.all() as { key_id: string; jwk: string }[];
    const authorities = rows.map(({ key_id, jwk }): Authority => ({
      keyId: key_id,
      key: parseKey(jwk),
      issuer: stored?.value ?? issuer,
    }));
    const [current] = authorities;
    if (!stored || !current) return undefined;
    const trust = {
      keys: authorities.map(({ key, keyId }) => ({
        ...publicKeyToJwk(key.publicKey),
        kid: keyId,
        alg: 'EdDSA',
        use: 'sig',
      })),
    };
    return { current, trust, issuer: stored.value };
  };

  return async () => {
    const known = store.read(load);
    if (known) return known;
    return store.write(() => {
      // Under the lock: another process may have been first.
      const other = load();
      if (other) return other;
      const key = createKey();
      const keyId = keyFingerprint(key.publicKey).replace('SHA256:', '');
      insertKey.run(keyId, JSON.stringify(privateKeyToJwk(key)), clock.now());
      insertSetting.run(issuer);
      return load()!;
    });
  };
};

/**
 * Opens or makes the file. `issuer` names the cluster in memberships; it is kept from first use on, so that runners
 * stay enrolled when the configuration later names other domains.
 */
export const openEmbeddedDirectory = async (
  deps: { readonly clock: Clock; readonly log?: DirectoryLog | undefined },
  options: { readonly path: string; readonly issuer: string },
): Promise<Directory> => {
  const store = await openStore(deps, options);
  const { sweep: sweepRunners, ...runners } = createEmbeddedRunners(store);
  const { sweep: sweepEnvironments, ...environments } = createEmbeddedEnvironments(store);
  const authority = createAuthorities(store, options.issuer);
  const { sweep: sweepTokenKeys, ...tokenKeys } = createEmbeddedTokenKeys(
    store,
    async () => (await authority()).issuer,
  );
  let cancelSweep: (() => void) | undefined;

  const sweep = (): void => {
    try {
      sweepEnvironments();
      store.write(sweepRunners);
      sweepTokenKeys();
    } catch (error) {
      deps.log?.warn({ err: error }, `the directory cannot be swept: ${describeError(error)}`);
    }
    cancelSweep = deps.clock.timer(SWEEP_INTERVAL_MS, sweep);
  };
  sweep();

  return {
    ...runners,
    ...environments,
    authority,
    ...tokenKeys,
    watch: (listener) => store.watch(listener),
    close: async () => {
      cancelSweep?.();
      store.close();
    },
  };
};
