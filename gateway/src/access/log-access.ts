/**
 * Who may read on the log port of an environment. A request shows a token in `Authorization`, or a browser's viewer the
 * cookie that it exchanged its token for:
 *
 *  1. no token                                                          token_required
 *  2. not signed by a key of the ring, malformed, out of date           token_invalid, token_expired
 *  3. for another environment or another scope                          token_forbidden
 *
 * Nothing of this looks at the environment, so that a stranger learns nothing of which ones there are.
 */
import { RefusedError } from '../../../shared/src/errors.ts';
import type { GatewayErrorCode } from '../errors.ts';
import { TokenError } from './signing-keys.ts';
import type { TokenScope, TokenVerifier, VerifiedToken } from './tokens.ts';

/** Host-only by its prefix: no other environment's page can read, set or send it (RFC 6265bis section 4.1.3.2). */
export const LOGS_COOKIE = '__Host-gitpod_logs';

export interface LogCredential {
  readonly kind: 'authorization' | 'cookie';
  readonly token: string;
}

/** The values of a field, one per line; field lines alternate name and value. */
const valuesOf = (rawHeaders: readonly string[], name: string): string[] =>
  rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === name);

/**
 * Whether the request comes from the page of the same origin, or from the visitor's own hand. All environments are
 * same-site to each other, so that the cookie's own rules do not keep them apart.
 */
export const isOwnRequest = (rawHeaders: readonly string[]): boolean => {
  const [site] = valuesOf(rawHeaders, 'sec-fetch-site');
  return site === 'same-origin' || site === 'none';
};

const cookieOf = (rawHeaders: readonly string[]): string | undefined => {
  for (const line of valuesOf(rawHeaders, 'cookie')) {
    for (const pair of line.split(';')) {
      const [name = '', ...value] = pair.split('=');
      if (name.trim() === LOGS_COOKIE) return value.join('=').trim();
    }
  }
  return undefined;
};

/** What the request shows; undefined when nothing that counts. An `Authorization` that is no bearer token is an invalid one. */
export const logCredential = (rawHeaders: readonly string[]): LogCredential | undefined => {
  const authorizations = valuesOf(rawHeaders, 'authorization');
  if (authorizations.length > 0) {
    const token = /^bearer +([\w.~+/=-]+) *$/i.exec(authorizations.join(','))?.[1] ?? '';
    return { kind: 'authorization', token };
  }
  const cookie = isOwnRequest(rawHeaders) ? cookieOf(rawHeaders) : undefined;
  return cookie === undefined ? undefined : { kind: 'cookie', token: cookie };
};

export type LogAccessResult =
  { readonly allow: true; readonly token: VerifiedToken } | { readonly allow: false; readonly error: GatewayErrorCode };

export type LogAccess = (
  credential: LogCredential | undefined,
  wanted: { readonly environmentId: string; readonly scope: Extract<TokenScope, 'logs' | 'ops'> },
) => Promise<LogAccessResult>;

const refuse = (error: GatewayErrorCode): LogAccessResult => ({ allow: false, error });

export const createLogAccess =
  (deps: { readonly verifier: TokenVerifier }): LogAccess =>
  async (credential, wanted) => {
    if (!credential) return refuse('token_required');
    let token: VerifiedToken;
    try {
      token = await deps.verifier.verify(credential.token);
    } catch (error) {
      if (error instanceof TokenError) return refuse(error.code === 'expired' ? 'token_expired' : 'token_invalid');
      if (error instanceof RefusedError) return refuse('directory_unavailable');
      throw error;
    }
    if (token.environmentId !== wanted.environmentId || token.scope !== wanted.scope) return refuse('token_forbidden');
    return { allow: true, token };
  };
