/**
 * The one place that decides who opens a port. In this order:
 *
 *  1. open to everyone                        served; nothing that the request shows is looked at
 *  2. no sign-in here, and nothing private    what it is: unknown, offline or not exposed
 *  3. a CORS preflight                        answered here
 *  4. a port token                            must be good, and for this port; with a user in it, who must be allowed
 *  5. the session of a visitor                must count for a request of this origin, and its user be allowed
 *  6. a navigation                            sign-in
 *  7. anything else                           401
 *
 * Where there is a sign-in, unknown, not exposed, offline and private are the same to whoever may not open the port:
 * steps 3 to 7 look at what the request shows and at the host alone, until they have found somebody.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import { RefusedError } from '../../../shared/src/errors.ts';
import type { GatewayErrorCode } from '../errors.ts';
import { isNavigation } from '../proxy/navigation.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';
import { exposedPort, isOpenToEveryone, mayOpen, type AdmissionPolicy, type Visitor } from './admission.ts';
import { isPreflight, preflightFields, refusalFields, type FieldLine } from './cors.ts';
import { portTokens, sessionCookies } from './credentials.ts';
import { cookieVerdict, fieldValue, isListed, type FetchRequest, type OriginRules } from './origins.ts';
import type { PortSessions } from './port-session.ts';
import type { Revocations } from './revocations.ts';
import { TokenError } from './signing-keys.ts';
import type { TokenVerifier } from './tokens.ts';

/** On what a request was let in; looked at again for as long as it lasts. */
export type Grounds =
  | { readonly by: 'everyone' }
  | {
      readonly by: 'token';
      /** Undefined: an operator made the token for the port, whoever has it. */
      readonly visitor: Visitor | undefined;
      /** As a revocation names it; ms since the epoch. */
      readonly sessionId: string;
      readonly issuedAt: number;
    }
  | {
      readonly by: 'session';
      readonly visitor: Visitor;
      readonly authNonce: number;
      readonly sessionId: string;
      readonly issuedAt: number;
    };

export type PortAccessResult =
  | { readonly allow: true; readonly grounds: Grounds; readonly route: EnvironmentRoute }
  /** `sign_in`: the visitor is sent to the sign-in. `preflight`: 204 with the fields. */
  | {
      readonly allow: false;
      readonly answer: 'sign_in' | 'preflight' | GatewayErrorCode;
      readonly fields: readonly FieldLine[];
    };

export interface AskedPort {
  readonly environmentId: string;
  readonly port: number;
}

export interface PortAccessDeps {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  /** Of an environment's organization. */
  readonly policy: (organization: string | undefined) => AdmissionPolicy | undefined;
  readonly tokens: TokenVerifier;
  readonly revocations: Pick<Revocations, 'isRevoked'>;
  /** Absent: there is no sign-in here, and private ports open with a token only. */
  readonly sessions?: PortSessions | undefined;
  readonly origins: () => OriginRules;
  readonly clock: Clock;
}

export interface PortAccess {
  /** At once for ports that are open to everyone. `route` is what is known of the environment now. */
  check(request: FetchRequest, asked: AskedPort, route: EnvironmentRoute): PortAccessResult | Promise<PortAccessResult>;
  /** Whether `grounds` still let a request in. */
  holds(grounds: Grounds, asked: AskedPort, route: EnvironmentRoute): boolean;
}

const EVERYONE: Grounds = { by: 'everyone' };

/** What the request shows: somebody, nobody, or something that is refused as such. */
type Shown =
  | { readonly kind: 'grounds'; readonly grounds: Exclude<Grounds, { by: 'everyone' }> }
  | { readonly kind: 'nobody' }
  | { readonly kind: 'refused'; readonly error: GatewayErrorCode };

const NOBODY: Shown = { kind: 'nobody' };
const refused = (error: GatewayErrorCode): Shown => ({ kind: 'refused', error });

/** What a stranger is told where there is no sign-in: nothing is hidden but what private ports answer. */
const toldWithoutSignIn = (route: EnvironmentRoute, port: number): GatewayErrorCode => {
  if (route.kind === 'unknown') return 'unknown_environment';
  // An environment whose announcement was never seen, or is forgotten: nothing says that its ports are open.
  if (!route.environment || exposedPort(route.environment, port)) return 'port_token_required';
  return route.kind === 'offline' ? 'runner_offline' : 'port_not_exposed';
};

/** A page of its own, which a sign-in may take the place of; a frame keeps what is around it. */
const isTopLevel = (lines: readonly string[]): boolean =>
  (fieldValue(lines, 'sec-fetch-dest') ?? 'document') === 'document';

export const createPortAccess = (deps: PortAccessDeps): PortAccess => {
  const { sessions } = deps;

  const policyOf = (route: EnvironmentRoute): AdmissionPolicy | undefined =>
    route.kind === 'unknown' ? undefined : deps.policy(route.organization);

  const holds = (grounds: Grounds, { port }: AskedPort, route: EnvironmentRoute): boolean => {
    if (isOpenToEveryone(route, port, policyOf(route))) return true;
    if (grounds.by === 'everyone') return false;
    const { visitor, sessionId, issuedAt } = grounds;
    if (deps.revocations.isRevoked({ sessionId, user: visitor?.user ?? '', issuedAt })) return false;
    if (!visitor) return true;
    if (route.kind === 'unknown' || !route.environment) return false;
    const { environment, organization } = route;
    if (grounds.by === 'session' && grounds.authNonce !== environment.authNonce) return false;
    return mayOpen(visitor, { environment, organization }, exposedPort(environment, port), policyOf(route));
  };

  const byToken = async (token: string, asked: AskedPort): Promise<Shown> => {
    try {
      const { scope, environmentId, port, user, tokenId, issuedAt } = await deps.tokens.verify(token);
      if (scope !== 'port' || environmentId !== asked.environmentId || port !== asked.port) {
        return refused('token_forbidden');
      }
      const visitor = user === undefined ? undefined : { user, organizations: [] };
      return { kind: 'grounds', grounds: { by: 'token', visitor, sessionId: tokenId, issuedAt } };
    } catch (error) {
      if (error instanceof TokenError) return refused(error.code === 'expired' ? 'token_expired' : 'token_invalid');
      if (error instanceof RefusedError) return refused('directory_unavailable');
      throw error;
    }
  };

  const isSameCreator = async (one: string, other: string): Promise<boolean> => {
    const [a, b] = [await deps.route(one), await deps.route(other)];
    if (a.kind === 'unknown' || b.kind === 'unknown' || !a.environment?.creator) return false;
    // Users are named by runners: those of another organization may say what they like.
    const isSameParty = a.organization === undefined ? a.runnerId === b.runnerId : a.organization === b.organization;
    return isSameParty && a.environment.creator === b.environment?.creator;
  };

  const isCookieCounted = async (request: FetchRequest, { environmentId }: AskedPort): Promise<boolean> => {
    const verdict = cookieVerdict(request);
    if (typeof verdict === 'string') return verdict === 'always';
    const listed = isListed(verdict.origin, environmentId, request, deps.origins());
    if (typeof listed === 'string') return listed === 'yes';
    return isSameCreator(environmentId, listed.ifSameCreatorAs);
  };

  const bySession = async (
    request: FetchRequest,
    asked: AskedPort,
    { verify }: Pick<PortSessions, 'verify'>,
  ): Promise<Shown> => {
    const cookies = sessionCookies(request.rawHeaders);
    if (cookies.length === 0) return NOBODY;
    // A browser has one; whoever tossed in another may mean the visitor to be somebody else.
    if (cookies.length > 1) return refused('session_ambiguous');
    if (!(await isCookieCounted(request, asked))) return NOBODY;
    let session;
    try {
      session = await verify(cookies[0]!);
    } catch (error) {
      if (error instanceof RefusedError) return refused('directory_unavailable');
      throw error;
    }
    if (session?.environmentId !== asked.environmentId || session.port !== asked.port) return NOBODY;
    const { user, organizations, authNonce, sessionId, issuedAt } = session;
    const visitor = { user, organizations };
    return { kind: 'grounds', grounds: { by: 'session', visitor, authNonce, sessionId, issuedAt } };
  };

  const shownBy = (request: FetchRequest, asked: AskedPort): Promise<Shown> | Shown => {
    const tokens = new Set(portTokens(request.rawHeaders, request.isUpgrade));
    if (tokens.size > 1) return refused('token_invalid');
    for (const token of tokens) return byToken(token, asked);
    return sessions ? bySession(request, asked, sessions) : NOBODY;
  };

  /** Listed, as far as the names of hosts tell: what is said to it says nothing of which environments there are. */
  const scriptOrigin = (request: FetchRequest, { environmentId }: AskedPort): string | undefined => {
    const origin = fieldValue(request.rawHeaders, 'origin');
    return origin !== undefined && isListed(origin, environmentId, request, deps.origins()) !== 'no'
      ? origin
      : undefined;
  };
  const refuse = (request: FetchRequest, asked: AskedPort, answer: GatewayErrorCode): PortAccessResult => {
    const origin = scriptOrigin(request, asked);
    return { allow: false, answer, fields: origin === undefined ? [] : refusalFields(origin) };
  };

  const checkPrivate = async (request: FetchRequest, asked: AskedPort): Promise<PortAccessResult> => {
    const { method, rawHeaders, isUpgrade } = request;
    const shown = await shownBy(request, asked);
    // What is known may have changed while keys were read.
    const route = await deps.route(asked.environmentId);
    const grounds = shown.kind === 'grounds' ? shown.grounds : EVERYONE;
    if (holds(grounds, asked, route)) return { allow: true, grounds, route };
    if (shown.kind === 'refused') return refuse(request, asked, shown.error);
    if (grounds.by === 'token') return refuse(request, asked, 'token_forbidden');
    if (!sessions) return refuse(request, asked, toldWithoutSignIn(route, asked.port));
    if (!isUpgrade && isNavigation(method, rawHeaders) && isTopLevel(rawHeaders)) {
      return { allow: false, answer: 'sign_in', fields: [] };
    }
    return refuse(request, asked, 'sign_in_required');
  };

  return {
    holds,
    check(request, asked, route) {
      if (isOpenToEveryone(route, asked.port, policyOf(route))) return { allow: true, grounds: EVERYONE, route };
      if (!sessions) {
        const told = toldWithoutSignIn(route, asked.port);
        if (told !== 'port_token_required') return refuse(request, asked, told);
      }
      const origin = isPreflight(request.method, request.rawHeaders) ? scriptOrigin(request, asked) : undefined;
      if (origin !== undefined && portTokens(request.rawHeaders, false).length === 0) {
        return { allow: false, answer: 'preflight', fields: preflightFields(origin, request.rawHeaders) };
      }
      return checkPrivate(request, asked);
    },
  };
};
