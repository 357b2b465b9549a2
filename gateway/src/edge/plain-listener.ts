/** The plain HTTP listener for whom no trusted proxy speaks: health checks, and the way to https for everything else. */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { Peer } from './connections.ts';
import type { EdgeDeps } from './edge.ts';
import { buildErrorAnswer } from './error-answer.ts';
import { parseAuthority, routeAuthority } from './host-router.ts';
import { guardRequest } from './request-guard.ts';
import { answerHealth, isHealthCheck, redirectToHttps } from './short-answers.ts';

/** An idle connection: nobody has a second request for a redirect. */
const KEEP_ALIVE_MS = 5_000;
const TIMEOUT_CHECK_INTERVAL_MS = 1_000;

type PlainDeps = Pick<EdgeDeps, 'domains' | 'publicPort' | 'limits'> & {
  readonly clock: Clock;
  readonly ports: Pick<ReadonlySet<number>, 'has'>;
  readonly peerOf: (socket: Socket) => Peer;
  readonly onRefused: (code: GatewayErrorCode, clientAddress: string) => void;
};

export interface PlainServer {
  serve(socket: Socket): void;
  close(): void;
}

export const createPlainServer = (deps: PlainDeps): PlainServer => {
  const { limits } = deps;
  const server = createServer({
    maxHeaderSize: limits.maxRequestHeaderBytes,
    headersTimeout: limits.headersTimeoutMs,
    // Nothing here reads a body.
    requestTimeout: limits.headersTimeoutMs,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connectionsCheckingInterval: TIMEOUT_CHECK_INTERVAL_MS,
    requireHostHeader: false,
    shouldUpgradeCallback: () => false,
  });
  server.maxHeadersCount = 0;

  const fail = (request: IncomingMessage, response: ServerResponse, code: GatewayErrorCode): void => {
    deps.onRefused(code, deps.peerOf(request.socket).address);
    const answer = buildErrorAnswer({
      code,
      requestId: randomBytes(16).toString('hex'),
      host: parseAuthority(request.headers.host ?? '')?.host ?? '',
      method: request.method ?? '',
      rawHeaders: request.rawHeaders,
      now: deps.clock.now(),
    });
    response.shouldKeepAlive = false;
    response.writeHead(answer.status, answer.headers.flat());
    response.end(request.method === 'HEAD' ? undefined : answer.body);
  };

  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    const { httpVersion, rawHeaders, method = '', url = '' } = request;
    const guarded = guardRequest({
      httpVersion,
      isHttp2: false,
      method,
      target: url,
      rawHeaders,
      scheme: 'http',
      maxFields: limits.maxRequestHeaderFields,
    });
    if (!guarded.ok) return fail(request, response, guarded.code);
    // Whatever name a health check was told to use.
    if (isHealthCheck(guarded.target)) {
      return answerHealth({ method, response, fail: (code) => fail(request, response, code) });
    }
    const route = routeAuthority(guarded.host, {
      domains: deps.domains,
      ports: { has: (port) => port === request.socket.localPort || deps.ports.has(port) },
    });
    if (route.kind === 'error') return fail(request, response, route.code);
    if (route.kind === 'address') return fail(request, response, 'misdirected');
    redirectToHttps(response, guarded, deps.publicPort());
  };
  server.on('request', onRequest);
  server.on('checkContinue', onRequest);
  server.on('checkExpectation', onRequest);
  server.emit('listening');

  return {
    serve: (socket) => void server.emit('connection', socket),
    close() {
      server.close(() => {});
      server.closeAllConnections();
    },
  };
};
