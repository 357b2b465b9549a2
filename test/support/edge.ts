/** A real edge on free ports of 127.0.0.1. What reaches its forwarder is recorded. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { pino } from 'pino';
import { loadCertificates } from '../../gateway/src/edge/certificates.ts';
import {
  createEdge,
  type Edge,
  type EdgeDeps,
  type EdgeForwarder,
  type PortTarget,
} from '../../gateway/src/edge/edge.ts';
import type { GatewayErrorCode } from '../../gateway/src/errors.ts';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import type { Exchange, UpgradeExchange } from '../../gateway/src/proxy/exchange.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';

export interface EndedExchange {
  readonly exchange: Exchange | UpgradeExchange;
  readonly status: number;
}

export interface EdgeUnderTest {
  readonly edge: Edge;
  readonly port: number;
  readonly plainPort: number;
  readonly ca: string;
  readonly domains: readonly string[];
  /** Every request and upgrade that reached the forwarder. */
  readonly forwarded: { readonly exchange: Exchange | UpgradeExchange; readonly target: PortTarget }[];
  readonly ended: EndedExchange[];
  readonly refused: { readonly code: GatewayErrorCode; readonly address: string }[];
  /** Resolves with what the `count`th ended exchange was. */
  nextEnd(count: number): Promise<EndedExchange>;
  /** A TLS connection to the https listener, handshake done. */
  connect(options?: ConnectionOptions): Promise<TLSSocket>;
  close(): Promise<void>;
}

export interface EdgeTestOptions {
  readonly domains?: readonly string[];
  readonly limits?: Partial<GatewayLimits>;
  readonly clock?: Clock;
  readonly forwarder?: Partial<EdgeForwarder>;
  readonly handlers?: EdgeDeps['handlers'];
  readonly publicPorts?: readonly number[];
  readonly proxies?: EdgeDeps['proxies'];
  readonly log?: EdgeDeps['log'];
  readonly onEnd?: EdgeDeps['onExchangeEnd'];
}

/** Reads the body and answers 200 with what the forwarder was given. */
const answerEcho = (exchange: Exchange, target: PortTarget): void => {
  const response = exchange.response as import('node:http').ServerResponse;
  let bytes = 0;
  exchange.request.on('data', (chunk: Buffer) => (bytes += chunk.length));
  exchange.request.on('end', () => {
    const { method, target: path, rawHeaders, host, authority, authorityPort, clientAddress } = exchange;
    response.setHeader('content-type', 'application/json');
    response.end(
      JSON.stringify({ method, path, rawHeaders, host, authority, authorityPort, clientAddress, target, bytes }),
    );
  });
};

export const startEdge = async (options: EdgeTestOptions = {}): Promise<EdgeUnderTest> => {
  const domains = options.domains ?? ['gateway.localhost'];
  const clock = options.clock ?? systemClock;
  const stateDir = await mkdtemp(join(tmpdir(), 'edge-'));
  const certificates = await loadCertificates({ clock: systemClock }, { tls: [], stateDir, domains });
  const ca = await readFile(join(stateDir, 'self-signed/certificate.pem'), 'utf8');
  const forwarded: EdgeUnderTest['forwarded'] = [];
  const ended: EndedExchange[] = [];
  const refused: EdgeUnderTest['refused'] = [];
  const waiters = new Set<() => void>();
  const notFound: EdgeDeps['handlers']['apex'] = (_request, _response, exchange) => exchange.fail('not_found');
  const edge = createEdge({
    domains,
    certificates,
    clock,
    log: options.log ?? pino({ level: 'silent' }),
    limits: { ...GATEWAY_LIMITS, ...options.limits },
    ...(options.proxies ? { proxies: options.proxies } : {}),
    publicPorts: () => new Set(options.publicPorts ?? [443]),
    publicPort: () => 443,
    handlers: options.handlers ?? { apex: notFound, api: notFound },
    forwarder: {
      request(exchange, target) {
        forwarded.push({ exchange, target });
        (options.forwarder?.request ?? answerEcho)(exchange, target);
      },
      upgrade(exchange, target) {
        forwarded.push({ exchange, target });
        if (options.forwarder?.upgrade) options.forwarder.upgrade(exchange, target);
        else exchange.fail('port_not_exposed');
      },
    },
    onExchangeEnd(exchange, status) {
      options.onEnd?.(exchange, status);
      ended.push({ exchange, status });
      for (const wake of waiters) wake();
    },
    onRefused: (code, address) => refused.push({ code, address }),
  });
  const { port } = await edge.listenHttps({ host: '127.0.0.1', port: 0 });
  const plain = await edge.listenHttp({ host: '127.0.0.1', port: 0 });
  return {
    edge,
    port,
    plainPort: plain.port,
    ca,
    domains,
    forwarded,
    ended,
    refused,
    nextEnd: (count) =>
      new Promise((resolve) => {
        const look = (): void => {
          const found = ended[count - 1];
          if (!found) return;
          waiters.delete(look);
          resolve(found);
        };
        waiters.add(look);
        look();
      }),
    connect: (connectOptions = {}) =>
      new Promise((resolve, reject) => {
        const socket = connectTls(
          { host: '127.0.0.1', port, ca, servername: `3000--demo.${domains[0]}`, ...connectOptions },
          () => resolve(socket),
        );
        socket.once('error', reject);
      }),
    async close() {
      await edge.close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
};

/** Everything a socket gives until its end. */
export const readAll = async (socket: Socket): Promise<string> => {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
    socket.once('error', () => resolve());
  });
  return Buffer.concat(chunks).toString('latin1');
};

/** Sends bytes on a new connection and reads until the server closes it. */
export const exchangeRaw = async (edge: EdgeUnderTest, bytes: string, options?: ConnectionOptions): Promise<string> => {
  const socket = await edge.connect({ ALPNProtocols: ['http/1.1'], ...options });
  const answer = readAll(socket);
  socket.write(Buffer.from(bytes, 'latin1'));
  return answer;
};
