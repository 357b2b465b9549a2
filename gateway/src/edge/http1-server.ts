/** HTTP/1.1 on sockets that somebody else accepted. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayErrorCode } from '../errors.ts';
import { isHttps, type ClientConnection, type Dispatcher } from './dispatch.ts';
import type { EdgeLimits } from './edge.ts';
import { buildErrorAnswer } from './error-answer.ts';
import { endGently, serializeAnswer } from './raw-answer.ts';
import { isWebSocketHead } from './request-guard.ts';

/** How often slow heads are looked for: what {@link EdgeLimits.headersTimeoutMs} is exceeded by at most. */
const TIMEOUT_CHECK_INTERVAL_MS = 1_000;
/** A request line with a method that the parser does not know. */
const UNKNOWN_METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP\/1\.[01]\r?\n/;

export interface Http1Server {
  serve(socket: Duplex, connection: ClientConnection): void;
  close(): void;
}

interface ParserError extends Error {
  readonly code?: string;
  readonly rawPacket?: Buffer;
}

/** What a parser's error is called here; undefined: the connection is just gone. */
const codeOf = (error: ParserError): GatewayErrorCode | undefined => {
  const { code = '' } = error;
  if (code === 'HPE_HEADER_OVERFLOW') return 'headers_too_large';
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return 'request_timeout';
  if (code === 'HPE_INVALID_METHOD' && UNKNOWN_METHOD.test(error.rawPacket?.toString('latin1', 0, 2_048) ?? '')) {
    return 'method_not_supported';
  }
  return code.startsWith('HPE_') ? 'bad_request' : undefined;
};

export const createHttp1Server = (
  deps: {
    readonly clock: Clock;
    readonly dispatcher: Dispatcher;
    readonly newRequestId: () => string;
    readonly onRefused: (code: GatewayErrorCode, clientAddress: string) => void;
  },
  limits: Pick<EdgeLimits, 'maxRequestHeaderBytes' | 'headersTimeoutMs' | 'keepAliveTimeoutMs'>,
): Http1Server => {
  const connections = new WeakMap<Duplex, ClientConnection>();
  const broken = new WeakSet<Duplex>();
  const server = createServer({
    maxHeaderSize: limits.maxRequestHeaderBytes,
    headersTimeout: limits.headersTimeoutMs,
    // Bodies may take as long as they like; the forwarder sees to those that stop.
    requestTimeout: 0,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: TIMEOUT_CHECK_INTERVAL_MS,
    // The guard answers those as everything else, also for HTTP/1.0.
    requireHostHeader: false,
    shouldUpgradeCallback: (request) => {
      const connection = connections.get(request.socket);
      return connection !== undefined && isWebSocketHead(headOf(request)) && isHttps(connection, request.rawHeaders);
    },
  });
  // Node drops the fields above its count without a word; the guard counts itself, and the bytes are limited anyway.
  server.maxHeadersCount = 0;

  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    const connection = connections.get(request.socket);
    if (!connection) return void request.socket.destroy();
    deps.dispatcher.request(connection, request, response);
  };
  const onUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    const connection = connections.get(request.socket);
    if (!connection) return void socket.destroy();
    // From here on each direction ends by itself. (Settable until 'end' was emitted.)
    socket.allowHalfOpen = true;
    deps.dispatcher.upgrade(connection, request, socket, head);
  };
  server.on('request', onRequest);
  server.on('checkContinue', onRequest);
  server.on('checkExpectation', onRequest);
  server.on('upgrade', onUpgrade);
  server.on('connect', onUpgrade);
  server.on('clientError', (error: ParserError, socket) => {
    // The parser says it again for each piece that still comes.
    if (broken.has(socket)) return;
    broken.add(socket);
    const connection = connections.get(socket);
    const code = codeOf(error);
    if (!connection || code === undefined) return void socket.destroy();
    connection.closing = true;
    const { first } = connection.exchanges;
    if (first) {
      const { exchange } = first;
      // The fault is in the body of the request that is being served, or in one behind it, which gets no answer.
      if (connection.exchanges.size === 1 && !exchange.request.complete) return first.refuse(code);
      if ('response' in exchange && 'shouldKeepAlive' in exchange.response) exchange.response.shouldKeepAlive = false;
      return;
    }
    deps.onRefused(code, connection.clientAddress);
    const answer = buildErrorAnswer({
      code,
      requestId: deps.newRequestId(),
      host: '',
      method: 'GET',
      rawHeaders: ['Accept', 'text/plain', 'User-Agent', 'curl/0'],
      now: deps.clock.now(),
    });
    endGently(socket, serializeAnswer(answer, 'GET'), deps.clock);
  });
  // A server that does not listen checks no timeouts until it is told that it does.
  server.emit('listening');

  return {
    serve(socket, connection) {
      connections.set(socket, connection);
      server.emit('connection', socket);
    },
    close() {
      // Ends the checks; that it was not listening is no news.
      server.close(() => {});
      server.closeAllConnections();
    },
  };
};

const headOf = (request: IncomingMessage) => ({
  httpVersion: request.httpVersion,
  method: request.method ?? '',
  rawHeaders: request.rawHeaders,
});
