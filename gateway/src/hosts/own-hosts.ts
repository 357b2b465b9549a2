/**
 * The hosts that the gateway answers itself: the domain (landing page and sign-in) and `api.<domain>` (joining). Each is a Fastify
 * instance that never listens: the edge hands it the requests of its host.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import type { FastifyInstance } from 'fastify';
import { registerApi, type ApiDeps } from '../api/api.ts';
import type { Exchange } from '../proxy/exchange.ts';
import { createFastifyHost, type ExchangeOf } from './fastify-host.ts';

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

export interface OwnHostsDeps extends ApiDeps {
  /** Registers the routes of the apex. */
  readonly apexRoutes: (app: FastifyInstance, exchangeOf: ExchangeOf) => void;
}

export const createOwnHosts = async (deps: OwnHostsDeps): Promise<OwnHosts> => {
  const apex = createFastifyHost(deps.apexRoutes);
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
