/**
 * From a visitor and a wanted port to the address that the browser goes to next: first over the other ports of the
 * environment that the visitor may open, each of which makes a random value; then with a code for all of them.
 */
import type { EnvironmentRoute } from '../../tunnels/route.ts';
import { exposedPort, mayOpen, type AdmissionPolicy, type OwnedEnvironment } from '../admission.ts';
import { chainedPorts } from './chain.ts';
import type { PortChain, PortCode, PortCodes } from './port-code.ts';
import { authUrl, chainUrl } from './port-pages.ts';
import type { ReturnTo } from './return-to.ts';
import type { Session } from './session.ts';

export interface WantedPort {
  readonly target: ReturnTo;
  readonly returnTo: string;
  /** Hash of what the browser keeps at that port's host. */
  readonly portState: string;
}

export interface PortGrants {
  /** Undefined: for this visitor there is nothing. `chained`: ports on the way. Rejects when the directory is away. */
  begin(
    session: Session,
    wanted: WantedPort,
    options: { readonly redirectsBefore: number },
  ): Promise<{ readonly next: string; readonly chained: number } | undefined>;
  /** `states` are what the ports of the chain have made. */
  finish(
    session: Session,
    chain: PortChain,
    wanted: WantedPort,
    states: readonly string[],
  ): Promise<string | undefined>;
}

export const createPortGrants = (deps: {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  readonly policy: (organization: string | undefined) => AdmissionPolicy | undefined;
  readonly codes: PortCodes;
}): PortGrants => {
  const { codes } = deps;

  const lookUp = async (session: Session, target: ReturnTo) => {
    const route = await deps.route(target.environmentId);
    if (route.kind === 'unknown' || !route.environment) return undefined;
    const owned: OwnedEnvironment = { environment: route.environment, organization: route.organization };
    const policy = deps.policy(owned.organization);
    return mayOpen(session, owned, exposedPort(owned.environment, target.port), policy) ? { owned, policy } : undefined;
  };

  const giveCode = async (
    session: Session,
    { environment, organization }: OwnedEnvironment,
    wanted: WantedPort,
    others: PortCode['ports'],
  ): Promise<string> => {
    const code: PortCode = {
      environmentId: environment.id,
      user: session.user,
      organizations: session.organizations.filter((name) => name === organization),
      sessionId: session.sessionId,
      authNonce: environment.authNonce,
      issuedAt: session.issuedAt,
      expiresAt: session.expiresAt,
      ports: [...others, { port: wanted.target.port, state: wanted.portState }],
      returnTo: wanted.returnTo,
    };
    return authUrl(code, 0, await codes.signCode(code));
  };

  return {
    async begin(session, wanted, { redirectsBefore }) {
      const found = await lookUp(session, wanted.target);
      if (!found) return undefined;
      const { owned, policy } = found;
      const { environmentId, port } = wanted.target;
      const ports = chainedPorts(session, owned, policy, { wanted: port, redirectsBefore });
      const [first] = ports;
      if (first === undefined) return { next: await giveCode(session, owned, wanted, []), chained: 0 };
      const { user, sessionId } = session;
      const { returnTo, portState: state } = wanted;
      const chain = await codes.signChain({ environmentId, user, sessionId, ports, returnTo, state });
      const query = new URLSearchParams({ chain }).toString();
      return { next: chainUrl(returnTo, { environmentId, port: first }, query), chained: ports.length };
    },
    async finish(session, chain, wanted, states) {
      const found = await lookUp(session, wanted.target);
      if (!found) return undefined;
      const { owned, policy } = found;
      // What is no longer allowed since the chain began has made its value for nothing.
      const others = chain.ports
        .map((port, index) => ({ port, state: states[index]! }))
        .filter(({ port }) => mayOpen(session, owned, exposedPort(owned.environment, port), policy));
      return giveCode(session, owned, wanted, others);
    },
  };
};
