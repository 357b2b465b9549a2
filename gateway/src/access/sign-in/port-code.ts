/**
 * What the apex gives to port hosts through the browser, in the query of `/_gitpod/auth` and `/_gitpod/chain`:
 *
 *     code    typ gitpod-code+jwt    a session for the ports it names, for 60 s. Each port takes it from the browser only
 *                                    that has, in a cookie of that port's host, the value whose hash the code names for it
 *     chain   typ gitpod-chain+jwt   the request to the ports it names to make such a value, and to hand its hash on
 *
 *     claims of both   iss, iat, exp, env, sub, sid, return (where the visitor lands; the last of `ports` is its port)
 *     of the code      ports: [port, hash][], orgs, nonce (authNonce), sat, sxp (end of the session), ms
 *     of the chain     ports: port[], hash (the one of the port where the visitor lands)
 *
 * A stolen code is worth nothing without the cookies; a replayed one neither, because they are gone by then.
 */
import * as z from 'zod';
import type { Clock } from '../../../../shared/src/clock.ts';
import { isExposablePort, isId } from '../../../../shared/src/hostname.ts';
import { type SigningKeys, verifySession } from '../signing-keys.ts';
import { MAX_USER_LENGTH } from '../tokens.ts';
import { isRandomValue } from './random-value.ts';
import { MAX_RETURN_TO_LENGTH } from './return-to.ts';

/** A chain of redirects takes seconds even on a bad line. Beyond: start again. */
export const CODE_LIFETIME_MS = 60_000;

const CODE_TYPE = 'gitpod-code+jwt';
const CHAIN_TYPE = 'gitpod-chain+jwt';

export interface PortCode {
  readonly environmentId: string;
  readonly user: string;
  readonly organizations: readonly string[];
  readonly sessionId: string;
  readonly authNonce: number;
  /** Begin and end of the session at the domain, ms since the epoch. */
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** In the order in which the browser visits them. */
  readonly ports: readonly { readonly port: number; readonly state: string }[];
  readonly returnTo: string;
}

export interface PortChain {
  readonly environmentId: string;
  readonly user: string;
  readonly sessionId: string;
  /** The ports beside the one where the visitor lands, in the order in which the browser visits them. */
  readonly ports: readonly number[];
  readonly returnTo: string;
  /** The state of the port where the visitor lands. */
  readonly state: string;
}

const port = z.number().refine(isExposablePort);
const state = z.string().refine(isRandomValue);
const common = {
  env: z.string().refine(isId),
  sub: z.string().min(1).max(MAX_USER_LENGTH),
  sid: z.string().min(1).max(128),
  return: z.string().max(MAX_RETURN_TO_LENGTH),
};
const codeSchema = z.object({
  ...common,
  ports: z.array(z.tuple([port, state])).min(1),
  orgs: z.array(z.string()),
  nonce: z.number(),
  sat: z.number(),
  sxp: z.number(),
});
const chainSchema = z.object({ ...common, ports: z.array(port).min(1), hash: state });

export interface PortCodes {
  signCode(code: PortCode): Promise<string>;
  /** Undefined for what is none, or too old. Rejects with RefusedError `unavailable`. */
  readCode(jwt: string): Promise<PortCode | undefined>;
  signChain(chain: PortChain): Promise<string>;
  readChain(jwt: string): Promise<PortChain | undefined>;
}

export const createPortCodes = (deps: {
  readonly keys: Pick<SigningKeys, 'sign' | 'verify'>;
  readonly clock: Clock;
}): PortCodes => {
  const exp = (): number => Math.floor((deps.clock.now() + CODE_LIFETIME_MS) / 1_000);
  const verify = async (type: string, jwt: string): Promise<unknown> => {
    const payload = await verifySession(deps.keys, type, jwt);
    // The tolerance is for clocks of others; these are made and read within one cluster, and 60 s are to be 60 s.
    return (payload?.exp ?? 0) * 1_000 <= deps.clock.now() ? undefined : payload;
  };
  return {
    signCode: (code) =>
      deps.keys.sign('session', CODE_TYPE, {
        env: code.environmentId,
        sub: code.user,
        sid: code.sessionId,
        return: code.returnTo,
        ports: code.ports.map((entry) => [entry.port, entry.state]),
        orgs: [...code.organizations],
        nonce: code.authNonce,
        sat: code.issuedAt,
        sxp: code.expiresAt,
        exp: exp(),
      }),
    async readCode(jwt) {
      const claims = codeSchema.safeParse(await verify(CODE_TYPE, jwt));
      if (!claims.success) return undefined;
      const { env, sub, sid, return: returnTo, ports, orgs, nonce, sat, sxp } = claims.data;
      return {
        environmentId: env,
        user: sub,
        organizations: orgs,
        sessionId: sid,
        authNonce: nonce,
        issuedAt: sat,
        expiresAt: sxp,
        ports: ports.map(([number, hash]) => ({ port: number, state: hash })),
        returnTo,
      };
    },
    signChain: (chain) =>
      deps.keys.sign('session', CHAIN_TYPE, {
        env: chain.environmentId,
        sub: chain.user,
        sid: chain.sessionId,
        return: chain.returnTo,
        ports: [...chain.ports],
        hash: chain.state,
        exp: exp(),
      }),
    async readChain(jwt) {
      const claims = chainSchema.safeParse(await verify(CHAIN_TYPE, jwt));
      if (!claims.success) return undefined;
      const { env, sub, sid, return: returnTo, ports, hash } = claims.data;
      return { environmentId: env, user: sub, sessionId: sid, ports, returnTo, state: hash };
    },
  };
};
