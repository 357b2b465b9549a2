/**
 * What happens to a request for a port: let in, and remembered for as long as it lasts; or answered here. What decides
 * is port-access.ts; this acts on it.
 */
import type { ServerResponse } from 'node:http';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../observability/log.ts';
import type { Exchange, UpgradeExchange } from '../proxy/exchange.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';
import { exposedPort } from './admission.ts';
import type { Blocks } from './blocks.ts';
import type { FieldLine } from './cors.ts';
import type { Interstitial } from './interstitial.ts';
import { createOpenStreams, type OpenStream } from './open-streams.ts';
import {
  createPortAccess,
  type AskedPort,
  type Grounds,
  type PortAccessDeps,
  type PortAccessResult,
} from './port-access.ts';

export interface PortGateDeps extends PortAccessDeps {
  readonly log: Logger;
  readonly clock: Clock;
  readonly blocks: Pick<Blocks, 'isBlocked'>;
  /** Sends a visitor to the sign-in. There where there are sessions. */
  readonly startSignIn?: ((exchange: Exchange, asked: AskedPort) => void) | undefined;
  /** Absent: ports that are open to everyone are shown without a word. */
  readonly interstitial?: Interstitial | undefined;
}

export interface PortGate {
  /**
   * What is known of the environment, if the request is let in; undefined if it was answered. At once for ports that
   * are open to everyone. `route` is what was known when the request came.
   */
  admit(
    exchange: Exchange | UpgradeExchange,
    asked: AskedPort,
    route: EnvironmentRoute,
  ): EnvironmentRoute | undefined | Promise<EnvironmentRoute | undefined>;
  /** To be told of every exchange that ends. */
  ended(exchange: Exchange | UpgradeExchange): void;
  /** What decides has changed, for one environment or all: what is under way and no longer allowed is cut. */
  recheck(environmentId: string | undefined): void;
  /** Requests and connections under way that were let in. */
  readonly open: number;
  close(): void;
}

const answerPreflight = (response: ServerResponse, fields: readonly FieldLine[]): void => {
  for (const [name, value] of fields) response.setHeader(name, value);
  response.setHeader('Cache-Control', 'no-store');
  response.statusCode = 204;
  response.end();
};

export const createPortGate = (deps: PortGateDeps): PortGate => {
  const { log, blocks } = deps;
  const access = createPortAccess(deps);
  const isBlocked = (environmentId: string, route: EnvironmentRoute): boolean =>
    blocks.isBlocked({ environmentId, organization: route.kind === 'unknown' ? undefined : route.organization });

  const holds = (stream: OpenStream<Grounds>, environmentId: string, route: EnvironmentRoute): boolean => {
    if (route.kind === 'unknown' || !route.environment || route.runnerId !== stream.runnerId) return false;
    if (!exposedPort(route.environment, stream.port) || isBlocked(environmentId, route)) return false;
    return access.holds(stream.grounds, { environmentId, port: stream.port }, route);
  };
  const streams = createOpenStreams<Grounds>({
    route: deps.route,
    holds,
    clock: deps.clock,
    onCut: (environmentId, count) => log.info({ environmentId, count }, 'cut what may no longer reach its port'),
    onError: (error) => log.warn({ err: error }, 'whether open streams are still allowed cannot be looked up'),
  });

  const act = (
    exchange: Exchange | UpgradeExchange,
    asked: AskedPort,
    result: PortAccessResult,
  ): EnvironmentRoute | undefined => {
    if (exchange.gone) return undefined;
    if (result.allow) {
      const { route, grounds } = result;
      if (isBlocked(asked.environmentId, route)) return void exchange.fail('environment_blocked');
      if (grounds.by === 'everyone' && 'response' in exchange && deps.interstitial?.shows(exchange, asked, route)) {
        return undefined;
      }
      if (route.kind === 'online') {
        streams.add(asked.environmentId, { exchange, port: asked.port, grounds, runnerId: route.runnerId });
      }
      return route;
    }
    const { answer, fields } = result;
    if (answer === 'sign_in') {
      if ('response' in exchange && deps.startSignIn) deps.startSignIn(exchange, asked);
      else exchange.fail('sign_in_required');
    } else if (answer === 'preflight') {
      // The two classes of responses have the same methods with types that do not unite.
      if ('response' in exchange) answerPreflight(exchange.response as ServerResponse, fields);
    } else exchange.fail(answer, { fields });
    return undefined;
  };

  return {
    admit(exchange, asked, route) {
      const { method, host, authorityPort, rawHeaders } = exchange;
      const request = { method, host, authorityPort, rawHeaders, isUpgrade: !('response' in exchange) };
      const result = access.check(request, asked, route);
      return result instanceof Promise
        ? result.then((later) => act(exchange, asked, later))
        : act(exchange, asked, result);
    },
    ended(exchange) {
      const { environmentId } = exchange.record;
      if (environmentId !== undefined) streams.remove(environmentId, exchange);
    },
    recheck: (environmentId) => streams.recheck(environmentId),
    get open() {
      return streams.count;
    },
    close: () => streams.close(),
  };
};
