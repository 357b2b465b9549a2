/** Accepts TCP connections, and keeps count: in all, per client, and those still in their TLS handshake. */
import { createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { Logger } from 'pino';
import type { ListenAddress } from '../config.ts';
import type { EdgeLimits } from './edge.ts';

/**
 * TLS handshakes under way at once, about 1 ms of a core each: a flood of them may delay a handshake by a second, not
 * more. Beyond: the connection is closed at once.
 */
export const MAX_HANDSHAKES = 1_000;
/** Silence after which the system asks whether the client is still there. */
const KEEP_ALIVE_DELAY_MS = 30_000;
/** Groups of 16 bits that one client owns in IPv6: a /64 (RFC 6177). */
const IPV6_CLIENT_GROUPS = 4;

/** The address as people write it: IPv4 clients of a dual-stack socket without `::ffff:`, no zone. */
export const plainAddress = (address: string | undefined): string =>
  (address ?? '').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '').replace(/%.*$/, '');

/** What counts as one client: an IPv4 address, or an IPv6 /64. */
export const clientKey = (address: string): string => {
  if (!isIPv6(address)) return address;
  const [left = '', right] = address.split('::');
  const head = left === '' ? [] : left.split(':');
  const tail = right === undefined || right === '' ? [] : right.split(':');
  const gap = right === undefined ? [] : Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => '0');
  return [...head, ...gap, ...tail].slice(0, IPV6_CLIENT_GROUPS).join(':');
};

type Endpoints = Pick<Socket, 'remoteAddress' | 'remotePort' | 'localAddress' | 'localPort'>;
/** The same for a socket and the TLS socket above it, and of no other live connection. */
const endpointsOf = (socket: Endpoints): string =>
  `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;

export interface ConnectionCounter {
  /** False: there are too many, and the socket was destroyed. */
  admit(socket: Socket, options: { handshake: boolean }): boolean;
  /** `socket` may be the TLS socket above the one that was admitted. */
  handshakeDone(socket: Endpoints): void;
  /** Somebody else ends the connection; it is counted all the same. */
  handOver(socket: Endpoints): void;
  readonly connections: number;
  readonly handshakes: number;
  destroyHandshakes(): void;
  destroyAll(): void;
}

export const createConnectionCounter = (
  limits: Pick<EdgeLimits, 'connections' | 'connectionsPerAddress'>,
  onRefused: (address: string) => void,
): ConnectionCounter => {
  const sockets = new Set<Socket>();
  const handshaking = new Set<string>();
  const handedOver = new Set<string>();
  const perClient = new Map<string, number>();
  return {
    admit(socket, { handshake }) {
      const address = plainAddress(socket.remoteAddress);
      const key = clientKey(address);
      const count = perClient.get(key) ?? 0;
      if (
        address === '' ||
        sockets.size >= limits.connections ||
        count >= limits.connectionsPerAddress ||
        (handshake && handshaking.size >= MAX_HANDSHAKES)
      ) {
        socket.destroy();
        onRefused(address);
        return false;
      }
      sockets.add(socket);
      perClient.set(key, count + 1);
      // Known now: a socket that has ended tells none.
      const endpoints = endpointsOf(socket);
      if (handshake) handshaking.add(endpoints);
      socket.once('close', () => {
        sockets.delete(socket);
        handshaking.delete(endpoints);
        handedOver.delete(endpoints);
        const left = (perClient.get(key) ?? 1) - 1;
        if (left > 0) perClient.set(key, left);
        else perClient.delete(key);
      });
      return true;
    },
    handshakeDone(socket) {
      handshaking.delete(endpointsOf(socket));
    },
    handOver(socket) {
      handedOver.add(endpointsOf(socket));
    },
    get connections() {
      return sockets.size;
    },
    get handshakes() {
      return handshaking.size;
    },
    destroyHandshakes() {
      for (const socket of sockets) if (handshaking.has(endpointsOf(socket))) socket.destroy();
    },
    destroyAll() {
      for (const socket of sockets) if (!handedOver.has(endpointsOf(socket))) socket.destroy();
    },
  };
};

export interface Acceptor {
  readonly address: ListenAddress;
  close(): void;
}

/** Listens, and hands each connection on. Rejects with the error of `listen`. */
export const acceptConnections = (
  deps: { readonly log: Logger; readonly onConnection: (socket: Socket) => void },
  address: ListenAddress,
): Promise<Acceptor> =>
  new Promise((resolve, reject) => {
    const server: Server = createServer(
      // Not half-open: Node would keep a client that leaves within its TLS handshake, and an HTTP/2 session that has
      // ended, for ever. Upgraded streams become half-open when they are upgraded.
      { allowHalfOpen: false, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS },
      deps.onConnection,
    );
    server.once('error', reject);
    server.listen({ host: address.host, port: address.port }, () => {
      server.removeListener('error', reject);
      // Running out of file descriptors ends a listener in no way: accepting goes on when there are some again.
      server.on('error', (error) => deps.log.warn({ err: error }, 'cannot accept connections'));
      const bound = server.address();
      const port = typeof bound === 'object' && bound ? bound.port : address.port;
      resolve({ address: { host: address.host, port }, close: () => server.close() });
    });
  });
