/**
 * Tokens with which people and programs open the ports and logs of one environment: a JWT (RFC 7519), EdDSA, signed by
 * a key of the directory's ring.
 *
 *     header   alg EdDSA, kid, typ gitpod-port+jwt (scope port) | gitpod-logs+jwt (scopes logs and ops)
 *     claims   iss, aud = env, env, scope, iat, exp (1 h later), jti; port with scope port; sub: the user, if named
 *
 *     port     one port of the environment
 *     logs     GET and HEAD of /logs on the log port
 *     ops      everything else on the log port
 */
import { randomBytes } from 'node:crypto';
import { createLocalJWKSet, errors, jwtVerify } from 'jose';
import type { JWTPayload } from 'jose';
import * as z from 'zod';
import type { Clock } from '../../../shared/src/clock.ts';
import { isExposablePort, isId } from '../../../shared/src/hostname.ts';
import { CLOCK_TOLERANCE_MS, OTHER_ALGORITHMS, readIssuer } from '../../../shared/src/identity/membership.ts';
import type { OtherAuthority } from './other-authority.ts';
import { MAX_JWT_LENGTH, readHeader, TokenError, type SigningKeys } from './signing-keys.ts';

export const TOKEN_SCOPES = ['port', 'logs', 'ops'] as const;
export type TokenScope = (typeof TOKEN_SCOPES)[number];

/** 1 h: long enough to work with, short enough that a token in a shell history is worth little. */
export const TOKEN_LIFETIME_MS = 60 * 60 * 1_000;
/** Longest user id, characters. */
export const MAX_USER_LENGTH = 256;

/** `typ` of a token that opens a port: what is one of ours in a header that applications use too. */
export const PORT_TOKEN_TYPE = 'gitpod-port+jwt';
const TYPES: Readonly<Record<TokenScope, string>> = {
  port: PORT_TOKEN_TYPE,
  logs: 'gitpod-logs+jwt',
  ops: 'gitpod-logs+jwt',
};

export interface TokenClaims {
  readonly scope: TokenScope;
  readonly environmentId: string;
  /** With scope `port`, and only then. */
  readonly port?: number;
  readonly user?: string;
}

export interface VerifiedToken {
  readonly scope: TokenScope;
  readonly environmentId: string;
  readonly port: number | undefined;
  readonly user: string | undefined;
  readonly tokenId: string;
  /** Times are ms since the epoch. */
  readonly issuedAt: number;
  readonly expiresAt: number;
}

const claimsSchema = z
  .object({
    aud: z.string(),
    env: z.string().refine(isId),
    scope: z.enum(TOKEN_SCOPES),
    port: z.number().refine(isExposablePort).optional(),
    sub: z.string().min(1).max(MAX_USER_LENGTH).optional(),
    iat: z.number(),
    exp: z.number(),
    jti: z.string().min(1).max(128),
  })
  .refine(({ aud, env }) => aud === env)
  .refine(({ scope, port }) => (scope === 'port') === (port !== undefined))
  .refine(({ iat, exp }) => exp - iat <= TOKEN_LIFETIME_MS / 1_000);

/** Throws TypeError when the claims are not those of a token. */
export const issueToken = async (
  keys: Pick<SigningKeys, 'sign'>,
  claims: TokenClaims,
  deps: { readonly clock: Clock },
): Promise<{ token: string; expiresAt: number }> => {
  const issuedAt = Math.floor(deps.clock.now() / 1_000);
  const payload = {
    aud: claims.environmentId,
    env: claims.environmentId,
    scope: claims.scope,
    ...(claims.port === undefined ? {} : { port: claims.port }),
    ...(claims.user === undefined ? {} : { sub: claims.user }),
    iat: issuedAt,
    exp: issuedAt + TOKEN_LIFETIME_MS / 1_000,
    jti: randomBytes(16).toString('base64url'),
  };
  const checked = claimsSchema.safeParse(payload);
  if (!checked.success) throw new TypeError('these are no claims of a token', { cause: checked.error });
  const token = await keys.sign('token', TYPES[claims.scope], payload);
  return { token, expiresAt: payload.exp * 1_000 };
};

export interface TokenVerifier {
  /** Rejects with {@link TokenError}; with RefusedError `unavailable` when the keys were never read and cannot be. */
  verify(token: string): Promise<VerifiedToken>;
}

/** The claims of a token of another authority, under our names. Rejects like {@link TokenVerifier}. */
const verifyOther = async (
  token: string,
  typ: string,
  other: Omit<OtherAuthority, 'close'>,
  clock: Clock,
): Promise<JWTPayload> => {
  if (token.length > MAX_JWT_LENGTH) throw new TokenError('invalid');
  const trust = await other.trust(readHeader(token).kid);
  let payload: JWTPayload;
  try {
    ({ payload } = await jwtVerify(token, createLocalJWKSet(trust), {
      algorithms: [...OTHER_ALGORITHMS],
      typ,
      issuer: other.issuer,
      audience: other.audience,
      requiredClaims: ['exp', 'iat', 'jti'],
      clockTolerance: CLOCK_TOLERANCE_MS / 1_000,
      currentDate: new Date(clock.now()),
    }));
  } catch (error) {
    throw new TokenError(error instanceof errors.JWTExpired ? 'expired' : 'invalid', { cause: error });
  }
  if ((payload.iat ?? 0) * 1_000 > clock.now() + CLOCK_TOLERANCE_MS) throw new TokenError('invalid');
  const { environment, port, scope, user } = other.claims;
  const { iat, exp, jti } = payload;
  const env = payload[environment];
  return { iat, exp, jti, env, aud: env, port: payload[port], scope: payload[scope], sub: payload[user] } as JWTPayload;
};

export const createTokenVerifier = (deps: {
  readonly keys: Pick<SigningKeys, 'verify'>;
  readonly clock: Clock;
  /** Another authority whose tokens count. */
  readonly other?: Omit<OtherAuthority, 'close'> | undefined;
}): TokenVerifier => ({
  async verify(token) {
    const { typ } = readHeader(token);
    if (typ === undefined) throw new TokenError('invalid');
    const { other } = deps;
    const isOther = other !== undefined && readIssuer(token).issuer === other.issuer;
    if (other?.only && !isOther) throw new TokenError('invalid');
    const payload = isOther
      ? await verifyOther(token, typ, other, deps.clock)
      : await deps.keys.verify('token', typ, token);
    const claims = claimsSchema.safeParse(payload);
    if (!claims.success) throw new TokenError('invalid', { cause: claims.error });
    const { env, scope, port, sub, iat, exp, jti } = claims.data;
    // The type says what may read the token at all, so that one kind never passes for another (RFC 8725 section 3.11).
    if (typ !== TYPES[scope]) throw new TokenError('invalid');
    return {
      scope,
      environmentId: env,
      port,
      user: sub,
      tokenId: jti,
      issuedAt: iat * 1_000,
      expiresAt: exp * 1_000,
    };
  },
});
