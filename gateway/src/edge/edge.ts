/**
 * The side that faces the internet: listeners, TLS, HTTP/1.1 and HTTP/2, limits, refusal of what is ambiguous, routing by
 * host. Everything behind it sees an Exchange.
 */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse, ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { Clock } from '../../../shared/src/clock.ts';
import type { TicketKeys } from '../access/ticket-keys.ts';
import type { ListenAddress, ProxyProtocol } from '../config.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { GatewayLimits } from '../limits.ts';
import type { Exchange, UpgradeExchange } from '../proxy/exchange.ts';
import type { CertificateStore } from './certificates.ts';
import { createClientConnections, DRAIN_FIRST_REQUEST_MS } from './client-connections.ts';
import { createArrivals } from './arrivals.ts';
import { acceptConnections, createConnectionCounter, type Acceptor, type Peer } from './connections.ts';
import { createDispatcher } from './dispatch.ts';
import { createHttp1Server } from './http1-server.ts';
import { createHttp2Server } from './http2-server.ts';
import type { LiveCertificates } from './live-certificates.ts';
import { createPlainServer } from './plain-listener.ts';
import { createTlsServer } from './tls-server.ts';
import { createTrustedProxies } from './trusted-proxies.ts';

/** What a port host addresses. */
export interface PortTarget {
  readonly environmentId: string;
  readonly port: number;
  /** The upstream is spoken to with TLS (the "s" of the port host). */
  readonly tls: boolean;
}

/** What the edge needs of the forwarder. */
export interface EdgeForwarder {
  request(exchange: Exchange, target: PortTarget): void;
  upgrade(exchange: UpgradeExchange, target: PortTarget): void;
}

/**
 * Answers the requests of a host that is the gateway's own, such as `app.routing` of a Fastify instance. The third
 * argument is there for handlers that want the edge's error pages (`exchange.fail`).
 */
export type EdgeHandler = (
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
  exchange: Exchange,
) => void;

/** Answers the requests of log hosts. */
export interface LogsHandler {
  request(exchange: Exchange, environmentId: string): void;
  upgrade(exchange: UpgradeExchange, environmentId: string): void;
}

/** Takes what comes for `tunnel.<domain>`. The sockets are its own from then on, also when the edge closes. */
export interface TunnelHandler {
  /** Where the WebSocket upgrade is; every other one is `not_found`. */
  readonly upgradePath: string;
  /** Undefined when the socket was not usable any more. Requests that are not the tunnel's are handed back. */
  http2(
    socket: TLSSocket,
    onRequest: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
  ): ServerHttp2Session | undefined;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

export type PortPagesHandler = (
  exchange: Exchange,
  asked: { readonly environmentId: string; readonly port: number },
) => void;

/** Answers the requests of a runner's host. */
export type RunnerHandler = (exchange: Exchange, runnerId: string) => void;

export interface EdgeDeps {
  readonly domains: readonly string[];
  /** Ports at which clients reach the https listeners besides those they are bound to (a load balancer's). */
  readonly publicPorts: () => ReadonlySet<number>;
  /** Port of https URLs, for redirects from plain HTTP. */
  readonly publicPort: () => number;
  readonly certificates: CertificateStore & Partial<Pick<LiveCertificates, 'onChange'>>;
  /** Absent: session tickets are good at this edge alone. */
  readonly ticketKeys?: Pick<TicketKeys, 'current' | 'onChange'>;
  readonly forwarder: EdgeForwarder;
  readonly handlers: {
    readonly apex: EdgeHandler;
    readonly api: EdgeHandler;
    /** What the gateway answers itself on port hosts, below `/_gitpod/`. Absent: nothing is found there. */
    readonly portPages?: PortPagesHandler;
    /** Absent: runner hosts are `not_found`. */
    readonly runner?: RunnerHandler;
    /** Absent: log hosts are `not_found`. */
    readonly logs?: LogsHandler;
    /** Absent: nothing is found at `tunnel.<domain>`. */
    readonly tunnel?: TunnelHandler;
  };
  readonly log: Logger;
  readonly clock: Clock;
  readonly limits: EdgeLimits;
  /** Who may say for whom they speak. Absent: nobody. */
  readonly proxies?: { readonly trusted: readonly string[]; readonly protocol: ProxyProtocol };
  /** Called once for each exchange, when nothing more of it will be sent. `status` is 499 when the client left before. */
  readonly onExchangeEnd: (exchange: Exchange | UpgradeExchange, status: number) => void;
  /** Called when the edge makes an exchange, before anything is done with it. */
  readonly onExchangeStart?: (exchange: Exchange | UpgradeExchange) => void;
  /** A connection or request was refused of which no exchange could be made. */
  readonly onRefused?: (code: GatewayErrorCode, clientAddress: string) => void;
}

export type EdgeLimits = Pick<
  GatewayLimits,
  | 'maxRequestHeaderBytes'
  | 'maxHeaderListBytes'
  | 'maxRequestHeaderFields'
  | 'headersTimeoutMs'
  | 'tlsHandshakeTimeoutMs'
  | 'keepAliveTimeoutMs'
  | 'sessionIdleTimeoutMs'
  | 'requestsInFlightPerConnection'
  | 'resetsPerConnection'
  | 'connectionsPerAddress'
  | 'connections'
>;

export interface EdgeStats {
  readonly connections: number;
  readonly handshakes: number;
  readonly requestsInFlight: number;
  readonly upgrades: number;
}

export interface Edge {
  /** Port 0 picks a free one. Rejects with the error of `listen` (EADDRINUSE, EACCES, …). */
  listenHttps(address: ListenAddress): Promise<ListenAddress>;
  /** Serves what a trusted proxy marks as https. Answers `/_health`, and redirects everything else to https. */
  listenHttp(address: ListenAddress): Promise<ListenAddress>;
  stats(): EdgeStats;
  /** Stops accepting, tells clients to go elsewhere with their next request, and lets what is in flight go on. */
  drain(): void;
  /**
   * Resolves when no exchange is in flight, and after `drain` no client may send another one either; rejects with the
   * signal's reason.
   */
  idle(options: { signal: AbortSignal }): Promise<void>;
  /** Ends everything at once. May be called twice. */
  close(): Promise<void>;
}

/** How long connections that wait for their acceptance are taken in a drain at most, ms: more may always come. */
const DRAIN_ACCEPT_MS = 1_000;
/** A turn of the event loop in which nothing else was done, ms: at 500 connections a second, one in ten meets it. */
const QUIET_TURN_MS = 0.2;

/** The transports of tunnels read their peer from the socket. */
const nameAfter = (socket: Socket, { address, port }: Peer): void => {
  Object.defineProperties(socket, { remoteAddress: { value: address }, remotePort: { value: port } });
};

export const createEdge = (deps: EdgeDeps): Edge => {
  const { clock, limits, log } = deps;
  const acceptors = new Set<Acceptor>();
  const ownPorts = new Set<number>();
  const idleWaiters = new Set<() => void>();
  let draining = false;
  let accepted = 0;
  /** No connection is accepted any more. */
  let isDeaf = false;
  let cancelHandshakes = (): void => {};
  let closed = false;

  const onRefused = (code: GatewayErrorCode, address: string): void => deps.onRefused?.(code, address);
  const counter = createConnectionCounter(limits, (address) => onRefused('too_many_requests', address));
  const proxies = createTrustedProxies(deps.proxies?.trusted ?? []);
  const arrivals = createArrivals(
    { ...deps, counter, proxies, onRefused },
    { proxyProtocol: deps.proxies?.protocol ?? 'off' },
  );
  const ports = { has: (port: number) => ownPorts.has(port) || deps.publicPorts().has(port) };
  const isIdle = (): boolean =>
    dispatcher.requestsInFlight + dispatcher.upgrades === 0 &&
    (!draining || (isDeaf && clients.open + counter.handshakes === 0));
  const wakeIfIdle = (): void => {
    if (isIdle()) for (const wake of [...idleWaiters]) wake();
  };
  const { tunnel: givenTunnel } = deps.handlers;
  const tunnel: TunnelHandler | undefined = givenTunnel && {
    ...givenTunnel,
    http2(socket, onRequest) {
      nameAfter(socket, counter.peerOf(socket));
      counter.handOver(socket);
      return givenTunnel.http2(socket, onRequest);
    },
    upgrade(request, socket, head) {
      nameAfter(request.socket, counter.peerOf(request.socket));
      counter.handOver(request.socket);
      givenTunnel.upgrade(request, socket, head);
    },
  };
  const dispatcher = createDispatcher({
    ...deps,
    handlers: { ...deps.handlers, ...(tunnel ? { tunnel } : {}) },
    ports,
    clientOf: proxies.clientOf,
    onExchangeEnd(exchange, status) {
      deps.onExchangeEnd(exchange, status);
      wakeIfIdle();
    },
  });
  const newRequestId = (): string => randomBytes(16).toString('hex');
  const http1 = createHttp1Server({ clock, dispatcher, newRequestId, onRefused }, limits);
  const http2 = createHttp2Server({ clock, dispatcher }, limits);
  const plain = createPlainServer({ ...deps, ports, peerOf: counter.peerOf, onRefused });

  const clients = createClientConnections({
    clock,
    limits,
    http1,
    http2,
    dispatcher,
    peerOf: counter.peerOf,
    onClosed: wakeIfIdle,
    tunnel: tunnel && { ...tunnel, names: new Set(deps.domains.map((domain) => `tunnel.${domain}`)) },
  });
  const tls = createTlsServer({
    log,
    limits,
    certificates: deps.certificates,
    ticketKeys: deps.ticketKeys,
    peerOf: counter.peerOf,
    onSecure(socket) {
      counter.handshakeDone(socket);
      if (closed) socket.destroy();
      else clients.serve(socket);
    },
  });

  /**
   * Connections that the system has accepted are taken first: a listener that ends resets them. One is taken in a turn of
   * the event loop, so a turn without any says that there was none when it began; the shorter it was, the less can have
   * come since.
   */
  const stopListening = (): void => {
    const end = clock.monotonic() + DRAIN_ACCEPT_MS;
    let seen = -1;
    let turnedAt = clock.monotonic();
    const turn = (): void => {
      if (closed) return;
      const now = clock.monotonic();
      const isQuiet = seen === accepted && now - turnedAt <= QUIET_TURN_MS;
      if (!isQuiet && now < end) {
        seen = accepted;
        turnedAt = now;
        setImmediate(turn);
        return;
      }
      for (const acceptor of acceptors) acceptor.close();
      isDeaf = true;
      wakeIfIdle();
    };
    setImmediate(turn);
  };

  const listen = async (
    address: ListenAddress,
    onConnection: (socket: Socket) => void,
    onListening: (bound: ListenAddress) => void,
  ): Promise<ListenAddress> => {
    const onAccepted = (socket: Socket): void => {
      accepted += 1;
      onConnection(socket);
    };
    const acceptor = await acceptConnections({ log, onConnection: onAccepted }, address);
    if (closed || isDeaf) acceptor.close();
    else acceptors.add(acceptor);
    onListening(acceptor.address);
    return acceptor.address;
  };

  return {
    listenHttps: (address) =>
      listen(
        address,
        (socket) => {
          arrivals.take(socket, { plain: false }, () => tls.accept(socket));
          socket.once('close', wakeIfIdle);
        },
        ({ port }) => ownPorts.add(port),
      ),
    listenHttp: (address) =>
      listen(
        address,
        (socket) => {
          arrivals.take(socket, { plain: true }, ({ isHttp2, isHttps }) => {
            if (closed) socket.destroy();
            else if (isHttps || counter.peerOf(socket).isProxy) clients.servePlain(socket, { isHttp2, isHttps });
            else plain.serve(socket);
          });
          socket.once('close', wakeIfIdle);
        },
        () => {},
      ),
    stats: () => ({
      connections: counter.connections,
      handshakes: counter.handshakes,
      requestsInFlight: dispatcher.requestsInFlight,
      upgrades: dispatcher.upgrades,
    }),
    drain() {
      if (draining) return;
      draining = true;
      clients.drain();
      stopListening();
      cancelHandshakes = clock.timer(DRAIN_FIRST_REQUEST_MS, () => counter.destroyHandshakes());
    },
    idle: ({ signal }) =>
      new Promise((resolve, reject) => {
        if (isIdle()) return resolve();
        if (signal.aborted) return reject(signal.reason as Error);
        const finish = (settle: () => void) => (): void => {
          idleWaiters.delete(wake);
          signal.removeEventListener('abort', onAbort);
          settle();
        };
        const wake = finish(resolve);
        const onAbort = finish(() => reject(signal.reason as Error));
        idleWaiters.add(wake);
        signal.addEventListener('abort', onAbort, { once: true });
      }),
    async close() {
      if (closed) return;
      closed = true;
      draining = true;
      cancelHandshakes();
      tls.close();
      for (const acceptor of acceptors) acceptor.close();
      acceptors.clear();
      http1.close();
      plain.close();
      counter.destroyAll();
    },
  };
};
