/** Tunnels over TCP: what the edge's HTTPS listeners get for `tunnel.<domain>` becomes connections for the acceptor. */
import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse, ServerHttp2Session } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { delay, type Clock } from '../../../shared/src/clock.ts';
import type { Connection } from '../../../shared/src/transport/connection.ts';
import { acceptWebSockets } from '../../../shared/src/transport/websocket.ts';
import { WEBSOCKET_PATH } from '../../../shared/src/transport/websocket-limits.ts';
import { acceptWebTransport } from '../../../shared/src/transport/webtransport.ts';
import type { GatewayLimits } from '../limits.ts';

export interface TcpTunnels {
  /** Path of the WebSocket upgrade. */
  readonly upgradePath: string;
  /** An HTTP/2 connection for the tunnel's name. Requests that are not for the tunnel are handed back. */
  http2(
    socket: TLSSocket,
    onRequest: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
  ): ServerHttp2Session | undefined;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Ends every connection. Resolves when the sockets are gone. */
  close(): Promise<void>;
}

/** How long sockets may take to end when the gateway closes, ms: legs have said goodbye before. Then they are cut. */
const CLOSE_MS = 250;

/** Rejects with TransportError when the WebTransport library cannot be loaded. */
export const createTcpTunnels = async (
  deps: { readonly clock: Clock; readonly onConnection: (connection: Connection) => void },
  options: { readonly domains: readonly string[]; readonly limits: Pick<GatewayLimits, 'helloTimeoutMs'> },
): Promise<TcpTunnels> => {
  const { clock, onConnection } = deps;
  const limits = { handshakeTimeoutMs: options.limits.helloTimeoutMs };
  const names = options.domains.map((domain) => `tunnel.${domain}`);
  const webTransport = await acceptWebTransport({ names, onConnection, limits });
  const webSockets = acceptWebSockets({ onConnection, limits });
  const sockets = new Set<Duplex>();
  const keep = (socket: Duplex): void => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  };

  return {
    upgradePath: WEBSOCKET_PATH,
    http2: (socket, onRequest) => {
      keep(socket);
      return webTransport.handle(socket, onRequest);
    },
    upgrade: (request, socket, head) => {
      keep(socket);
      webSockets.handle(request, socket, head);
    },
    close: async () => {
      webTransport.close();
      webSockets.close();
      const gone = Promise.all([...sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve))));
      await Promise.race([gone, delay(clock, CLOSE_MS, new AbortController().signal)]);
      for (const socket of sockets) socket.destroy();
    },
  };
};
