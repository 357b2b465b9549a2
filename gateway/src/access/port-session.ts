/**
 * The session of a visitor at one port of one environment: a signed JWT in a cookie of that port's host, so that there
 * is nothing to store and every gateway of a cluster knows it.
 *
 *     header   alg EdDSA, kid, typ gitpod-port-session+jwt
 *     claims   iss, iat, env, port, sub (user), orgs, sid (the session at the domain), nonce (authNonce),
 *              sat (when that session began, ms), exp
 */
import { isExposablePort, isId } from '../../../shared/src/hostname.ts';
import * as z from 'zod';
import { type SigningKeys, verifySession } from './signing-keys.ts';
import { MAX_USER_LENGTH } from './tokens.ts';

/** Host-only by its prefix: no other environment's page can read, set or send it (RFC 6265bis section 4.1.3.2). */
export const PORT_COOKIE = '__Host-gitpod_port_auth';
/** What a code has to fit to: a random value of the browser that asked. */
export const PORT_STATE_COOKIE = '__Host-gitpod_port_state';

/** Times are ms since the epoch. */
export interface PortSession {
  readonly environmentId: string;
  readonly port: number;
  readonly user: string;
  /** Those that matter here: the environment's own, if the visitor belongs to it. */
  readonly organizations: readonly string[];
  /** The session at the domain; it ends with that one. */
  readonly sessionId: string;
  /** That of the announcement when the session began. A higher one ends it. */
  readonly authNonce: number;
  /** When the session at the domain began: what a revocation of the user is compared with. */
  readonly issuedAt: number;
  readonly expiresAt: number;
}

export interface PortSessions {
  /** The value of the cookie. */
  issue(session: PortSession): Promise<string>;
  /**
   * Undefined for what is no session, or no longer. Whether it fits to the port and is revoked is for the caller to say.
   * Rejects with RefusedError `unavailable` when the keys were never read and cannot be.
   */
  verify(cookieValue: string): Promise<PortSession | undefined>;
}

const TYPE = 'gitpod-port-session+jwt';

const claimsSchema = z.object({
  env: z.string().refine(isId),
  port: z.number().refine(isExposablePort),
  sub: z.string().min(1).max(MAX_USER_LENGTH),
  orgs: z.array(z.string()),
  sid: z.string().min(1).max(128),
  nonce: z.number(),
  sat: z.number(),
  exp: z.number(),
});

export const createPortSessions = (deps: { readonly keys: Pick<SigningKeys, 'sign' | 'verify'> }): PortSessions => ({
  issue: (session) =>
    deps.keys.sign('session', TYPE, {
      env: session.environmentId,
      port: session.port,
      sub: session.user,
      orgs: [...session.organizations],
      sid: session.sessionId,
      nonce: session.authNonce,
      sat: session.issuedAt,
      exp: Math.floor(session.expiresAt / 1_000),
    }),
  async verify(cookieValue) {
    const claims = claimsSchema.safeParse(await verifySession(deps.keys, TYPE, cookieValue));
    if (!claims.success) return undefined;
    const { env, port, sub, orgs, sid, nonce, sat, exp } = claims.data;
    return {
      environmentId: env,
      port,
      user: sub,
      organizations: orgs,
      sessionId: sid,
      authNonce: nonce,
      issuedAt: sat,
      expiresAt: exp * 1_000,
    };
  },
});
