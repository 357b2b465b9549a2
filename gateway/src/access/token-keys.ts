/** The keys of tokens as the access checks use them: read once, read again when the directory says that they changed. */
import { importJWK } from 'jose';
import type { CryptoKey } from 'jose';
import type { Clock } from '../../../shared/src/clock.ts';
import { publicKeyToJwk } from '../../../shared/src/identity/keys.ts';
import type { Directory } from '../directory/directory.ts';

/**
 * A key id that is not known makes the ring ask the directory, at most this often, ms: the key may be so new that its
 * change was not heard of yet. More often, and whoever sends invented key ids would keep the directory busy.
 */
export const UNKNOWN_KEY_RECHECK_MS = 250;

export interface TokenKeyRing {
  readonly issuer: string;
  /** The public key of `keyId`, or undefined when no token of it is accepted (any more). */
  find(keyId: string): CryptoKey | undefined;
}

export interface TokenKeySource {
  /** A ring that has `keyId` if there is such a key. Rejects with RefusedError `unavailable`. */
  ring(keyId: string): Promise<TokenKeyRing>;
  close(): void;
}

export const createTokenKeySource = (deps: {
  readonly directory: Pick<Directory, 'tokenKeys' | 'watch'>;
  readonly clock: Clock;
}): TokenKeySource => {
  const { directory, clock } = deps;
  let loaded: TokenKeyRing | undefined;
  let loading: Promise<TokenKeyRing> | undefined;
  let loadedAt = -Infinity;
  let stale = false;

  const load = async (): Promise<TokenKeyRing> => {
    stale = false;
    const { current, previous, issuer } = await directory.tokenKeys();
    const keys = new Map<string, { key: CryptoKey; acceptedUntil: number }>();
    for (const { keyId, key, acceptedUntil } of [{ ...current, acceptedUntil: Infinity }, ...previous]) {
      const imported = await importJWK({ ...publicKeyToJwk(key.publicKey) }, 'EdDSA');
      keys.set(keyId, { key: imported, acceptedUntil });
    }
    return {
      issuer,
      find(keyId) {
        const found = keys.get(keyId);
        return found && clock.now() < found.acceptedUntil ? found.key : undefined;
      },
    };
  };
  const reload = (): Promise<TokenKeyRing> => {
    loading ??= load()
      .then((ring) => {
        loaded = ring;
        loadedAt = clock.monotonic();
        return ring;
      })
      .catch((error: unknown) => {
        stale = true;
        // Known keys stay good while the directory is away.
        if (loaded) return loaded;
        throw error;
      })
      .finally(() => {
        loading = undefined;
      });
    return loading;
  };

  const unwatch = directory.watch(({ kind }) => {
    if (kind === 'token_keys' || kind === 'all') stale = true;
  });
  return {
    async ring(keyId) {
      if (!loaded || stale) return reload();
      if (loaded.find(keyId) || clock.monotonic() - loadedAt < UNKNOWN_KEY_RECHECK_MS) return loaded;
      return reload();
    },
    close: unwatch,
  };
};
