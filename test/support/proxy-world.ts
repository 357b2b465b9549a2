/**
 * The request path without a cluster around it: a real edge, the forwarder, real legs in memory and the tunnel client's
 * real dialer. Routes are a table of the test; upstreams are servers on loopback.
 */
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener, type Server as HttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect as connectH2, type ClientHttp2Session } from 'node:http2';
import { createServer as createNetServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { createEdge } from '../../gateway/src/edge/edge.ts';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import { createLogger } from '../../gateway/src/observability/log.ts';
import type { Exchange, UpgradeExchange } from '../../gateway/src/proxy/exchange.ts';
import { createForwarder, type Forwarder } from '../../gateway/src/proxy/forwarder.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';
import { systemClock } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { environmentSchema, type Environment, type ExposedPort } from '../../shared/src/protocol/messages.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createDialer, type Dialer } from '../../tunnel-client/src/dialer.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { makeLegs, type LegPair, type MakePair } from './legs.ts';
import { createEveryoneGate } from './port-gate.ts';

export const DOMAIN = 'gateway.test';

const memoryPair: MakePair = (keys) => {
  const pair = memoryConnectionPair({ diallerKey: keys.dialler.publicKey, acceptorKey: keys.acceptor.publicKey });
  return Promise.resolve({
    ...pair,
    async close() {
      pair.dialler.close();
      pair.acceptor.close();
      await Promise.all([pair.dialler.closed, pair.acceptor.closed]);
    },
  });
};

export interface RunnerLeg extends LegPair {
  readonly dialer: Dialer;
}

export interface EndedExchange {
  readonly exchange: Exchange | UpgradeExchange;
  readonly status: number;
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
  const endedQueue: EndedExchange[] = [];
  const endedWaiters: ((ended: EndedExchange) => void)[] = [];
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
  const now = Date.now();
  const { certificate, key } = await makeSelfSignedCertificate({
    names: [`*.${DOMAIN}`],
    notBefore: now - 60_000,
    notAfter: now + 3_600_000,
  });
  const context = createSecureContext({ cert: certificate, key });
  const edge = createEdge({
    domains: [DOMAIN],
    publicPorts: () => new Set([443]),
    publicPort: () => 443,
    certificates: {
      contextFor: () => context,
      fallback: { cert: certificate, key },
      certificates: [],
      warnings: [],
    },
    forwarder,
    handlers: {
      apex: (_request, _response, exchange) => exchange.fail('not_found'),
      api: (_request, _response, exchange) => exchange.fail('not_found'),
    },
    log,
    clock: systemClock,
    limits,
    onExchangeEnd(exchange, status) {
      gate.ended(exchange);
      const waiter = endedWaiters.shift();
      if (waiter) waiter({ exchange, status });
      else endedQueue.push({ exchange, status });
    },
  });
  const { port } = await edge.listenHttps({ host: '127.0.0.1', port: 0 });

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
    ended: () =>
      new Promise((resolve) => {
        const ended = endedQueue.shift();
        if (ended) resolve(ended);
        else endedWaiters.push(resolve);
      }),
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

export interface Upstream<T extends Server> {
  readonly port: number;
  readonly server: T;
  /** Connections that were made to it so far. */
  readonly connections: number;
  close(): Promise<void>;
}

const listen = async <T extends Server>(server: T): Promise<Upstream<T>> => {
  let connections = 0;
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    server,
    get connections() {
      return connections;
    },
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      if (server.listening) await once(server, 'close');
    },
  };
};

export const httpUpstream = (handler: RequestListener): Promise<Upstream<HttpServer>> => {
  const server = createHttpServer({ requireHostHeader: false, maxHeaderSize: 1 << 20 }, handler);
  server.on('checkContinue', (request, response) => {
    response.writeHead(417);
    response.end(`an expectation arrived: ${request.headers.expect}`);
  });
  return listen(server);
};
export const httpsUpstream = async (handler: RequestListener): Promise<Upstream<HttpServer>> => {
  const now = Date.now();
  const pair = await makeSelfSignedCertificate({
    names: ['upstream'],
    notBefore: now - 60_000,
    notAfter: now + 3_600_000,
  });
  return listen(createHttpsServer({ cert: pair.certificate, key: pair.key }, handler) as HttpServer);
};
export const rawUpstream = (onSocket: (socket: Socket) => void): Promise<Upstream<Server>> =>
  listen(createNetServer({ allowHalfOpen: true }, onSocket));

/** Answers each request that has come in whole (no body) with the same bytes, and keeps what came. */
export const cannedUpstream = async (
  answer: string | Buffer | ((socket: Socket) => void),
): Promise<Upstream<Server> & { readonly received: () => string }> => {
  let received = '';
  const upstream = await rawUpstream((socket) => {
    let pending = '';
    socket.on('data', (chunk) => {
      const text = chunk.toString('latin1');
      received += text;
      pending += text;
      while (pending.includes('\r\n\r\n')) {
        pending = pending.slice(pending.indexOf('\r\n\r\n') + 4);
        if (typeof answer === 'function') answer(socket);
        else socket.write(answer);
      }
    });
    socket.on('end', () => socket.end());
  });
  return Object.assign(upstream, { received: () => received });
};

/** Reads from `socket` until `text` has come; gives everything so far. */
export const readUntil = (socket: Socket, text: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let all = '';
    const stop = (): void => void socket.off('data', onData).off('close', onClose);
    const onData = (chunk: Buffer): void => {
      all += chunk.toString('latin1');
      if (!all.includes(text)) return;
      stop();
      socket.pause();
      resolve(all);
    };
    const onClose = (): void => {
      stop();
      reject(new Error(`the connection was closed after ${JSON.stringify(all)}`));
    };
    socket.on('data', onData).on('close', onClose);
    socket.resume();
  });

/** Everything until the connection is closed; `cut` when it ended without a TLS close or FIN. */
export const readToEnd = (socket: Socket): Promise<{ text: string; cut: boolean }> =>
  new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let ended = false;
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.once('end', () => {
      ended = true;
      socket.end();
    });
    socket.on('error', () => undefined);
    socket.once('close', () => resolve({ text: Buffer.concat(chunks).toString('latin1'), cut: !ended }));
    socket.resume();
  });

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
  const { text } = await readToEnd(socket);
  return parseResponse(text);
};

export const get = (world: ProxyWorld, port: number, path = '/', headers = ''): Promise<PlainResponse> =>
  exchangeBytes(
    world,
    world.host(port),
    `GET ${path} HTTP/1.1\r\nHost: ${world.host(port)}\r\nConnection: close\r\n${headers}\r\n`,
  );
