/**
 * Signs and verifies what gateways give out, with the keys of the directory's rings: JWTs (RFC 7519), EdDSA, typed
 * (RFC 8725 section 3.11). A ring is read once, and again when the directory says that it changed; while the directory
 * is away the known keys go on.
 */
import { createHash } from 'node:crypto';
import { errors, importJWK, jwtVerify, SignJWT } from 'jose';
import type { CryptoKey, JWTPayload } from 'jose';
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../shared/src/clock.ts';
import { keyFromSeed, privateKeyToJwk, publicKeyToJwk } from '../../../shared/src/identity/keys.ts';
import { CLOCK_TOLERANCE_MS } from '../../../shared/src/identity/membership.ts';
import type { Directory } from '../directory/directory.ts';
import { acceptedKeys, signingKey, type KeyRing } from '../directory/key-ring.ts';

/** `session`: everything that only gateways read: sign-in session, port cookie, one-time code. */
export type SigningUse = 'token' | 'session';

/** Longest JWT that is looked at, characters: browsers keep no longer cookie. */
export const MAX_JWT_LENGTH = 4_096;
/**
 * A key id that is not known makes the ring ask the directory, at most this often, ms: the key may be so new that its
 * change was not heard of yet. More often, and whoever sends invented key ids would keep the directory busy.
 */
export const UNKNOWN_KEY_RECHECK_MS = 250;
/** JWTs whose signature was checked, by their SHA-256; about 1 KiB each. The least recently used goes first. */
const VERIFIED_JWTS = 5_000;

const ALGORITHM = 'EdDSA';

/** `invalid` covers everything but age: a stranger learns nothing of why. */
export class TokenError extends Error {
  override readonly name = 'TokenError';
  readonly code: 'invalid' | 'expired';
  constructor(code: TokenError['code'], options: { cause?: unknown } = {}) {
    super(`the token is ${code}`, options);
    this.code = code;
  }
}

export interface SigningKeys {
  /** `exp` stands in the payload; `iss` and `iat` are added. Rejects with RefusedError `unavailable`. */
  sign(use: SigningUse, typ: string, payload: JWTPayload): Promise<string>;
  /**
   * The claims of a JWT of this use and type, in time. Rejects with {@link TokenError}; with RefusedError `unavailable`
   * when the keys were never read and cannot be.
   */
  verify(use: SigningUse, typ: string, jwt: string): Promise<JWTPayload>;
  close(): void;
}

interface LoadedRing {
  readonly ring: KeyRing;
  readonly loadedAt: number;
  readonly publicKeys: Map<string, CryptoKey>;
  readonly privateKeys: Map<string, CryptoKey>;
}

/** What the header of a JWT says, unverified. Throws {@link TokenError}. */
export const readHeader = (jwt: string): { readonly kid: string | undefined; readonly typ: string | undefined } => {
  try {
    const header: unknown = JSON.parse(Buffer.from(jwt.split('.', 1)[0] ?? '', 'base64url').toString('utf8'));
    const { kid, typ } = header as Record<string, unknown>;
    return { kid: typeof kid === 'string' ? kid : undefined, typ: typeof typ === 'string' ? typ : undefined };
  } catch (error) {
    throw new TokenError('invalid', { cause: error });
  }
};

export const createSigningKeys = (deps: {
  readonly directory: Pick<Directory, 'keyRing' | 'watch'>;
  readonly clock: Clock;
}): SigningKeys => {
  const { directory, clock } = deps;
  const loaded = new Map<SigningUse, LoadedRing>();
  const loading = new Map<SigningUse, Promise<LoadedRing>>();
  const stale = new Set<SigningUse>();
  const verified = new LRUCache<string, JWTPayload>({ max: VERIFIED_JWTS });

  const load = async (use: SigningUse): Promise<LoadedRing> => {
    stale.delete(use);
    const ring = await directory.keyRing(use);
    return { ring, loadedAt: clock.monotonic(), publicKeys: new Map(), privateKeys: new Map() };
  };
  const reload = (use: SigningUse): Promise<LoadedRing> => {
    const running = loading.get(use);
    if (running) return running;
    const next = load(use)
      .then((ring) => {
        loaded.set(use, ring);
        return ring;
      })
      .catch((error: unknown) => {
        stale.add(use);
        const known = loaded.get(use);
        if (known) return known;
        throw error;
      })
      .finally(() => loading.delete(use));
    loading.set(use, next);
    return next;
  };
  const ringOf = (use: SigningUse): LoadedRing | Promise<LoadedRing> => {
    const known = loaded.get(use);
    return known && !stale.has(use) ? known : reload(use);
  };
  const isAccepted = ({ ring }: LoadedRing, keyId: string): boolean =>
    acceptedKeys(ring.keys, clock.now()).some((key) => key.keyId === keyId);

  /** The ring that has `keyId`, if there is such a key. */
  const ringWith = async (use: SigningUse, keyId: string): Promise<LoadedRing> => {
    const known = await ringOf(use);
    if (isAccepted(known, keyId) || clock.monotonic() - known.loadedAt < UNKNOWN_KEY_RECHECK_MS) return known;
    return reload(use);
  };
  const publicKeyOf = async ({ ring, publicKeys }: LoadedRing, keyId: string): Promise<CryptoKey> => {
    const known = publicKeys.get(keyId);
    if (known) return known;
    const found = acceptedKeys(ring.keys, clock.now()).find((key) => key.keyId === keyId);
    if (!found) throw new TokenError('invalid');
    const imported = await importJWK({ ...publicKeyToJwk(keyFromSeed(found.secret).publicKey) }, ALGORITHM);
    publicKeys.set(keyId, imported);
    return imported;
  };

  const checkTimes = (payload: JWTPayload): void => {
    const now = clock.now();
    const { exp, nbf, iat } = payload;
    if (typeof exp !== 'number' || typeof iat !== 'number') throw new TokenError('invalid');
    if (exp * 1_000 + CLOCK_TOLERANCE_MS <= now) throw new TokenError('expired');
    if (Math.max(iat, nbf ?? 0) * 1_000 > now + CLOCK_TOLERANCE_MS) throw new TokenError('invalid');
  };

  const unwatch = directory.watch((change) => {
    if (change.kind !== 'keys' && change.kind !== 'all') return;
    stale.add('token').add('session');
    verified.clear();
  });

  return {
    async sign(use, typ, payload) {
      const { ring, privateKeys } = await ringOf(use);
      const { keyId, secret } = signingKey(ring, clock.now());
      const key = privateKeys.get(keyId) ?? (await importJWK({ ...privateKeyToJwk(keyFromSeed(secret)) }, ALGORITHM));
      privateKeys.set(keyId, key);
      const iat = Math.floor(clock.now() / 1_000);
      return new SignJWT({ iat, ...payload, iss: ring.issuer })
        .setProtectedHeader({ alg: ALGORITHM, typ, kid: keyId })
        .sign(key);
    },
    async verify(use, typ, jwt) {
      if (jwt.length > MAX_JWT_LENGTH) throw new TokenError('invalid');
      const header = readHeader(jwt);
      const keyId = header.kid;
      if (header.typ !== typ || keyId === undefined) throw new TokenError('invalid');
      const loadedRing = await ringWith(use, keyId);
      if (!isAccepted(loadedRing, keyId)) throw new TokenError('invalid');
      const digest = `${use} ${createHash('sha256').update(jwt).digest('base64url')}`;
      const known = verified.get(digest);
      if (known) {
        checkTimes(known);
        return known;
      }
      const key = await publicKeyOf(loadedRing, keyId);
      try {
        const { payload } = await jwtVerify(jwt, key, {
          algorithms: [ALGORITHM],
          typ,
          issuer: loadedRing.ring.issuer,
          requiredClaims: ['exp', 'iat'],
          clockTolerance: CLOCK_TOLERANCE_MS / 1_000,
          currentDate: new Date(clock.now()),
        });
        checkTimes(payload);
        if (!stale.has(use)) verified.set(digest, Object.freeze(payload));
        return payload;
      } catch (error) {
        if (error instanceof TokenError) throw error;
        throw new TokenError(error instanceof errors.JWTExpired ? 'expired' : 'invalid', { cause: error });
      }
    },
    close: unwatch,
  };
};

/** The claims of a JWT of the use `session`; undefined for what is none of this type, or no longer. */
export const verifySession = (
  keys: Pick<SigningKeys, 'verify'>,
  typ: string,
  jwt: string,
): Promise<JWTPayload | undefined> =>
  keys.verify('session', typ, jwt).catch((error: unknown) => {
    if (error instanceof TokenError) return undefined;
    throw error;
  });
