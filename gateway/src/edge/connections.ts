/** Accepts TCP connections, and keeps count: in all, per client, and those still in their TLS handshake. */
import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import type { ListenAddress } from '../config.ts';
import { clientKey, plainAddress } from './client-address.ts';
import type { EdgeLimits } from './edge.ts';

/**
 * TLS handshakes under way at once, about 1 ms of a core each: a flood of them may delay a handshake by a second, not
 * more. Beyond: the connection is closed at once.
 */
const MAX_HANDSHAKES = 1_000;
/** Silence after which the system asks whether the client is still there. */
const KEEP_ALIVE_DELAY_MS = 30_000;

type Endpoints = Pick<Socket, 'remoteAddress' | 'remotePort' | 'localAddress' | 'localPort'>;
/** The same for a socket and the TLS socket above it, and of no other live connection. */
const endpointsOf = (socket: Endpoints): string =>
  `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;

/** Who speaks on a connection: its other end, or whom a trusted proxy speaks for. */
export interface Peer {
  readonly address: string;
  readonly port: number;
  /** A trusted proxy, which says of each request whose it is. */
  readonly isProxy: boolean;
}

interface Connection {
  readonly socket: Socket;
  peer: Peer;
  handedOver: boolean;
  /** Counts the connection under its client, instead of whom it was counted under. */
  countAs(key: string | undefined): void;
}

export interface ConnectionCounter {
  /** False: there are too many, and the socket was destroyed. A proxy's connections count in all, not by its address. */
  admit(socket: Socket, options: { handshake: boolean; isProxy: boolean }): boolean;
  /** It is known now for whom the proxy speaks. False: that client has too many, and the socket was destroyed. */
  rename(socket: Socket, peer: Peer): boolean;
  /** Whoever speaks on it, by the socket that was admitted or the TLS socket above that. */
  peerOf(socket: Socket): Peer;
  /** `socket` may be the TLS socket above the one that was admitted. */
  handshakeDone(socket: Socket): void;
  /** Somebody else ends the connection; it is counted all the same. */
  handOver(socket: Duplex): void;
  readonly connections: number;
  readonly handshakes: number;
  destroyHandshakes(): void;
  destroyAll(): void;
}

const NOBODY: Peer = { address: '', port: 0, isProxy: false };

export const createConnectionCounter = (
  limits: Pick<EdgeLimits, 'connections' | 'connectionsPerAddress'>,
  onRefused: (address: string) => void,
): ConnectionCounter => {
  const open = new Set<Connection>();
  const handshaking = new Map<string, Connection>();
  const bySocket = new WeakMap<Duplex, Connection>();
  const perClient = new Map<string, number>();
  const hasRoom = (key: string): boolean => (perClient.get(key) ?? 0) < limits.connectionsPerAddress;
  const createConnection = (socket: Socket, peer: Peer): Connection => {
    let counted: string | undefined;
    return {
      socket,
      peer,
      handedOver: false,
      countAs(key) {
        if (counted !== undefined) {
          const left = (perClient.get(counted) ?? 1) - 1;
          if (left > 0) perClient.set(counted, left);
          else perClient.delete(counted);
        }
        counted = key;
        if (key !== undefined) perClient.set(key, (perClient.get(key) ?? 0) + 1);
      },
    };
  };
  const refuse = (socket: Socket, address: string): false => {
    socket.destroy();
    onRefused(address);
    return false;
  };

  return {
    admit(socket, { handshake, isProxy }) {
      const address = plainAddress(socket.remoteAddress);
      const key = isProxy ? undefined : clientKey(address);
      if (
        address === '' ||
        open.size >= limits.connections ||
        (key !== undefined && !hasRoom(key)) ||
        (handshake && handshaking.size >= MAX_HANDSHAKES)
      ) {
        return refuse(socket, address);
      }
      const connection = createConnection(socket, { address, port: socket.remotePort ?? 0, isProxy });
      open.add(connection);
      bySocket.set(socket, connection);
      connection.countAs(key);
      // Known now: a socket that has ended tells none.
      const endpoints = endpointsOf(socket);
      if (handshake) handshaking.set(endpoints, connection);
      socket.once('close', () => {
        open.delete(connection);
        if (handshaking.get(endpoints) === connection) handshaking.delete(endpoints);
        connection.countAs(undefined);
      });
      return true;
    },
    rename(socket, peer) {
      const connection = bySocket.get(socket);
      const key = peer.isProxy ? undefined : clientKey(peer.address);
      if (!connection || (key !== undefined && !hasRoom(key))) return refuse(socket, peer.address);
      connection.peer = peer;
      connection.countAs(key);
      return true;
    },
    peerOf: (socket) => (bySocket.get(socket) ?? handshaking.get(endpointsOf(socket)))?.peer ?? NOBODY,
    handshakeDone(socket) {
      const endpoints = endpointsOf(socket);
      const connection = handshaking.get(endpoints);
      if (!connection) return;
      handshaking.delete(endpoints);
      bySocket.set(socket, connection);
    },
    handOver(socket) {
      const connection = bySocket.get(socket);
      if (connection) connection.handedOver = true;
    },
    get connections() {
      return open.size;
    },
    get handshakes() {
      return handshaking.size;
    },
    destroyHandshakes() {
      for (const { socket } of [...handshaking.values()]) socket.destroy();
    },
    destroyAll() {
      for (const { socket, handedOver } of open) if (!handedOver) socket.destroy();
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
