/** A Fastify instance that never listens: the edge hands it the requests of one kind of host. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { GatewayErrorCode } from '../errors.ts';
import type { Exchange } from '../proxy/exchange.ts';

export type ExchangeOf = (request: FastifyRequest) => Exchange;

export interface FastifyHost {
  readonly app: FastifyInstance;
  serve(exchange: Exchange): void;
}

export interface FastifyHostOptions {
  /** What the client is told of an error that a handler or Fastify itself threw. */
  readonly errorCode?: (error: Error & { readonly statusCode?: number; readonly code?: string }) => GatewayErrorCode;
}

const defaultErrorCode = ({ statusCode }: Error & { readonly statusCode?: number }): GatewayErrorCode =>
  statusCode !== undefined && statusCode >= 400 && statusCode < 500 ? 'bad_request' : 'internal';

/** Leaves the request to `exchange.fail`: the edge has the error pages. */
export const failReply = (reply: FastifyReply, exchange: Exchange, code: GatewayErrorCode, cause?: unknown): void => {
  reply.hijack();
  exchange.fail(code, { cause });
};

export const createFastifyHost = (
  register: (app: FastifyInstance, exchangeOf: ExchangeOf) => void,
  { errorCode = defaultErrorCode }: FastifyHostOptions = {},
): FastifyHost => {
  const exchanges = new WeakMap<object, Exchange>();
  const exchangeOf: ExchangeOf = (request) => {
    const exchange = exchanges.get(request.raw);
    if (!exchange) throw new Error('the request did not come through the edge');
    return exchange;
  };
  const app = Fastify({ genReqId: (raw) => exchanges.get(raw)?.requestId ?? '' });
  app.setNotFoundHandler((request, reply) => failReply(reply, exchangeOf(request), 'not_found'));
  app.setErrorHandler((error: Error, request, reply) => failReply(reply, exchangeOf(request), errorCode(error), error));
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', exchangeOf(request).requestId);
  });
  register(app, exchangeOf);
  return {
    app,
    serve(exchange) {
      exchanges.set(exchange.request, exchange);
      // Fastify's types know the HTTP/1 classes only; node:http2's are compatible as far as it uses them.
      app.routing(exchange.request as IncomingMessage, exchange.response as ServerResponse);
    },
  };
};
