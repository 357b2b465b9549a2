/**
 * A WebSocket over HTTP/1.1, `wss://tunnel.<domain>/v1/ws`: the last way for tunnels, through proxies that inspect TLS
 * and speak no HTTP/2. Sockets come from elsewhere: the gateway's listeners, the client's proxy and CA. Neither side
 * proves a key: the tunnel handshake does.
 */
import { STATUS_CODES, type IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import WebSocket, { WebSocketServer } from 'ws';
import { systemClock } from '../clock.ts';
import { TransportError } from '../errors.ts';
import type { Connection } from './connection.ts';
import { createWebSocketConnection } from './websocket-connection.ts';
import { WEBSOCKET_LIMITS, WEBSOCKET_PATH, type WebSocketLimits } from './websocket-limits.ts';

export interface WebSocketAcceptor {
  /** Takes over what an HTTP server's `upgrade` event gives, on a TLS socket. */
  handle(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Ends every connection that came in here. */
  close(): void;
}

/**
 * Options of both ends. No compression: it would have to be inflated (safety row 34), and payload is mostly
 * compressed. `closeTimeout` is missing from the types.
 */
const libraryOptions = (limits: WebSocketLimits) => ({
  perMessageDeflate: false,
  maxPayload: limits.messageBytes,
  closeTimeout: limits.closeTimeoutMs,
});

const answer = (socket: Duplex, status: number): void => {
  socket.on('error', () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
    () => socket.destroy(),
  );
};

/** The server half. */
export const acceptWebSockets = (options: {
  readonly onConnection: (connection: Connection) => void;
  readonly limits?: Partial<WebSocketLimits>;
}): WebSocketAcceptor => {
  const limits = { ...WEBSOCKET_LIMITS, ...options.limits };
  const server = new WebSocketServer({ noServer: true, clientTracking: false, ...libraryOptions(limits) });
  const connections = new Set<Connection>();

  const take = (ws: WebSocket, socket: TLSSocket): void => {
    let connection: Connection;
    try {
      connection = createWebSocketConnection(ws, socket, {
        isClient: false,
        limits,
        onEnd: () => connections.delete(connection),
      });
    } catch {
      ws.on('error', () => {});
      return ws.terminate();
    }
    connections.add(connection);
    options.onConnection(connection);
  };

  return {
    handle: (request, socket, head) => {
      if (request.url?.split('?', 1)[0] !== WEBSOCKET_PATH) return answer(socket, 404);
      // Every browser sends it, and no tunnel client does (safety row 29).
      if (request.headers.origin !== undefined) return answer(socket, 403);
      server.handleUpgrade(request, socket, head, (ws) => take(ws, socket as TLSSocket));
    },
    close: () => {
      for (const connection of connections) connection.close();
    },
  };
};

export interface WebSocketDial {
  /** Makes the TLS connection, `http/1.1` or nothing offered by ALPN. Called once. */
  readonly connect: (options: { readonly signal: AbortSignal }) => Promise<TLSSocket>;
  /** `tunnel.<domain>:port`. */
  readonly authority: string;
  readonly limits?: Partial<WebSocketLimits>;
}

/**
 * The client half. Rejects with the reason of the signal, or with {@link TransportError}: `refused` when the upgrade
 * was answered with something else, as proxies do that let none pass.
 */
export const dialWebSocket = async (
  { connect, authority, ...options }: WebSocketDial,
  { signal }: { readonly signal: AbortSignal },
): Promise<Connection> => {
  const limits = { ...WEBSOCKET_LIMITS, ...options.limits };
  signal.throwIfAborted();
  const socket = await connect({ signal });
  socket.on('error', () => {});
  if (signal.aborted) {
    socket.destroy();
    signal.throwIfAborted();
  }
  const refuse = (reason: string, more: { cause?: unknown; code?: 'refused' } = {}): TransportError =>
    new TransportError(`cannot reach ${authority} over WebSocket: ${reason}`, more);
  const ws = new WebSocket(`wss://${authority}${WEBSOCKET_PATH}`, {
    ...libraryOptions(limits),
    createConnection: () => socket,
  });
  return new Promise((resolve, reject) => {
    const settled = (): void => {
      cancelTimer();
      signal.removeEventListener('abort', onAbort);
    };
    const fail = (error: Error): void => {
      settled();
      reject(error);
      ws.terminate();
      socket.destroy();
    };
    const onAbort = (): void => fail(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    // The library's own limit does not hold for sockets that it did not make.
    const cancelTimer = systemClock.timer(limits.handshakeTimeoutMs, () =>
      fail(refuse(`no answer within ${limits.handshakeTimeoutMs} ms`)),
    );
    ws.on('error', (cause) => fail(refuse(cause.message, { cause })));
    ws.once('unexpected-response', (_request, { statusCode }) =>
      fail(refuse(`the upgrade was answered with status ${statusCode}`, { code: 'refused' })),
    );
    ws.once('open', () => {
      settled();
      ws.removeAllListeners('error');
      try {
        resolve(createWebSocketConnection(ws, socket, { isClient: true, limits, onEnd: () => {} }));
      } catch (error) {
        ws.on('error', () => {});
        fail(error as Error);
      }
    });
  });
};
