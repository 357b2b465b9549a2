/**
 * The session of a visitor at the domain: a signed JWT in a cookie of the apex. What it allows at ports is decided
 * there, each time.
 *
 *     header   alg EdDSA, kid, typ gitpod-session+jwt
 *     claims   iss, iat, aud (the domain), sid, sub (user), name, orgs, sat (when it began, ms), exp (8 h later)
 */
import * as z from 'zod';
import type { Clock } from '../../../../shared/src/clock.ts';
import { cookieOf, deleteCookie, setCookie } from '../cookies.ts';
import type { Revocations } from '../revocations.ts';
import { type SigningKeys, verifySession } from '../signing-keys.ts';
import { MAX_USER_LENGTH } from '../tokens.ts';
import type { Identity } from './claims.ts';
import { randomValue } from './random-value.ts';

const SESSION_COOKIE = '__Host-gitpod_session';
/** A working day. Sessions at ports end with it at the latest. */
export const SESSION_LIFETIME_MS = 8 * 60 * 60 * 1_000;

const TYPE = 'gitpod-session+jwt';

/** Times are ms since the epoch. */
export interface Session {
  readonly sessionId: string;
  readonly user: string;
  readonly name: string;
  readonly organizations: readonly string[];
  readonly issuedAt: number;
  readonly expiresAt: number;
}

const claimsSchema = z.object({
  aud: z.string(),
  sid: z.string().min(1).max(128),
  sub: z.string().min(1).max(MAX_USER_LENGTH),
  name: z.string(),
  orgs: z.array(z.string()),
  sat: z.number(),
  exp: z.number(),
});

export interface Sessions {
  /** A new session, and the line that sets its cookie. */
  begin(identity: Identity, domain: string): Promise<{ readonly session: Session; readonly cookie: string }>;
  /** The session of a request to the apex of `domain`. Rejects with RefusedError `unavailable`. */
  read(rawHeaders: readonly string[], domain: string): Promise<Session | undefined>;
}

export const FORGET_SESSION = deleteCookie(SESSION_COOKIE);

export const createSessions = (deps: {
  readonly keys: Pick<SigningKeys, 'sign' | 'verify'>;
  readonly revocations: Pick<Revocations, 'isRevoked'>;
  readonly clock: Clock;
}): Sessions => ({
  async begin({ user, name, organizations }, domain) {
    const issuedAt = deps.clock.now();
    const expiresAt = issuedAt + SESSION_LIFETIME_MS;
    const session: Session = { sessionId: randomValue(), user, name, organizations, issuedAt, expiresAt };
    const jwt = await deps.keys.sign('session', TYPE, {
      aud: domain,
      sid: session.sessionId,
      sub: user,
      name,
      orgs: [...organizations],
      sat: issuedAt,
      exp: Math.floor(expiresAt / 1_000),
    });
    return { session, cookie: setCookie(SESSION_COOKIE, jwt, SESSION_LIFETIME_MS) };
  },
  async read(rawHeaders, domain) {
    const jwt = cookieOf(rawHeaders, SESSION_COOKIE);
    if (jwt === undefined) return undefined;
    const claims = claimsSchema.safeParse(await verifySession(deps.keys, TYPE, jwt));
    if (!claims.success || claims.data.aud !== domain) return undefined;
    const { sid, sub, name, orgs, sat, exp } = claims.data;
    const session: Session = {
      sessionId: sid,
      user: sub,
      name,
      organizations: orgs,
      issuedAt: sat,
      expiresAt: exp * 1_000,
    };
    return deps.revocations.isRevoked(session) ? undefined : session;
  },
});
