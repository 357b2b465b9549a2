/** HTTP/2 on sockets that somebody else accepted. */
import {
  constants,
  createServer,
  type Http2ServerRequest,
  type Http2Server as NodeHttp2Server,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../shared/src/clock.ts';
import type { ClientConnection, Dispatcher } from './dispatch.ts';
import type { EdgeLimits } from './edge.ts';

/** Body of one upload that waits here while its upstream is slow; 10 MB/s at a round trip of 100 ms. */
const STREAM_WINDOW_BYTES = 1 << 20;
/** The same of a whole connection: 16 stalled uploads before others in it have to wait. */
const CONNECTION_WINDOW_BYTES = 16 << 20;
/** Frames on one connection that break the protocol, or resets that they force (CVE-2025-8671). Beyond: closed. */
export const MAX_VIOLATIONS = 10;
/**
 * Resets at once, and in a second from then on, on a connection of a trusted proxy, beyond which Node closes it (1,000 and
 * 33 otherwise): they are those of all of its clients, and a connection that is closed fails every one of them. What a
 * reset request costs the upstream is bounded by the slots.
 */
const PROXY_RESET_BURST = 100_000;
const PROXY_RESETS_PER_SECOND = 10_000;
/** nghttp2's own count of field lines, which answers with a bare reset; the guard's is lower and gives a reason. */
const MAX_HEADER_PAIRS_FACTOR = 4;

export interface Http2Server {
  /** Undefined when the socket was not usable any more. */
  serve(socket: Duplex, connection: ClientConnection): ServerHttp2Session | undefined;
}

export const createHttp2Server = (
  deps: { readonly clock: Clock; readonly dispatcher: Dispatcher },
  limits: Pick<
    EdgeLimits,
    'maxHeaderListBytes' | 'maxRequestHeaderFields' | 'requestsInFlightPerConnection' | 'headersTimeoutMs'
  >,
): Http2Server => {
  const connections = new WeakMap<ServerHttp2Session, ClientConnection>();
  const options = {
    settings: {
      maxConcurrentStreams: limits.requestsInFlightPerConnection,
      maxHeaderListSize: limits.maxHeaderListBytes,
      initialWindowSize: STREAM_WINDOW_BYTES,
      enableConnectProtocol: false,
    },
    maxHeaderListPairs: limits.maxRequestHeaderFields * MAX_HEADER_PAIRS_FACTOR,
    maxSessionInvalidFrames: MAX_VIOLATIONS,
    // Responses of applications are passed on as they are; which fields may stand twice is their affair.
    strictSingleValueFields: false,
  };
  const onRequest = (request: Http2ServerRequest, response: Http2ServerResponse): void => {
    const { session } = request.stream;
    const connection = session && connections.get(session as ServerHttp2Session);
    if (!connection) return request.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    deps.dispatcher.request(connection, request, response);
  };
  const listen = (server: NodeHttp2Server): NodeHttp2Server => {
    for (const event of ['request', 'checkContinue', 'checkExpectation', 'connect']) server.on(event, onRequest);
    // An error of a session ends that session; its requests learn of it by their streams.
    server.on('sessionError', () => {});
    return server;
  };
  const forClients = listen(createServer(options));
  const forProxies = listen(
    createServer({ ...options, streamResetBurst: PROXY_RESET_BURST, streamResetRate: PROXY_RESETS_PER_SECOND }),
  );

  return {
    serve(socket, connection) {
      const server = connection.isProxy ? forProxies : forClients;
      let made: ServerHttp2Session | undefined;
      const onSession = (session: ServerHttp2Session): void => {
        made = session;
        connections.set(session, connection);
      };
      server.once('session', onSession);
      server.emit('connection', socket);
      server.removeListener('session', onSession);
      if (!made || made.destroyed) return undefined;
      const session = made;
      session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
      const cancel = deps.clock.timer(limits.headersTimeoutMs, () => session.destroy());
      session.once('remoteSettings', cancel);
      session.once('close', cancel);
      return session;
    },
  };
};
