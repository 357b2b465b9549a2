/**
 * What the gateway answers on port hosts for the sign-in:
 *
 *     a stranger's navigation     302 to the apex, with a random value in a cookie and its hash in the address
 *     GET /_gitpod/chain          makes such a value too, and sends the browser on with the hash
 *     GET /_gitpod/auth           takes a session out of a code for who has that cookie
 */
import type { Clock } from '../../../../shared/src/clock.ts';
import { RefusedError } from '../../../../shared/src/errors.ts';
import { portHost } from '../../../../shared/src/hostname.ts';
import type { Exchange } from '../../proxy/exchange.ts';
import { cookieOf, deleteCookie, setCookie } from '../cookies.ts';
import { PORT_COOKIE, PORT_STATE_COOKIE, type PortSessions } from '../port-session.ts';
import { answerFailure, answerRedirect, queryOf } from './answers.ts';
import { PATHS } from './pages.ts';
import type { PortCode, PortCodes } from './port-code.ts';
import { hashOf, isRandomValue, randomValue } from './random-value.ts';
import { originOf, returnToOf } from './return-to.ts';

/** What is below it never reaches an application, see edge/dispatch.ts. */
const OWN_PATHS = '/_gitpod/';
const AUTH_PATH = `${OWN_PATHS}auth`;
const CHAIN_PATH = `${OWN_PATHS}chain`;

/** Time to sign in, ms: that of a login, and a little. */
const STATE_LIFETIME_MS = 10 * 60 * 1_000;

export interface AskedPort {
  readonly environmentId: string;
  readonly port: number;
}

export interface PortPages {
  /** Sends a visitor to the sign-in. The answer depends on the request alone: it is the same for what does not exist. */
  startSignIn(exchange: Exchange): void;
  /** Answers a request below `/_gitpod/`; false if there is nothing of the sign-in at its path. */
  serve(exchange: Exchange, asked: AskedPort): boolean;
}

export interface PortPagesDeps {
  readonly sessions: PortSessions;
  readonly codes: PortCodes;
  readonly clock: Clock;
  readonly publicPort: () => number;
}

/** Host of another port of the environment that `origin` is of, in the same place. */
const siblingOrigin = (origin: string, { environmentId }: Pick<PortCode, 'environmentId'>, port: number): string => {
  const url = new URL(origin);
  const domain = url.hostname.slice(url.hostname.indexOf('.') + 1);
  return originOf(portHost(port, environmentId, domain), url.port === '' ? 443 : Number(url.port));
};

/** Where the browser goes to collect the hash of a port. */
export const chainUrl = (returnTo: string, chain: { environmentId: string; port: number }, query: string): string =>
  `${siblingOrigin(returnTo, chain, chain.port)}${CHAIN_PATH}?${query}`;

/** Where the browser takes the session of the next port of a code. */
export const authUrl = (code: PortCode, index: number, jwt: string): string => {
  const isLast = index === code.ports.length - 1;
  const { origin } = new URL(code.returnTo);
  return `${isLast ? origin : siblingOrigin(origin, code, code.ports[index]!.port)}${AUTH_PATH}?code=${jwt}`;
};

const stateCookie = (rawHeaders: readonly string[]): string | undefined => {
  const value = cookieOf(rawHeaders, PORT_STATE_COOKIE);
  return value !== undefined && isRandomValue(value) ? value : undefined;
};

export const createPortPages = (deps: PortPagesDeps): PortPages => {
  const { sessions, codes, clock } = deps;

  /** Several tabs of one host that ask at once have one value between them, or only the last would come back. */
  const keepState = (exchange: Exchange): { readonly hash: string; readonly cookie: string } => {
    const value = stateCookie(exchange.rawHeaders) ?? randomValue();
    return { hash: hashOf(value), cookie: setCookie(PORT_STATE_COOKIE, value, STATE_LIFETIME_MS) };
  };
  const apexOf = (exchange: Exchange): string =>
    originOf(exchange.host.slice(exchange.host.indexOf('.') + 1), deps.publicPort());
  const ownOrigin = (exchange: Exchange): string => originOf(exchange.host, exchange.authorityPort);

  const chain = async (exchange: Exchange, { environmentId, port }: AskedPort): Promise<void> => {
    const query = queryOf(exchange);
    const jwt = query.get('chain') ?? '';
    const collected = query.get('states')?.split('.') ?? [];
    const read = await codes.readChain(jwt);
    if (read?.environmentId !== environmentId || read.ports[collected.length] !== port) {
      return answerFailure(exchange, 'sign_in_invalid', { again: '/' });
    }
    const { hash, cookie } = keepState(exchange);
    const states = [...collected, hash];
    const next = new URLSearchParams({ chain: jwt, states: states.join('.') }).toString();
    const nextPort = read.ports[states.length];
    const url =
      nextPort === undefined
        ? `${apexOf(exchange)}${PATHS.portChain}?${next}`
        : chainUrl(read.returnTo, { environmentId, port: nextPort }, next);
    answerRedirect(exchange, url, [cookie]);
  };

  /** Whether the browser has the session already that the code is for: it came a second time, or from a second tab. */
  const hasSession = async (exchange: Exchange, code: PortCode, asked: AskedPort): Promise<boolean> => {
    const cookie = cookieOf(exchange.rawHeaders, PORT_COOKIE);
    const session = cookie === undefined ? undefined : await sessions.verify(cookie);
    return (
      session?.environmentId === asked.environmentId &&
      session.port === asked.port &&
      session.sessionId === code.sessionId &&
      session.authNonce === code.authNonce
    );
  };

  const auth = async (exchange: Exchange, asked: AskedPort): Promise<void> => {
    const jwt = queryOf(exchange).get('code') ?? '';
    const code = await codes.readCode(jwt);
    const index = code?.ports.findIndex(({ port }) => port === asked.port) ?? -1;
    if (code?.environmentId !== asked.environmentId || index < 0) {
      return answerFailure(exchange, 'sign_in_invalid', { again: '/' });
    }
    const isLast = index === code.ports.length - 1;
    if (isLast && new URL(code.returnTo).origin !== ownOrigin(exchange)) {
      return answerFailure(exchange, 'sign_in_invalid', { again: '/' });
    }
    const next = isLast ? code.returnTo : authUrl(code, index + 1, jwt);
    const state = stateCookie(exchange.rawHeaders);
    if (state === undefined || hashOf(state) !== code.ports[index]!.state) {
      // Beside the way, a port without a session is no reason to stop.
      if (!isLast || (await hasSession(exchange, code, asked))) return answerRedirect(exchange, next);
      return answerFailure(exchange, 'sign_in_invalid', { again: code.returnTo });
    }
    const { environmentId, user, organizations, sessionId, authNonce, issuedAt, expiresAt } = code;
    const { port } = asked;
    const session = { environmentId, port, user, organizations, sessionId, authNonce, issuedAt, expiresAt };
    answerRedirect(exchange, next, [
      setCookie(PORT_COOKIE, await sessions.issue(session), expiresAt - clock.now()),
      deleteCookie(PORT_STATE_COOKIE),
    ]);
  };

  const guarded = (exchange: Exchange, work: Promise<void>): void => {
    work.catch((cause: unknown) => {
      if (!exchange.signal.aborted)
        exchange.fail(cause instanceof RefusedError ? 'directory_unavailable' : 'internal', { cause });
    });
  };

  return {
    startSignIn(exchange) {
      const { hash, cookie } = keepState(exchange);
      const query = new URLSearchParams({ returnTo: returnToOf(exchange), state: hash });
      answerRedirect(exchange, `${apexOf(exchange)}${PATHS.portStart}?${query.toString()}`, [cookie]);
    },
    serve(exchange, asked) {
      const path = exchange.target.split('?', 1)[0];
      if (path !== AUTH_PATH && path !== CHAIN_PATH) return false;
      Object.assign(exchange.record, asked);
      // A HEAD would use up what the GET behind it needs.
      if (exchange.method !== 'GET') exchange.fail('method_not_allowed');
      else guarded(exchange, path === AUTH_PATH ? auth(exchange, asked) : chain(exchange, asked));
      return true;
    },
  };
};
