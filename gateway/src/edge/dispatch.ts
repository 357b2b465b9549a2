/** From a request head to who answers it: guard, host, server name, route. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { GatewayErrorCode } from '../errors.ts';
import type { LinkedList } from '../linked-list.ts';
import type { Exchange, UpgradeExchange } from '../proxy/exchange.ts';
import type { EdgeDeps } from './edge.ts';
import { isServerNameFor, parseAuthority, routeAuthority, type HostRoute } from './host-router.ts';
import {
  trackRequest,
  trackUpgrade,
  type ExchangeDeps,
  type ExchangeEnd,
  type ExchangeHead,
  type Tracked,
} from './make-exchange.ts';
import { guardRequest, type GuardedRequest } from './request-guard.ts';
import type { RequestSlots, Slot } from './request-slots.ts';
import { answerHealth, answerShortly, isHealthCheck, redirectToHttps } from './short-answers.ts';
import { isForwardedHttps, type TrustedProxies } from './trusted-proxies.ts';

/** One client connection, whatever HTTP it speaks. Its requests share nothing else (safety row 37). */
export interface ClientConnection {
  readonly protocol: 'http/1.1' | 'h2';
  readonly clientAddress: string;
  readonly clientPort: number;
  /** A trusted proxy made it: each request says whose it is. */
  readonly isProxy: boolean;
  /** `by-request`: no TLS ends here, and the proxy says of each request whether the client spoke TLS to it. */
  readonly encryption: 'tls' | 'in-front' | 'by-request';
  readonly serverName: string | undefined;
  readonly slots: RequestSlots;
  /** Exchanges that have not ended, those waiting for a slot included; oldest first. */
  readonly exchanges: LinkedList<Tracked<Exchange | UpgradeExchange>>;
  /** No further request is taken: HTTP/1.1 responses say `Connection: close`. */
  closing: boolean;
  /** The next response says so; what is asked until then is served. */
  draining: boolean;
  /** The answer that closes the connection was sent: what came behind its request is started no more. */
  over: boolean;
  /** It carries no requests from now on: it ends with its leg. */
  becomeTunnel?(): void;
  /** Called after an exchange has ended and left {@link exchanges}. */
  onExchangeEnd(end: ExchangeEnd): void;
}

export interface Dispatcher {
  request(
    connection: ClientConnection,
    request: IncomingMessage | Http2ServerRequest,
    response: ServerResponse | Http2ServerResponse,
  ): void;
  upgrade(connection: ClientConnection, request: IncomingMessage, socket: Duplex, head: Buffer): void;
  readonly requestsInFlight: number;
  readonly upgrades: number;
}

/** Paths below it are the gateway's own, on every port host; everything else is the application's. */
const OWN_PATHS = '/_gitpod/';
/** What `OPTIONS *` says of the gateway itself (RFC 9110 section 9.3.7). */
const ALLOWED_METHODS = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS';
const HTTPS_PORT = 443;

export const isHttps = (connection: Pick<ClientConnection, 'encryption'>, rawHeaders: readonly string[]): boolean =>
  connection.encryption !== 'by-request' || isForwardedHttps(rawHeaders);

interface Accepted {
  readonly guarded: Extract<GuardedRequest, { ok: true }>;
  readonly route: Exclude<HostRoute, { kind: 'error' }>;
}

const ADDRESS = { kind: 'address' } as const;
const ANY_PORT = { has: () => true };

type DispatchDeps = Pick<
  EdgeDeps,
  'domains' | 'publicPort' | 'forwarder' | 'handlers' | 'log' | 'clock' | 'limits' | 'onExchangeEnd'
> &
  Pick<Partial<EdgeDeps>, 'onExchangeStart'> & {
    readonly ports: Pick<ReadonlySet<number>, 'has'>;
    readonly clientOf: TrustedProxies['clientOf'];
  };

const hostLine = (rawHeaders: readonly string[]): string => {
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (/^(?:host|:authority)$/i.test(rawHeaders[index] ?? '')) return rawHeaders[index + 1] ?? '';
  }
  return '';
};

const pathOf = (target: string): string => target.split('?', 1)[0] ?? '';

/** A tunnel is no exchange: it lasts, and ends when its leg does. */
const isTunnelUpgrade = ({ guarded, route }: Accepted, path: string): boolean =>
  guarded.isWebSocket && route.kind === 'service' && route.service === 'tunnel' && pathOf(guarded.target) === path;

export const createDispatcher = (deps: DispatchDeps): Dispatcher => {
  let requestsInFlight = 0;
  let upgrades = 0;

  const judge = (
    connection: ClientConnection,
    request: IncomingMessage | Http2ServerRequest,
  ): Accepted | GatewayErrorCode => {
    const guarded = guardRequest({
      httpVersion: request.httpVersion,
      isHttp2: connection.protocol === 'h2',
      method: request.method ?? '',
      target: request.url ?? '',
      rawHeaders: request.rawHeaders,
      scheme: connection.encryption === 'tls' ? 'https' : 'either',
      maxFields: deps.limits.maxRequestHeaderFields,
    });
    if (!guarded.ok) return guarded.code;
    // Without TLS it is some plain port of the proxy.
    const ports = isHttps(connection, request.rawHeaders) ? deps.ports : ANY_PORT;
    const route = routeAuthority(guarded.host, { domains: deps.domains, ports });
    // Whatever name a health check was told to use.
    if (route.kind === 'error') return isHealthCheck(guarded.target) ? { guarded, route: ADDRESS } : route.code;
    const { serverName } = connection;
    // Nearly always the request is for the very name that the connection was made to.
    const isMeant = serverName === guarded.host.host || isServerNameFor(serverName, route, deps.domains);
    return isMeant ? { guarded, route } : 'misdirected';
  };

  const clientOf = (
    connection: ClientConnection,
    rawHeaders: readonly string[],
  ): Pick<ExchangeHead, 'clientAddress' | 'clientPort'> => {
    const { clientAddress, clientPort } = connection;
    if (!connection.isProxy) return { clientAddress, clientPort };
    return { clientAddress: deps.clientOf(rawHeaders, clientAddress), clientPort: 0 };
  };

  const headOf = (
    connection: ClientConnection,
    request: IncomingMessage | Http2ServerRequest,
    accepted: Accepted | GatewayErrorCode,
  ): ExchangeHead => {
    const isAccepted = typeof accepted !== 'string';
    const authority = isAccepted ? accepted.guarded.authority : hostLine(request.rawHeaders);
    const parsed = isAccepted ? accepted.guarded.host : parseAuthority(authority);
    return {
      host: parsed?.host ?? '',
      authority,
      authorityPort: parsed?.port ?? HTTPS_PORT,
      method: request.method ?? '',
      target: isAccepted ? accepted.guarded.target : (request.url ?? ''),
      rawHeaders: isAccepted ? accepted.guarded.rawHeaders : request.rawHeaders,
      ...clientOf(connection, request.rawHeaders),
      protocol: connection.protocol,
    };
  };

  const route = (exchange: Exchange, to: Accepted['route']): void => {
    const { handlers, forwarder } = deps;
    if (exchange.target === '*') return answerShortly(exchange.response, 204, { Allow: ALLOWED_METHODS });
    const isHealth = isHealthCheck(exchange.target);
    switch (to.kind) {
      case 'port':
        if (!exchange.target.startsWith(OWN_PATHS)) return forwarder.request(exchange, to);
        return handlers.portPages ? handlers.portPages(exchange, to) : exchange.fail('not_found');
      case 'address':
        return isHealth ? answerHealth(exchange) : exchange.fail('misdirected');
      case 'apex':
        if (isHealth) return answerHealth(exchange);
        break;
      case 'service':
        if (isHealth) return answerHealth(exchange);
        if (to.service === 'tunnel') return exchange.fail('not_found');
        break;
      case 'runner':
        if (!handlers.runner) return exchange.fail('not_found');
        exchange.request.url = exchange.target;
        return handlers.runner(exchange, to.runnerId);
      case 'logs':
        exchange.record.environmentId = to.environmentId;
        return handlers.logs ? handlers.logs.request(exchange, to.environmentId) : exchange.fail('not_found');
    }
    const handler = to.kind === 'apex' ? handlers.apex : handlers.api;
    // Own handlers route by the target in origin form, whatever form the client sent.
    exchange.request.url = exchange.target;
    handler(exchange.request, exchange.response, exchange);
  };

  /** What came without TLS. */
  const routePlain = (exchange: Exchange, { guarded, route: to }: Accepted): void => {
    if (isHealthCheck(exchange.target)) return answerHealth(exchange);
    if (to.kind === 'address') return exchange.fail('misdirected');
    redirectToHttps(exchange.response, guarded, deps.publicPort());
  };

  /** A fault in a handler is an error of one request, never of the process (safety row 58). */
  const guardedly = (exchange: Exchange | UpgradeExchange, act: () => void): void => {
    try {
      act();
    } catch (cause) {
      exchange.fail('internal', { cause });
    }
  };

  /** Makes the exchange with what happens at its end: slot, counters, connection, access log. */
  const track = <E extends Exchange | UpgradeExchange>(
    connection: ClientConnection,
    slot: Slot,
    make: (exchangeDeps: ExchangeDeps) => Tracked<E>,
  ): Tracked<E> => {
    const tracked: Tracked<E> = make({
      clock: deps.clock,
      log: deps.log,
      onEnd: (exchange, status, end) => {
        connection.exchanges.remove(place);
        // Before the next request takes the slot: nobody would see its answer.
        if ('response' in exchange && 'shouldKeepAlive' in exchange.response && !exchange.response.shouldKeepAlive) {
          connection.over = true;
        }
        if ('response' in exchange) requestsInFlight -= 1;
        else upgrades -= 1;
        slot.leave(end === 'gone' || end === 'violation' ? 'reset' : 'ended');
        connection.onExchangeEnd(end);
        deps.onExchangeEnd(exchange, status);
      },
    });
    const place = connection.exchanges.add(tracked);
    if ('response' in tracked.exchange) requestsInFlight += 1;
    else upgrades += 1;
    deps.onExchangeStart?.(tracked.exchange);
    return tracked;
  };

  return {
    request(connection, request, response) {
      const accepted = judge(connection, request);
      const slot = connection.slots.create();
      const head = headOf(connection, request, accepted);
      const tracked = track(connection, slot, (exchangeDeps) => trackRequest(exchangeDeps, head, request, response));
      const { exchange } = tracked;
      if (
        'shouldKeepAlive' in response &&
        (connection.closing || connection.draining || request.httpVersion === '1.0')
      ) {
        response.shouldKeepAlive = false;
      }
      slot.run(() => {
        if (connection.over) return;
        if (typeof accepted === 'string') return tracked.refuse(accepted);
        guardedly(exchange, () => {
          if (isHttps(connection, request.rawHeaders)) route(exchange, accepted.route);
          else routePlain(exchange, accepted);
        });
      });
    },
    upgrade(connection, request, socket, upgradeHead) {
      // Behind an unanswered request, the answer to this one would overtake the first one's.
      if (connection.exchanges.size > 0 || connection.closing) {
        socket.destroy();
        return;
      }
      const accepted = judge(connection, request);
      const { tunnel } = deps.handlers;
      // A tunnel needs TLS of the gateway's own.
      const mayTunnel = tunnel && connection.encryption === 'tls';
      if (typeof accepted !== 'string' && mayTunnel && isTunnelUpgrade(accepted, tunnel.upgradePath)) {
        connection.becomeTunnel?.();
        return tunnel.upgrade(request, socket, upgradeHead);
      }
      const head = headOf(connection, request, accepted);
      const slot = connection.slots.create();
      const { exchange, refuse } = track(connection, slot, (exchangeDeps) =>
        trackUpgrade(exchangeDeps, head, request, socket, upgradeHead),
      );
      slot.run(() => {
        if (typeof accepted === 'string') return refuse(accepted);
        const { route: to } = accepted;
        const { logs } = deps.handlers;
        if (!accepted.guarded.isWebSocket) return refuse('not_found');
        if (to.kind === 'logs' && logs) return guardedly(exchange, () => logs.upgrade(exchange, to.environmentId));
        if (to.kind !== 'port' || exchange.target.startsWith(OWN_PATHS)) return refuse('not_found');
        guardedly(exchange, () => deps.forwarder.upgrade(exchange, to));
      });
    },
    get requestsInFlight() {
      return requestsInFlight;
    },
    get upgrades() {
      return upgrades;
    },
  };
};
