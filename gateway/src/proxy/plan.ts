/** Decides whether a request may go to a port, and by which legs. */
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import { exposedPort } from '../access/admission.ts';
import type { PortGate } from '../access/port-gate.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';
import type { Exchange, UpgradeExchange } from './exchange.ts';
import { MAX_HOPS, passedHops, type LocalHost } from './headers.ts';
import { GatewayFailure } from './upstream-errors.ts';

/** What a port host or a log host addresses. */
export interface ForwardTarget {
  /** `logs`: the log server, whose access is checked before; absent: a port. */
  readonly kind?: 'port' | 'logs';
  /** With `logs`: the answer is a file to keep, under this name. */
  readonly fileName?: string;
  readonly environmentId: string;
  readonly port: number;
  /** The "s" of the port host: TLS to the upstream. */
  readonly tls: boolean;
}

export interface Plan {
  /** Best first, never empty. */
  readonly legs: readonly Leg[];
  /** The tunnel client speaks TLS to the upstream. */
  readonly tls: boolean;
  readonly local: LocalHost | undefined;
  /** How this port host is named in the chain of hops. */
  readonly hop: string;
  readonly organization: string | undefined;
}

export interface PlanDeps {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  /** Who may open a port. */
  readonly gate: Pick<PortGate, 'admit'>;
}

const planOf = (admitted: EnvironmentRoute | undefined, target: ForwardTarget, hop: string): Plan | undefined => {
  if (!admitted) return undefined;
  if (admitted.kind === 'unknown') throw new GatewayFailure('unknown_environment', 'there is no such environment');
  if (admitted.kind === 'offline') throw new GatewayFailure('runner_offline', 'no leg carries the environment');
  const { legs, environment, organization } = admitted;
  if (target.kind === 'logs') return { legs, tls: false, local: undefined, hop, organization };
  const exposed = exposedPort(environment, target.port);
  if (!exposed) throw new GatewayFailure('port_not_exposed', 'the port is not announced');
  const tls = target.tls || exposed.protocol === 'https';
  return {
    legs,
    tls,
    local: exposed.hostHeader === 'local' ? { port: target.port, tls } : undefined,
    hop,
    organization,
  };
};

/**
 * Undefined: the request was answered where access is decided. Throws or rejects with GatewayFailure; a promise only where
 * something has to be looked up, since each costs a request some of its time. Fills in the record of the exchange as far
 * as it gets.
 */
export const planRequest = (
  exchange: Exchange | UpgradeExchange,
  target: ForwardTarget,
  deps: PlanDeps,
): Plan | undefined | Promise<Plan | undefined> => {
  const { record } = exchange;
  record.environmentId = target.environmentId;
  record.port = target.port;
  const hop = `${target.port}--${target.environmentId}`;
  const hops = passedHops(exchange.rawHeaders);
  if (hops.includes(hop) || hops.length >= MAX_HOPS)
    throw new GatewayFailure('loop', `it has passed ${hops.join(', ')}`);
  const onRoute = (found: EnvironmentRoute): Plan | undefined | Promise<Plan | undefined> => {
    if (found.kind !== 'unknown') record.runnerId = found.runnerId;
    // Access, then availability. The log host has checked its own.
    const admission = target.kind === 'logs' ? found : deps.gate.admit(exchange, target, found);
    if (!(admission instanceof Promise)) return planOf(admission, target, hop);
    return admission.then((admitted) => planOf(admitted, target, hop));
  };
  const route = deps.route(target.environmentId);
  if (!(route instanceof Promise)) return onRoute(route);
  return route.then(onRoute, (error: unknown) => {
    throw new GatewayFailure('directory_unavailable', 'the environment could not be looked up', { cause: error });
  });
};
