/**
 * The hosts that the gateway answers itself: the domain (a landing page) and `api.<domain>` (joining). Each is a Fastify
 * instance that never listens: the edge hands it the requests of its host.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { registerApi, type ApiDeps } from '../api/api.ts';
import type { Exchange } from '../proxy/exchange.ts';
import { createFastifyHost, failReply } from './fastify-host.ts';
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

export const createOwnHosts = async (deps: ApiDeps): Promise<OwnHosts> => {
  const apex = createFastifyHost((app, exchangeOf) => {
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
        failReply(reply, exchangeOf(request), 'method_not_allowed');
      },
      handler() {},
    });
  });
  const api = createFastifyHost((app, exchangeOf) =>
    registerApi(app, { ...deps, clientAddress: (request) => exchangeOf(request).clientAddress }),
  );
  await Promise.all([apex.app.ready(), api.app.ready()]);
  return {
    apex: (_request, _response, exchange) => apex.serve(exchange),
    api: (_request, _response, exchange) => api.serve(exchange),
    async close() {
      await Promise.all([apex.app.close(), api.app.close()]);
    },
  };
};
