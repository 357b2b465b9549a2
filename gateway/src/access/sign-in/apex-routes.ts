/**
 * The routes of the apex:
 *
 *     GET  /                         landing page
 *     GET  /auth/login               to the provider; returnTo, state: as below; switch=1: as somebody else
 *     GET  /auth/callback            back from the provider
 *     POST /auth/sign-out            ends the session here and at all ports
 *     GET  /auth/signed-out          says so
 *     GET  /auth/provider-sign-out   to the page of the provider that does the same there
 *     GET  /auth/port/start          from a port host: returnTo is the address wanted, state the hash of its cookie
 *     POST /auth/port/start          the same, as somebody else
 *     GET  /auth/port/chain          back from the port hosts that get a session too
 */
import { describeError } from '../../../../shared/src/errors.ts';
import type { GatewayErrorCode } from '../../errors.ts';
import type { Logger } from '../../observability/log.ts';
import type { Exchange } from '../../proxy/exchange.ts';
import type { Revocations } from '../revocations.ts';
import { answerFailure, answerPage, answerRedirect, fieldOf, isDocument, queryOf } from './answers.ts';
import { MAX_REDIRECTS, redirectsOf } from './chain.ts';
import type { Identity } from './claims.ts';
import { listEnvironments, type LandingDeps } from './landing.ts';
import { forgetLogin, type Logins } from './login.ts';
import { landingPage, notAllowedPage, passagePage, PATHS, signedOutLandingPage, signedOutPage } from './pages.ts';
import type { PortCodes } from './port-code.ts';
import { createPortGrants, type WantedPort } from './port-grant.ts';
import { SignInError, type Provider, type SignInFault } from './provider.ts';
import { isRandomValue } from './random-value.ts';
import { originOf, parseReturnTo } from './return-to.ts';
import { registerRoutes, type RegisterRoutes } from './routes.ts';
import { FORGET_SESSION, type Session, type Sessions } from './session.ts';

export interface ApexDeps extends LandingDeps {
  readonly provider: Pick<Provider, 'authorizationUrl' | 'finish' | 'endSessionUrl'>;
  readonly sessions: Sessions;
  readonly logins: Logins;
  readonly codes: PortCodes;
  readonly revocations: Pick<Revocations, 'revokeSession'>;
  /** Ports at which browsers reach the gateway. */
  readonly ports: Pick<ReadonlySet<number>, 'has'>;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}

const FAULT_CODES: Readonly<Record<SignInFault, GatewayErrorCode>> = {
  unavailable: 'sign_in_unavailable',
  refused: 'sign_in_refused',
  misconfigured: 'sign_in_misconfigured',
  clock: 'sign_in_clock',
  invalid: 'sign_in_invalid',
};
/** What operators can do something about. */
const WARNED: ReadonlySet<SignInFault> = new Set(['unavailable', 'misconfigured', 'clock']);

/** Redirects that a provider may have made before the callback: some pass the visitor on to other providers. */
const PROVIDER_REDIRECTS = 8;

interface Wish extends WantedPort {
  readonly fragment: boolean;
}

/** A form of this very page, and not of another environment's (they are same-site to each other). */
const isOwnForm = (exchange: Exchange, origin: string): boolean => {
  const site = fieldOf(exchange.rawHeaders, 'sec-fetch-site');
  return site === undefined ? fieldOf(exchange.rawHeaders, 'origin') === origin : site === 'same-origin';
};

export const createApexRoutes = (deps: ApexDeps): RegisterRoutes => {
  const { provider, sessions, logins, codes, log } = deps;
  const grants = createPortGrants(deps);
  const originOfApex = (exchange: Exchange): string => originOf(exchange.host, deps.publicPort());
  const sessionOf = (exchange: Exchange): Promise<Session | undefined> =>
    sessions.read(exchange.rawHeaders, exchange.host);

  const readWish = (
    exchange: Exchange,
    { returnTo, portState, fragment }: { returnTo: string; portState: string; fragment: boolean },
  ): Wish | undefined => {
    const target = parseReturnTo(returnTo, { domain: exchange.host, ports: deps.ports });
    return target && isRandomValue(portState) ? { target, returnTo, portState, fragment } : undefined;
  };
  const wishOfQuery = (exchange: Exchange): Wish | undefined => {
    const query = queryOf(exchange);
    return readWish(exchange, {
      returnTo: query.get('returnTo') ?? '',
      portState: query.get('state') ?? '',
      fragment: query.get('fragment') === '1',
    });
  };
  const loginUrl = (wish: Wish | undefined, options: { readonly switchAccount?: boolean } = {}): string => {
    const query = new URLSearchParams();
    if (wish) query.set('returnTo', wish.returnTo);
    if (wish) query.set('state', wish.portState);
    if (options.switchAccount) query.set('switch', '1');
    return `${PATHS.login}${query.size > 0 ? '?' : ''}${query.toString()}`;
  };

  const notAllowed = (exchange: Exchange, session: Session, cookies: readonly string[] = []): void =>
    answerPage(exchange, notAllowedPage(session), { status: 404, cookies, errorCode: 'not_found' });

  /** To the wanted port. A page in between begins a new count of redirects, and takes up a fragment that was kept. */
  const proceed = async (
    exchange: Exchange,
    session: Session,
    wish: Wish,
    { redirectsBefore, cookies = [] }: { readonly redirectsBefore: number; readonly cookies?: readonly string[] },
  ): Promise<void> => {
    const mayPause = isDocument(exchange);
    const granted = await grants.begin(session, wish, { redirectsBefore: mayPause ? 0 : redirectsBefore });
    if (!granted) return notAllowed(exchange, session, cookies);
    const { next, chained } = granted;
    const restores = wish.fragment && mayPause;
    const isTooLong = chained > 0 && redirectsBefore + redirectsOf(chained) > MAX_REDIRECTS;
    if (!restores && !(mayPause && isTooLong)) return answerRedirect(exchange, next, cookies);
    answerPage(exchange, passagePage(next, restores ? { restore: wish.portState } : {}), { cookies });
  };

  const failed = (exchange: Exchange, error: SignInError, options: { again: string; cookies?: readonly string[] }) => {
    const fields = { requestId: exchange.requestId, fault: error.fault, error: describeError(error) };
    if (WARNED.has(error.fault)) log.warn(fields, 'a sign-in failed');
    else log.info(fields, 'a sign-in failed');
    answerFailure(exchange, FAULT_CODES[error.fault], options);
  };

  const landing = async (exchange: Exchange): Promise<void> => {
    const session = await sessionOf(exchange);
    if (!session) return answerPage(exchange, signedOutLandingPage(exchange.host, true));
    const { environments, hidden } = await listEnvironments(session.user, exchange.host, deps);
    answerPage(exchange, landingPage(session, environments, hidden));
  };

  const login = async (exchange: Exchange): Promise<void> => {
    const query = queryOf(exchange);
    const wish = wishOfQuery(exchange);
    if (!wish && query.has('returnTo')) return exchange.fail('bad_request');
    const { login: begun, cookies } = await logins.begin(wish, { domain: exchange.host, ...exchange });
    try {
      const url = await provider.authorizationUrl(begun, `${originOfApex(exchange)}${PATHS.callback}`, {
        switchAccount: query.get('switch') === '1',
      });
      answerRedirect(exchange, url, cookies);
    } catch (error) {
      if (!(error instanceof SignInError)) throw error;
      log.warn({ requestId: exchange.requestId, fault: error.fault, error: describeError(error) }, 'a sign-in failed');
      exchange.fail(FAULT_CODES[error.fault]);
    }
  };

  const callback = async (exchange: Exchange): Promise<void> => {
    const query = queryOf(exchange);
    const found = await logins.find(query.get('state') ?? '', { domain: exchange.host, ...exchange });
    // Too late, or a second time, or begun in another browser.
    if (!found) return answerFailure(exchange, 'sign_in_invalid', { again: PATHS.home });
    const wish = found.wanted && readWish(exchange, found.wanted);
    const forget = forgetLogin(found);
    let identity: Identity;
    try {
      const url = new URL(`${originOfApex(exchange)}${PATHS.callback}`);
      url.search = query.toString();
      identity = await provider.finish(found, url);
    } catch (error) {
      if (!(error instanceof SignInError)) throw error;
      return failed(exchange, error, { again: loginUrl(wish), cookies: [forget] });
    }
    const { session, cookie } = await sessions.begin(identity, exchange.host);
    const { ignored, user } = identity;
    log.info({ requestId: exchange.requestId, user, sessionId: session.sessionId }, 'a visitor has signed in');
    if (ignored.tooMany + ignored.unusable > 0) {
      log.warn({ user, ...ignored }, 'organizations of a visitor were left out');
    }
    const cookies = [cookie, forget];
    if (!wish) return answerRedirect(exchange, PATHS.home, cookies);
    await proceed(exchange, session, wish, { redirectsBefore: PROVIDER_REDIRECTS, cookies });
  };

  const portStart = async (exchange: Exchange): Promise<void> => {
    const wish = wishOfQuery(exchange);
    if (!wish) return exchange.fail('bad_request');
    const session = await sessionOf(exchange);
    if (session) return proceed(exchange, session, wish, { redirectsBefore: 1 });
    const next = loginUrl(wish);
    // Only a page can see the fragment of the address, which redirects have carried here.
    if (isDocument(exchange)) return answerPage(exchange, passagePage(next, { keep: wish.portState }));
    answerRedirect(exchange, next);
  };

  const portChain = async (exchange: Exchange): Promise<void> => {
    const query = queryOf(exchange);
    const states = query.get('states')?.split('.') ?? [];
    const chain = await codes.readChain(query.get('chain') ?? '');
    const wish = chain && readWish(exchange, { returnTo: chain.returnTo, portState: chain.state, fragment: false });
    const session = await sessionOf(exchange);
    // The chain belongs to the browser that has this session.
    const fits = chain && session?.sessionId === chain.sessionId && states.length === chain.ports.length;
    if (!fits || !wish || !states.every(isRandomValue)) {
      return answerFailure(exchange, 'sign_in_invalid', { again: wish?.returnTo ?? PATHS.home });
    }
    const next = await grants.finish(session, chain, wish, states);
    if (next === undefined) return notAllowed(exchange, session);
    answerRedirect(exchange, next);
  };

  const endSession = async (exchange: Exchange): Promise<boolean> => {
    if (!isOwnForm(exchange, originOfApex(exchange))) {
      exchange.fail('cross_origin');
      return false;
    }
    const session = await sessionOf(exchange);
    if (session) {
      await deps.revocations.revokeSession(session.sessionId);
      const { user, sessionId } = session;
      log.info({ requestId: exchange.requestId, user, sessionId }, 'a visitor has signed out');
    }
    return true;
  };
  const signOut = async (exchange: Exchange): Promise<void> => {
    if (await endSession(exchange)) answerRedirect(exchange, PATHS.signedOut, [FORGET_SESSION]);
  };
  const switchAccount = async (exchange: Exchange): Promise<void> => {
    const wish = wishOfQuery(exchange);
    if (!wish) return exchange.fail('bad_request');
    if (!(await endSession(exchange))) return;
    const next = loginUrl(wish, { switchAccount: true });
    // Browsers hold the redirects of a form to what the page said of forms, and the provider is elsewhere.
    answerPage(exchange, passagePage(next), { cookies: [FORGET_SESSION] });
  };

  const providerSignOut = async (exchange: Exchange): Promise<void> =>
    answerRedirect(exchange, provider.endSessionUrl() ?? PATHS.home);
  const signedOut = async (exchange: Exchange): Promise<void> =>
    answerPage(exchange, signedOutPage(provider.endSessionUrl() !== undefined));

  return registerRoutes([
    { method: 'GET', url: PATHS.home, serve: landing },
    { method: 'GET', url: PATHS.login, serve: login },
    { method: 'GET', url: PATHS.callback, serve: callback, once: true },
    { method: 'POST', url: PATHS.signOut, serve: signOut },
    { method: 'GET', url: PATHS.signedOut, serve: signedOut },
    { method: 'GET', url: PATHS.providerSignOut, serve: providerSignOut },
    { method: 'GET', url: PATHS.portStart, serve: portStart },
    { method: 'POST', url: PATHS.portStart, serve: switchAccount },
    { method: 'GET', url: PATHS.portChain, serve: portChain },
  ]);
};
