/** Registers handlers of exchanges as routes of a Fastify host. */
import type { FastifyInstance } from 'fastify';
import { RefusedError } from '../../../../shared/src/errors.ts';
import { failReply, type ExchangeOf } from '../../hosts/fastify-host.ts';
import type { Exchange } from '../../proxy/exchange.ts';

export interface Route {
  readonly method: 'GET' | 'POST';
  readonly url: string;
  readonly serve: (exchange: Exchange) => Promise<void>;
  /** A HEAD would use up what the GET behind it needs. */
  readonly once?: boolean;
}

export type RegisterRoutes = (app: FastifyInstance, exchangeOf: ExchangeOf) => void;

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

export const registerRoutes =
  (routes: readonly Route[]): RegisterRoutes =>
  (app, exchangeOf) => {
    for (const url of new Set(routes.map((route) => route.url))) {
      const own = routes.filter((route) => route.url === url);
      const routeOf = (method: string): Route | undefined =>
        own.find((route) => route.method === method || (method === 'HEAD' && route.method === 'GET' && !route.once));
      app.route({
        method: [...METHODS],
        url,
        // Before the body is looked at, whatever its type: no route of these has one.
        async onRequest(request, reply) {
          const exchange = exchangeOf(request);
          const route = routeOf(exchange.method);
          if (!route) return failReply(reply, exchange, 'method_not_allowed');
          reply.hijack();
          try {
            await route.serve(exchange);
          } catch (cause) {
            if (exchange.signal.aborted) return;
            exchange.fail(cause instanceof RefusedError ? 'directory_unavailable' : 'internal', { cause });
          }
        },
        handler() {},
      });
    }
  };
