/**
 * The hosts that the gateway answers itself: the domain (a landing page) and `api.<domain>` (joining). Each is a Fastify
 * instance that never listens: the edge hands it the requests of its host.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { registerApi, type ApiDeps } from '../api/api.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { Exchange } from '../proxy/exchange.ts';
import { landingPage, LANDING_PAGE_POLICY } from './landing-page.ts';

export type HostHandler = (
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
  exchange: Exchange,
) => void;

export interface OwnHosts {
  readonly apex: HostHandler;
  readonly api: HostHandler;
  close(): Promise<void>;
}

type ExchangeOf = (request: FastifyRequest) => Exchange;

/** Fastify behind the edge: it learns the exchange of each request, and leaves errors to the edge's error pages. */
const createHost = (register: (app: FastifyInstance, exchangeOf: ExchangeOf) => void) => {
  const exchanges = new WeakMap<object, Exchange>();
  const exchangeOf: ExchangeOf = (request) => {
    const exchange = exchanges.get(request.raw);
    if (!exchange) throw new Error('the request did not come through the edge');
    return exchange;
  };
  const app = Fastify({ genReqId: (raw) => exchanges.get(raw)?.requestId ?? '' });
  const fail = (request: FastifyRequest, reply: FastifyReply, code: GatewayErrorCode, cause?: unknown): void => {
    reply.hijack();
    exchangeOf(request).fail(code, { cause });
  };
  app.setNotFoundHandler((request, reply) => fail(request, reply, 'not_found'));
  app.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
    const isClients = error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500;
    fail(request, reply, isClients ? 'bad_request' : 'internal', error);
  });
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', exchangeOf(request).requestId);
  });
  register(app, exchangeOf);
  const handler: HostHandler = (request, response, exchange) => {
    exchanges.set(request, exchange);
    // Fastify's types know the HTTP/1 classes only; node:http2's are compatible as far as it uses them.
    app.routing(request as IncomingMessage, response as ServerResponse);
  };
  return { app, handler };
};

export const createOwnHosts = async (deps: ApiDeps): Promise<OwnHosts> => {
  const apex = createHost((app, exchangeOf) => {
    app.get('/', (request, reply) => {
      void reply
        .type('text/html; charset=utf-8')
        .header('content-security-policy', LANDING_PAGE_POLICY)
        .header('x-content-type-options', 'nosniff')
        .header('cache-control', 'no-store')
        .send(landingPage(exchangeOf(request).host));
    });
    app.route({
      method: ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
      url: '/',
      // Before the body is looked at, whatever its type.
      async onRequest(request, reply) {
        reply.hijack();
        exchangeOf(request).fail('method_not_allowed');
      },
      handler() {},
    });
  });
  const api = createHost((app, exchangeOf) =>
    registerApi(app, { ...deps, clientAddress: (request) => exchangeOf(request).clientAddress }),
  );
  await Promise.all([apex.app.ready(), api.app.ready()]);
  return {
    apex: apex.handler,
    api: api.handler,
    async close() {
      await Promise.all([apex.app.close(), api.app.close()]);
    },
  };
};
