/**
 * Memberships: a JWT (RFC 7519, EdDSA) in which the authority of a cluster says whose key a key is. It is a proof of
 * possession token (RFC 7800): worth something only together with the key that `cnf` names.
 *
 *     header   alg EdDSA, typ membership+jwt, kid
 *     claims   iss, sub, org, groups, cnf.jwk, iat, exp, jti (nbf is obeyed)
 *     sub      org:<organization>/rnr:<runner> | rnr:<runner> | gtw:<gateway>
 *
 * Another authority may sign memberships of runners: with the algorithms of {@link OTHER_ALGORITHMS}, with `aud`, and
 * with claims of other names.
 */
import { randomBytes } from 'node:crypto';
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, errors, importJWK, jwtVerify, SignJWT } from 'jose';
import type { JWTPayload } from 'jose';
import * as z from 'zod';
import type { Clock } from '../clock.ts';
import { RefusedError } from '../errors.ts';
import { isId } from '../hostname.ts';
import type { JsonWebKeySet } from './enrolment.ts';
import { privateKeyToJwk, publicKeyFromJwk, publicKeyToJwk } from './keys.ts';
import type { IdentityKey } from './keys.ts';

export type Group = 'runner' | 'gateway';

export interface Membership {
  /** Id of the runner or the gateway. */
  readonly id: string;
  readonly organization: string | undefined;
  readonly group: Group;
  readonly publicKey: Uint8Array;
  /** `iss`: who vouches for it. */
  readonly issuer: string;
  /** `jti`. */
  readonly tokenId: string;
  /** ms since the epoch, whole seconds. */
  readonly issuedAt: number;
  /** ms since the epoch, whole seconds. */
  readonly expiresAt: number;
}

/** Who signs the memberships of a cluster. */
export interface Authority {
  readonly keyId: string;
  readonly key: IdentityKey;
  readonly issuer: string;
}

/** 24 h: a revoked runner that no gateway hears about is out after a day, and a day of outage keeps nobody out. */
export const MEMBERSHIP_LIFETIME_MS = 24 * 60 * 60 * 1_000;
/** How far the clocks of two parties may differ, ms. Beyond it `clock_skew` or `membership_expired`. */
export const CLOCK_TOLERANCE_MS = 30_000;
/** Largest membership that is looked at, characters; `hello` allows as much. */
const MAX_MEMBERSHIP_LENGTH = 8_192;

const ALGORITHM = 'EdDSA';
/** What another authority may sign with. None with a secret that both sides know (RFC 8725 section 3.1). */
export const OTHER_ALGORITHMS = ['EdDSA', 'ES256', 'ES384', 'RS256', 'PS256'] as const;
const TYPE = 'membership+jwt';
const ORGANIZATION = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/;
const GATEWAY_ID = /^[A-Za-z0-9_-]{1,64}$/;

/** Whether `text` may be the id of an organization: it stands in the subject of memberships. */
export const isOrganization = (text: string): boolean => ORGANIZATION.test(text);

interface Subject {
  readonly group: Group;
  readonly id: string;
  readonly organization: string | undefined;
}

const formatSubject = ({ group, id, organization }: Subject): string => {
  if (group === 'gateway') return `gtw:${id}`;
  return organization === undefined ? `rnr:${id}` : `org:${organization}/rnr:${id}`;
};

/** What a gateway asks of another authority's memberships. */
export interface OtherAuthorityTerms {
  /** Has to stand in `aud`. */
  readonly audience: string;
  /** Names of the claims that stand for `sub` and `groups`. */
  readonly claims: { readonly subject: string; readonly groups: string };
}

const parseSubject = (text: string): Subject | undefined => {
  const match = /^(?:org:(?<organization>[^/]*)\/)?(?<kind>rnr|gtw):(?<id>.*)$/s.exec(text)?.groups;
  if (!match) return undefined;
  const { organization, kind, id = '' } = match;
  if (kind === 'gtw') {
    if (organization !== undefined || !GATEWAY_ID.test(id)) return undefined;
    return { group: 'gateway', id, organization: undefined };
  }
  if (!isId(id) || (organization !== undefined && !isOrganization(organization))) return undefined;
  return { group: 'runner', id, organization };
};

const seconds = z.number().finite().nonnegative();
const claimsSchema = z.object({
  iss: z.string(),
  sub: z.string(),
  org: z.string().optional(),
  groups: z.array(z.string()).min(1).max(16),
  cnf: z.object({ jwk: z.record(z.string(), z.unknown()) }),
  iat: seconds,
  exp: seconds,
  jti: z.string().min(1).max(128),
});

/** Throws whatever is wrong with the shape of the claims. */
const parseClaims = (payload: JWTPayload): Membership & { readonly groups: readonly string[] } => {
  const claims = claimsSchema.parse(payload);
  const subject = parseSubject(claims.sub);
  if (!subject) throw new TypeError('the subject is neither a runner nor a gateway');
  if (subject.organization !== claims.org) throw new TypeError('org is not the organization of the subject');
  return {
    ...subject,
    groups: claims.groups,
    publicKey: publicKeyFromJwk(claims.cnf.jwk),
    issuer: claims.iss,
    tokenId: claims.jti,
    issuedAt: claims.iat * 1_000,
    expiresAt: claims.exp * 1_000,
  };
};

const withoutGroups = ({ groups: _groups, ...membership }: ReturnType<typeof parseClaims>): Membership => membership;

export const signMembership = async (
  authority: Authority,
  claims: {
    readonly id: string;
    readonly organization: string | undefined;
    readonly group: Group;
    readonly publicKey: Uint8Array;
  },
  deps: { readonly clock: Clock },
  lifetimeMs: number = MEMBERSHIP_LIFETIME_MS,
): Promise<string> => {
  const subject = formatSubject(claims);
  if (!parseSubject(subject)) throw new TypeError(`no membership can be made for the subject "${subject}"`);
  const organization = claims.group === 'runner' ? claims.organization : undefined;
  const issuedAt = Math.floor(deps.clock.now() / 1_000);
  return new SignJWT({
    ...(organization === undefined ? {} : { org: organization }),
    groups: [claims.group],
    cnf: { jwk: publicKeyToJwk(claims.publicKey) },
  })
    .setProtectedHeader({ alg: ALGORITHM, typ: TYPE, kid: authority.keyId })
    .setIssuer(authority.issuer)
    .setSubject(subject)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + Math.floor(lifetimeMs / 1_000))
    .setJti(randomBytes(16).toString('base64url'))
    .sign(await importJWK({ ...privateKeyToJwk(authority.key) }, ALGORITHM));
};

const invalid = (detail: string, cause?: unknown): RefusedError =>
  new RefusedError('membership_invalid', { detail: `the membership is not valid: ${detail}`, cause });

const verifyToken = async (
  token: string,
  expect: { readonly trust: JsonWebKeySet; readonly issuer: string; readonly other?: OtherAuthorityTerms },
  now: number,
): Promise<JWTPayload> => {
  if (token.length > MAX_MEMBERSHIP_LENGTH) throw invalid('it is too long');
  try {
    const keys = createLocalJWKSet(expect.trust);
    const { payload } = await jwtVerify(token, keys, {
      algorithms: expect.other ? [...OTHER_ALGORITHMS] : [ALGORITHM],
      typ: TYPE,
      issuer: expect.issuer,
      ...(expect.other ? { audience: expect.other.audience } : {}),
      requiredClaims: ['exp', 'iat', 'cnf', 'jti'],
      clockTolerance: CLOCK_TOLERANCE_MS / 1_000,
      currentDate: new Date(now),
    });
    return payload;
  } catch (error) {
    if (error instanceof errors.JWTExpired) throw new RefusedError('membership_expired', { cause: error });
    if (error instanceof errors.JWTClaimValidationFailed && error.claim === 'nbf' && error.reason === 'check_failed') {
      throw new RefusedError('clock_skew', {
        detail: 'the membership is not valid yet',
        serverTime: now,
        cause: error,
      });
    }
    throw invalid(error instanceof Error ? error.message : 'it cannot be read', error);
  }
};

/** The claims under the names that memberships of the own authority have. The organization stands in the subject. */
const renamed = (payload: JWTPayload, { claims }: OtherAuthorityTerms): JWTPayload => {
  const { [claims.subject]: subject, [claims.groups]: groups } = payload as Record<string, unknown>;
  const organization = typeof subject === 'string' ? parseSubject(subject)?.organization : undefined;
  if (organization === undefined) throw new TypeError('the subject is not org:<organization>/rnr:<runner>');
  return { ...payload, sub: subject as string, groups, org: organization };
};

/**
 * Checks the membership that a peer shows: signature, issuer, times, group, and that it was given to the very key
 * that the peer has proved to hold. Rejects with RefusedError: `membership_invalid`, `membership_expired`,
 * `clock_skew` (made in the future beyond the tolerance) or `key_mismatch`.
 */
export const verifyMembership = async (
  token: string,
  expect: {
    readonly trust: JsonWebKeySet;
    readonly issuer: string;
    readonly group: Group;
    readonly peerKey: Uint8Array;
    readonly other?: OtherAuthorityTerms;
  },
  deps: { readonly clock: Clock },
): Promise<Membership> => {
  const now = deps.clock.now();
  const payload = await verifyToken(token, expect, now);
  let parsed: ReturnType<typeof parseClaims>;
  try {
    parsed = parseClaims(expect.other ? renamed(payload, expect.other) : payload);
  } catch (error) {
    throw invalid('its claims are not those of a membership', error);
  }
  if (parsed.group !== expect.group || !parsed.groups.includes(expect.group)) {
    throw invalid(`it is not one of a ${expect.group}`);
  }
  if (parsed.issuedAt > now + CLOCK_TOLERANCE_MS) {
    throw new RefusedError('clock_skew', { detail: 'the membership was made in the future', serverTime: now });
  }
  if (Buffer.compare(parsed.publicKey, expect.peerKey) !== 0) {
    throw new RefusedError('key_mismatch', { detail: 'the membership was given to another key than that of the peer' });
  }
  return withoutGroups(parsed);
};

/** What stands in a membership, unverified: for its owner, who wants to know its half-life. Throws TypeError. */
export const readMembership = (token: string): Membership => {
  try {
    return withoutGroups(parseClaims(decodeJwt(token)));
  } catch (error) {
    throw new TypeError('this is not a membership', { cause: error });
  }
};

/** `iss` and `kid` of a JWT, unverified: who says that it is theirs, and with which key. */
export const readIssuer = (
  token: string,
): { readonly issuer: string | undefined; readonly keyId: string | undefined } => {
  try {
    const { iss } = decodeJwt(token);
    const { kid } = decodeProtectedHeader(token);
    return { issuer: iss, keyId: kid };
  } catch {
    return { issuer: undefined, keyId: undefined };
  }
};

/**
 * What stands in a membership of another authority, unverified: for the runner `runnerId`, to whom it was given. Which
 * of its claims name the runner only the gateway knows. Throws TypeError.
 */
export const readGivenMembership = (token: string, runnerId: string): Membership => {
  try {
    const payload = decodeJwt(token);
    const { iss, cnf, iat, exp } = claimsSchema.pick({ iss: true, cnf: true, iat: true, exp: true }).parse(payload);
    return {
      id: runnerId,
      organization: typeof payload.sub === 'string' ? parseSubject(payload.sub)?.organization : undefined,
      group: 'runner',
      publicKey: publicKeyFromJwk(cnf.jwk),
      issuer: iss,
      tokenId: payload.jti ?? '',
      issuedAt: iat * 1_000,
      expiresAt: exp * 1_000,
    };
  } catch (error) {
    throw new TypeError('this is not a membership', { cause: error });
  }
};
