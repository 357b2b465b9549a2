/**
 * A login under way: what the browser has to bring back from the provider. It is kept in a cookie of the apex, one for
 * each login, so that logins in several tabs do not get in each other's way.
 *
 *     cookie   __Host-gitpod_login_<id>; id: when it began, base 36, and a random part
 *     header   alg EdDSA, kid, typ gitpod-login+jwt
 *     claims   iss, iat, exp (10 min), aud (the domain), id, secret, return (optional), port (optional), fragment (optional)
 *
 * `state`, `nonce` and PKCE verifier are derived from the one secret.
 */
import { randomBytes } from 'node:crypto';
import * as z from 'zod';
import type { Clock } from '../../../../shared/src/clock.ts';
import { cookieOf, cookiesWith, deleteCookie, setCookie } from '../cookies.ts';
import { type SigningKeys, verifySession } from '../signing-keys.ts';
import { MAX_RETURN_TO_LENGTH } from './return-to.ts';
import { hashOf, isRandomValue, randomValue } from './random-value.ts';

/** Time to fill in the provider's forms, ms; then the visitor starts again. */
export const LOGIN_LIFETIME_MS = 10 * 60 * 1_000;
/** Logins under way in one browser, this one included. Each is up to 2.6 KiB of cookie. Beyond: the oldest is forgotten. */
export const MAX_LOGINS_UNDER_WAY = 3;

const TYPE = 'gitpod-login+jwt';
const COOKIE_PREFIX = '__Host-gitpod_login_';
const ID = /^[0-9a-z]{1,11}_[0-9a-f]{16}$/;

/** What the visitor wanted; without it, the landing page. */
export interface Wanted {
  readonly returnTo: string;
  /** SHA-256 of what the browser keeps at the port host. */
  readonly portState: string;
  /** The browser keeps a fragment of the address. */
  readonly fragment: boolean;
}

export interface Login {
  readonly id: string;
  readonly wanted: Wanted | undefined;
  readonly state: string;
  readonly nonce: string;
  readonly codeVerifier: string;
}

const claimsSchema = z.object({
  aud: z.string(),
  id: z.string().regex(ID),
  secret: z.string().refine(isRandomValue),
  return: z.string().max(MAX_RETURN_TO_LENGTH).optional(),
  port: z.string().optional(),
  fragment: z.boolean().optional(),
});

const describe = (id: string, secret: string, wanted: Wanted | undefined): Login => ({
  id,
  wanted,
  state: `${id}.${hashOf(`state ${secret}`)}`,
  nonce: hashOf(`nonce ${secret}`),
  codeVerifier: hashOf(`verifier ${secret}`),
});

const isLoginCookie = (name: string): boolean =>
  name.startsWith(COOKIE_PREFIX) && ID.test(name.slice(COOKIE_PREFIX.length));

export interface Logins {
  /** A new login, and the lines that set its cookie and delete what is too much. */
  begin(
    wanted: Wanted | undefined,
    request: { readonly domain: string; readonly rawHeaders: readonly string[] },
  ): Promise<{ readonly login: Login; readonly cookies: readonly string[] }>;
  /** The login that `state` belongs to, if this browser began it in time. */
  find(
    state: string,
    request: { readonly domain: string; readonly rawHeaders: readonly string[] },
  ): Promise<Login | undefined>;
}

export const forgetLogin = ({ id }: Login): string => deleteCookie(COOKIE_PREFIX + id);

export const createLogins = (deps: {
  readonly keys: Pick<SigningKeys, 'sign' | 'verify'>;
  readonly clock: Clock;
}): Logins => ({
  async begin(wanted, { domain, rawHeaders }) {
    const now = deps.clock.now();
    // Ids sort by age: base 36 of the seconds keeps its length until the year 4085.
    const id = `${Math.floor(now / 1_000).toString(36)}_${randomBytes(8).toString('hex')}`;
    const secret = randomValue();
    const jwt = await deps.keys.sign('session', TYPE, {
      aud: domain,
      id,
      secret,
      ...(wanted && { return: wanted.returnTo, port: wanted.portState, fragment: wanted.fragment }),
      exp: Math.floor((now + LOGIN_LIFETIME_MS) / 1_000),
    });
    const older = cookiesWith(rawHeaders, isLoginCookie)
      .map(({ name }) => name)
      .sort();
    const tooMany = older.slice(0, Math.max(0, older.length - MAX_LOGINS_UNDER_WAY + 1));
    return {
      login: describe(id, secret, wanted),
      cookies: [setCookie(COOKIE_PREFIX + id, jwt, LOGIN_LIFETIME_MS), ...tooMany.map((name) => deleteCookie(name))],
    };
  },
  async find(state, { domain, rawHeaders }) {
    const [id = ''] = state.split('.', 1);
    const jwt = ID.test(id) ? cookieOf(rawHeaders, COOKIE_PREFIX + id) : undefined;
    if (jwt === undefined) return undefined;
    const claims = claimsSchema.safeParse(await verifySession(deps.keys, TYPE, jwt));
    if (!claims.success || claims.data.aud !== domain || claims.data.id !== id) return undefined;
    const { secret, return: returnTo, port: portState, fragment = false } = claims.data;
    const wanted = returnTo === undefined || portState === undefined ? undefined : { returnTo, portState, fragment };
    const login = describe(id, secret, wanted);
    return login.state === state ? login : undefined;
  },
});
