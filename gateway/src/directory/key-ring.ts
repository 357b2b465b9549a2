/**
 * The ring of keys of one use: those that sign, and those that are accepted. What a key is for at a moment follows from
 * the times that stand with it, so that gateways that hold the same ring change keys together without talking:
 *
 *     createdAt         signsFrom                       acceptedUntil
 *         │ published only  │ signs, until the next one does   │
 *         └─────────────────┴──────────────────────────────────┘ accepted
 *
 * Pure: a directory keeps the ring, and replaces it in one transaction.
 */
import { randomBytes } from 'node:crypto';
import { createKey, keyFingerprint, keyFromSeed, SEED_BYTES } from '../../../shared/src/identity/keys.ts';
import type { JsonWebKeySet } from '../../../shared/src/identity/enrolment.ts';
import { publicKeyToJwk } from '../../../shared/src/identity/keys.ts';
import type { Authority } from '../../../shared/src/identity/membership.ts';

/**
 * - `authority`: memberships of runners and gateways
 * - `token`: tokens with which people and programs open ports and logs
 * - `session`: what gateways give to browsers and read again: sessions, port cookies, one-time codes
 * - `tickets`: TLS session tickets (RFC 5077 section 4, RFC 8446 section 4.6.1)
 */
export const KEY_USES = ['authority', 'token', 'session', 'tickets'] as const;
export type KeyUse = (typeof KEY_USES)[number];

export interface RingKey {
  readonly keyId: string;
  /** Seed of an Ed25519 key, 32 bytes; of `tickets` the 48 bytes that Node takes. */
  readonly secret: Uint8Array;
  /** All times are ms since the epoch. */
  readonly createdAt: number;
  /** Before it, the key is published and accepted, but signs nothing. */
  readonly signsFrom: number;
  /** Undefined until a newer one replaces it. */
  readonly acceptedUntil: number | undefined;
}

export interface KeyRing {
  readonly use: KeyUse;
  /** `iss` of what is signed. */
  readonly issuer: string;
  /** Those that are accepted, the newest first; at least one. */
  readonly keys: readonly RingKey[];
}

export interface KeyPolicy {
  /** A key is replaced by a new one when it is so old. */
  readonly lifetimeMs: number;
  /** How long a new key is only published before it signs. */
  readonly leadMs: number;
  /** How long a key is accepted after the next one has begun to sign: longer than anything that it signed lives. */
  readonly overlapMs: number;
}

const HOUR_MS = 3_600_000;
/** Keys are replaced every 30 days: whoever copied one has it for no longer than that. */
export const KEY_LIFETIME_MS = 30 * 24 * HOUR_MS;
/** Half of the day that a ticket key may live: whoever learns one can read what was said under it in TLS 1.2. */
export const TICKET_KEY_LIFETIME_MS = 12 * HOUR_MS;
/**
 * Runners ask for a membership every 12 h, and learn of the authority's keys with it. Each has asked twice before it
 * is shown something that a new key has signed.
 */
export const AUTHORITY_LEAD_MS = 24 * HOUR_MS;
/** Memberships live for 24 h. */
export const AUTHORITY_OVERLAP_MS = 25 * HOUR_MS;
/** Tokens live for 1 h, and a gateway hears of the new key within seconds. */
export const TOKEN_KEY_OVERLAP_MS = 2 * HOUR_MS;
/** Sessions live for 8 h. */
export const SESSION_KEY_OVERLAP_MS = 9 * HOUR_MS;
/** All gateways hear of a new ticket key before one of them uses it. */
export const TICKET_KEY_LEAD_MS = 10_000;

export const KEY_POLICIES: Readonly<Record<KeyUse, KeyPolicy>> = {
  authority: { lifetimeMs: KEY_LIFETIME_MS, leadMs: AUTHORITY_LEAD_MS, overlapMs: AUTHORITY_OVERLAP_MS },
  token: { lifetimeMs: KEY_LIFETIME_MS, leadMs: 0, overlapMs: TOKEN_KEY_OVERLAP_MS },
  session: { lifetimeMs: KEY_LIFETIME_MS, leadMs: 0, overlapMs: SESSION_KEY_OVERLAP_MS },
  // TLS of Node decrypts tickets of one key only: a replaced one costs a full handshake, and is worth keeping for nothing.
  tickets: { lifetimeMs: TICKET_KEY_LIFETIME_MS, leadMs: TICKET_KEY_LEAD_MS, overlapMs: 0 },
};

/** Replaced keys that are kept. Who rotates more often within the overlap voids what the oldest signed. */
export const MAX_PREVIOUS_KEYS = 8;
/** Length of a ticket key in Node: name, HMAC and AES key of 16 bytes each. */
const TICKET_KEY_BYTES = 48;
const TICKET_KEY_NAME_BYTES = 16;

const makeKey = (use: KeyUse): Pick<RingKey, 'keyId' | 'secret'> => {
  if (use === 'tickets') {
    const secret = randomBytes(TICKET_KEY_BYTES);
    // The name stands in every ticket for anybody to read.
    return { keyId: secret.subarray(0, TICKET_KEY_NAME_BYTES).toString('base64url'), secret };
  }
  const { publicKey, secretKey } = createKey();
  return { keyId: keyFingerprint(publicKey).replace('SHA256:', ''), secret: secretKey.slice(0, SEED_BYTES) };
};

const isAccepted = (key: RingKey, now: number): boolean => key.acceptedUntil === undefined || now < key.acceptedUntil;

/** The first key of a ring. It signs at once: nobody trusts another one yet. */
export const firstKey = (use: KeyUse, now: number): RingKey => ({
  ...makeKey(use),
  createdAt: now,
  signsFrom: now,
  acceptedUntil: undefined,
});

/** Those of `keys` that are accepted at `now`, the newest first. */
export const acceptedKeys = (keys: readonly RingKey[], now: number): RingKey[] =>
  keys.filter((key) => isAccepted(key, now));

/** The key that signs at `now`. */
export const signingKey = (ring: Pick<KeyRing, 'keys'>, now: number): RingKey => {
  const accepted = acceptedKeys(ring.keys, now);
  // A wall clock that was set back may be before all of them.
  const key = accepted.find(({ signsFrom }) => signsFrom <= now) ?? accepted.at(-1) ?? ring.keys[0];
  if (!key) throw new TypeError('a ring has at least one key');
  return key;
};

/** A key that is accepted and does not sign yet. */
export const pendingKey = (ring: Pick<KeyRing, 'keys'>, now: number): RingKey | undefined =>
  ring.keys.find(({ signsFrom }) => signsFrom > now);

/** Whether a new key is to be made. */
export const isRotationDue = (ring: KeyRing, now: number): boolean => {
  const newest = ring.keys[0];
  return newest !== undefined && now - newest.createdAt >= KEY_POLICIES[ring.use].lifetimeMs;
};

/**
 * The ring with a new key, or the same one where a new key is on its way already. With `void` the new key signs at once
 * and no other is accepted any more.
 */
export const rotated = (
  use: KeyUse,
  keys: readonly RingKey[],
  now: number,
  options: { readonly void?: boolean } = {},
): readonly RingKey[] => {
  if (options.void) return [firstKey(use, now)];
  if (pendingKey({ keys }, now)) return keys;
  const { leadMs, overlapMs } = KEY_POLICIES[use];
  const signsFrom = now + leadMs;
  const previous = acceptedKeys(keys, now).map((key) => ({
    ...key,
    acceptedUntil: key.acceptedUntil ?? signsFrom + overlapMs,
  }));
  const next = { ...makeKey(use), createdAt: now, signsFrom, acceptedUntil: undefined };
  return [next, ...previous.slice(0, MAX_PREVIOUS_KEYS)];
};

/** Who signs memberships at `now`, and the keys to trust. */
export const authorityOf = (
  ring: KeyRing,
  now: number,
): { current: Authority; trust: JsonWebKeySet; issuer: string } => {
  const { issuer } = ring;
  const { keyId, secret } = signingKey(ring, now);
  const keys = acceptedKeys(ring.keys, now).map((key) => ({
    ...publicKeyToJwk(keyFromSeed(key.secret).publicKey),
    kid: key.keyId,
    alg: 'EdDSA',
    use: 'sig',
  }));
  return { current: { keyId, key: keyFromSeed(secret), issuer }, trust: { keys }, issuer };
};
