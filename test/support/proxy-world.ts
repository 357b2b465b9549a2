/**
 * The request path without a cluster around it: a real edge, the forwarder, real legs in memory and the tunnel client's
 * real dialer. Routes are a table of the test; upstreams are servers on loopback.
 */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { connect as connectH2, type ClientHttp2Session } from 'node:http2';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import { createLogger } from '../../gateway/src/observability/log.ts';
import { createForwarder, type Forwarder } from '../../gateway/src/proxy/forwarder.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';
import { systemClock } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { environmentSchema, type Environment, type ExposedPort } from '../../shared/src/protocol/messages.ts';
import { createDialer, type Dialer } from '../../tunnel-client/src/dialer.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { listenOn, type Application } from './applications.ts';
import { memoryPair } from './connection-pairs.ts';
import { startEdge, type EndedExchange } from './edge.ts';
import { makeLegs, type LegPair } from './legs.ts';
import { createEveryoneGate } from './port-gate.ts';
import { readUntilClosed } from './sockets.ts';

export const DOMAIN = 'gateway.test';

export interface RunnerLeg extends LegPair {
  readonly dialer: Dialer;
}

export interface ProxyWorld {
  readonly port: number;
  readonly forwarder: Forwarder;
  readonly legs: RunnerLeg[];
  readonly environment: () => Environment;
  /** `3000--demo.gateway.test`. */
  host(port: number, options?: { tls?: boolean; environmentId?: string }): string;
  expose(port: number, options?: Partial<ExposedPort>): void;
  addLeg(): Promise<RunnerLeg>;
  /** What the next requests are routed by, instead of the legs that are there. */
  route: ((environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>) | undefined;
  /** The next exchange that ends, or has ended and was not asked for. */
  ended(): Promise<EndedExchange>;
  /** A TLS connection that speaks HTTP/1.1. */
  connect(servername: string): Promise<TLSSocket>;
  connectH2(host: string): Promise<ClientHttp2Session>;
  close(): Promise<void>;
}

export const createProxyWorld = async (
  options: { limits?: Partial<GatewayLimits>; legs?: number; legOptions?: Parameters<typeof makeLegs>[1] } = {},
): Promise<ProxyWorld> => {
  const limits: GatewayLimits = { ...GATEWAY_LIMITS, ...options.limits };
  const log = createLogger({ level: 'silent', destination: { write: () => undefined } });
  const ports: ExposedPort[] = [];
  const environment = (): Environment => ({ ...environmentSchema.parse({ id: 'demo' }), ports: [...ports] });
  const legs: RunnerLeg[] = [];
  let endsAskedFor = 0;
  const sessions = new Set<ClientHttp2Session>();
  const sockets = new Set<TLSSocket>();

  const addLeg = async (): Promise<RunnerLeg> => {
    const dialer = createDialer({
      clock: systemClock,
      log: silentLogger,
      resolver: createResolver({ clock: systemClock }),
      environment: (id) => (id === 'demo' ? environment() : undefined),
      ownPorts: () => [],
    });
    const pair = await makeLegs(memoryPair, {
      runnerHandlers: { onStream: (stream) => dialer.handle(stream) },
      ...options.legOptions,
    });
    const leg = { ...pair, dialer };
    legs.push(leg);
    return leg;
  };
  for (let count = 0; count < (options.legs ?? 1); count++) await addLeg();

  const route = (environmentId: string): EnvironmentRoute => {
    if (environmentId !== 'demo') return { kind: 'unknown' };
    const open: Leg[] = legs.map(({ gateway }) => gateway).filter((leg) => leg.isOpen);
    const known = { runnerId: 'runner-1', organization: undefined, environment: environment() };
    return open.length > 0 ? { kind: 'online', ...known, legs: open } : { kind: 'offline', ...known };
  };
  const anyRoute = (id: string): EnvironmentRoute | Promise<EnvironmentRoute> => (world.route ?? route)(id);
  const gate = createEveryoneGate({ route: anyRoute, log });
  const forwarder = createForwarder({ route: anyRoute, gate, log, limits });
  const edge = await startEdge({ domains: [DOMAIN], forwarder, limits, onEnd: (exchange) => gate.ended(exchange) });
  const { port } = edge;

  const world: ProxyWorld = {
    port,
    forwarder,
    legs,
    environment,
    route: undefined,
    host: (upstreamPort, { tls = false, environmentId = 'demo' } = {}) =>
      `${upstreamPort}${tls ? 's' : ''}--${environmentId}.${DOMAIN}`,
    expose: (upstreamPort, over = {}) =>
      void ports.push({
        port: upstreamPort,
        protocol: 'http',
        admission: 'everyone',
        hostHeader: 'preserve',
        ...over,
      }),
    addLeg,
    ended: () => edge.nextEnd(++endsAskedFor),
    async connect(servername) {
      const socket = connectTls({
        host: '127.0.0.1',
        port,
        servername,
        rejectUnauthorized: false,
        ALPNProtocols: ['http/1.1'],
        // Passed on to the TCP socket; not in Node's types for TLS.
        allowHalfOpen: true,
      } as ConnectionOptions);
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      await once(socket, 'secureConnect');
      return socket;
    },
    async connectH2(host) {
      const socket = connectTls({
        host: '127.0.0.1',
        port,
        servername: host,
        rejectUnauthorized: false,
        ALPNProtocols: ['h2'],
      });
      await once(socket, 'secureConnect');
      // Node's client refuses responses while more than 10 MB of a request wait to be sent.
      const session = connectH2(`https://${host}`, { createConnection: () => socket, maxSessionMemory: 256 });
      sessions.add(session);
      session.on('error', () => undefined);
      session.once('close', () => sessions.delete(session));
      return session;
    },
    async close() {
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
      await edge.close();
      await forwarder.close();
      for (const leg of legs) leg.dialer.abort();
      await Promise.all(legs.map((leg) => leg.close()));
    },
  };
  return world;
};

/** Reads heads of 1 MiB, and refuses expectations: they are for the gateway to answer. */
export const httpUpstream = (handler: RequestListener): Promise<Application<Server>> => {
  const server = createServer({ requireHostHeader: false, maxHeaderSize: 1 << 20 }, handler);
  server.on('checkContinue', (request, response) => {
    response.writeHead(417);
    response.end(`an expectation arrived: ${request.headers.expect}`);
  });
  return listenOn(server, '127.0.0.1');
};

export interface PlainResponse {
  readonly status: number;
  readonly statusText: string;
  /** Field lines in order, `name: value`. */
  readonly lines: readonly string[];
  readonly body: string;
}

/** Parses one response that lasts until the end of `text`. Chunked bodies are put together. */
export const parseResponse = (text: string): PlainResponse => {
  const end = text.indexOf('\r\n\r\n');
  const [statusLine = '', ...lines] = text.slice(0, end).split('\r\n');
  const [, status = '', statusText = ''] = /^HTTP\/1\.1 (\d+) ?(.*)$/.exec(statusLine) ?? [];
  let body = text.slice(end + 4);
  if (lines.some((line) => /^transfer-encoding: chunked$/i.test(line))) {
    let rest = body;
    body = '';
    for (;;) {
      const lineEnd = rest.indexOf('\r\n');
      const size = Number.parseInt(rest.slice(0, lineEnd), 16);
      if (!(size > 0)) break;
      body += rest.slice(lineEnd + 2, lineEnd + 2 + size);
      rest = rest.slice(lineEnd + 4 + size);
    }
  }
  return { status: Number(status), statusText, lines, body };
};

/** The values of a field. */
export const valuesOf = (response: PlainResponse, name: string): string[] =>
  response.lines
    .filter((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}:`))
    .map((line) => line.slice(name.length + 1).trim());

/** Sends the bytes of one request that ends with `Connection: close`, and reads the answer. */
export const exchangeBytes = async (world: ProxyWorld, host: string, request: string): Promise<PlainResponse> => {
  const socket = await world.connect(host);
  socket.write(request, 'latin1');
  const { text } = await readUntilClosed(socket);
  return parseResponse(text);
};

export const get = (world: ProxyWorld, port: number, path = '/', headers = ''): Promise<PlainResponse> =>
  exchangeBytes(
    world,
    world.host(port),
    `GET ${path} HTTP/1.1\r\nHost: ${world.host(port)}\r\nConnection: close\r\n${headers}\r\n`,
  );
