/** Tunnel connections over real TLS sockets on 127.0.0.1, as gateway and tunnel client make them. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';
import {
  connect as connectTls,
  createServer as createTlsServer,
  type ConnectionOptions,
  type TLSSocket,
} from 'node:tls';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { createQueue } from '../../shared/src/transport/queue.ts';
import { acceptWebSockets, dialWebSocket } from '../../shared/src/transport/websocket.ts';
import type { WebSocketLimits } from '../../shared/src/transport/websocket-limits.ts';
import { acceptWebTransport, dialWebTransport } from '../../shared/src/transport/webtransport.ts';
import type { WebTransportLimits } from '../../shared/src/transport/webtransport-limits.ts';
import { makeTestCertificate } from './certificate.ts';

export const TUNNEL_NAME = 'tunnel.gateway.localhost';
const never = new AbortController().signal;

export interface TlsEnds {
  readonly port: number;
  /** The certificate, which signs itself. */
  readonly ca: string;
  readonly authority: string;
  /** A TLS connection, handshake done. */
  connect(options?: ConnectionOptions): Promise<TLSSocket>;
  close(): Promise<void>;
}

/** A TLS listener for {@link TUNNEL_NAME}, TLS as the gateway's. */
export const createTlsEnds = async (onSocket: (socket: TLSSocket) => void): Promise<TlsEnds> => {
  const { certificate, key } = await makeTestCertificate(TUNNEL_NAME);
  const sockets = new Set<Socket>();
  const server = createTlsServer({ cert: certificate, key, ALPNProtocols: ['h2', 'http/1.1'] }, (socket) => {
    socket.on('error', () => {});
    onSocket(socket);
  });
  // As in the gateway, TLS begins on sockets that another server has accepted.
  const listener = createTcpServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    server.emit('connection', socket);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  return {
    port,
    ca: certificate,
    authority: `${TUNNEL_NAME}:${port}`,
    connect: async (options = {}) => {
      const socket = connectTls({
        host: '127.0.0.1',
        port,
        servername: TUNNEL_NAME,
        ca: certificate,
        ALPNProtocols: ['h2'],
        ...options,
      });
      socket.on('error', () => {});
      socket.setNoDelay(true);
      await once(socket, 'secureConnect');
      return socket;
    },
    close: async () => {
      listener.close();
      for (const socket of sockets) socket.destroy();
      await once(listener, 'close');
    },
  };
};

export interface TunnelEnds {
  readonly tls: TlsEnds;
  nextConnection(): Promise<Connection>;
  connect(socket?: Promise<TLSSocket>): Promise<{ readonly dialler: Connection; readonly acceptor: Connection }>;
  close(): Promise<void>;
}

export const createWebTransportEnds = async (
  options: { readonly limits?: Partial<WebTransportLimits> } = {},
): Promise<TunnelEnds> => {
  const arrived = createQueue<Connection>();
  const acceptor = await acceptWebTransport({
    names: [TUNNEL_NAME],
    onConnection: (connection) => arrived.put(connection),
    ...options,
  });
  const tls = await createTlsEnds((socket) => void acceptor.handle(socket));
  return {
    tls,
    nextConnection: () => arrived.next(never),
    connect: async (socket = tls.connect()) => {
      const [dialler, accepted] = await Promise.all([
        dialWebTransport({ connect: () => socket, authority: tls.authority, ...options }, { signal: never }),
        arrived.next(never),
      ]);
      return { dialler, acceptor: accepted };
    },
    close: async () => {
      acceptor.close();
      await tls.close();
    },
  };
};

export const createWebSocketEnds = async (
  options: { readonly limits?: Partial<WebSocketLimits> } = {},
): Promise<TunnelEnds> => {
  const arrived = createQueue<Connection>();
  const acceptor = acceptWebSockets({ onConnection: (connection) => arrived.put(connection), ...options });
  const http = createHttpServer((_request, response) => response.writeHead(404).end());
  http.on('upgrade', (request, socket, head) => acceptor.handle(request, socket, head));
  const tls = await createTlsEnds((socket) => http.emit('connection', socket));
  return {
    tls,
    nextConnection: () => arrived.next(never),
    connect: async (socket = tls.connect({ ALPNProtocols: ['http/1.1'] })) => {
      const [dialler, accepted] = await Promise.all([
        dialWebSocket({ connect: () => socket, authority: tls.authority, ...options }, { signal: never }),
        arrived.next(never),
      ]);
      return { dialler, acceptor: accepted };
    },
    close: async () => {
      acceptor.close();
      await tls.close();
    },
  };
};
