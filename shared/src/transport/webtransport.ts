/**
 * WebTransport over HTTP/2 (draft-ietf-webtrans-http2), for tunnels where UDP does not pass. Sockets come from
 * elsewhere: the gateway's listeners, the client's proxy and CA. Neither side proves a key: the tunnel handshake does.
 */
import {
  connect as connectHttp2,
  constants,
  type ClientHttp2Session,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type Http2Session,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { systemClock } from '../clock.ts';
import { TransportError, type TransportFailure } from '../errors.ts';
import type { Connection } from './connection.ts';
import { createWebTransportConnection } from './webtransport-connection.ts';
import { WEBTRANSPORT_LIMITS, WEBTRANSPORT_PATH, type WebTransportLimits } from './webtransport-limits.ts';
import {
  libraryOptions,
  loadWebTransport,
  WEBTRANSPORT_SETTINGS,
  type LibrarySession,
  type LibraryStreamListener,
  type NativeClient,
} from './webtransport-native.ts';

/** Answers requests that are not for the tunnel. */
export type OtherRequests = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

export interface WebTransportAcceptor {
  /**
   * Takes over a TLS socket on which `h2` was negotiated. The session is undefined when the socket is gone. Without
   * `onRequest`, requests that are not for the tunnel are 404.
   */
  handle(socket: TLSSocket, onRequest?: OtherRequests): ServerHttp2Session | undefined;
  /** Ends every connection that came in here. */
  close(): void;
}

/** Settings of both ends' HTTP/2. */
const http2Settings = (limits: WebTransportLimits) => ({
  enableConnectProtocol: true,
  initialWindowSize: limits.http2StreamWindowBytes,
  customSettings: {
    [WEBTRANSPORT_SETTINGS.maxData]: limits.sessionWindowBytes,
    [WEBTRANSPORT_SETTINGS.maxStreamDataUni]: limits.streamWindowBytes,
    [WEBTRANSPORT_SETTINGS.maxStreamDataBidi]: limits.streamWindowBytes,
    // Zero would be the library's default, 100. Whoever opens one is cut off.
    [WEBTRANSPORT_SETTINGS.maxStreamsUni]: 1,
    [WEBTRANSPORT_SETTINGS.maxStreamsBidi]: limits.streams,
  },
});
/** Requests side by side on one connection: the tunnel's, and a few that are refused. */
const MAX_CONCURRENT_REQUESTS = 16;
/** Bytes of header fields as HTTP/2 counts them; the tunnel's request has 300. */
const MAX_HEADER_LIST_BYTES = 16 << 10;
/** How often the round trip is measured, ms. It also keeps NAT mappings and proxies from forgetting the connection. */
const PING_INTERVAL_MS = 1_000;

const hostOf = (authority: string): string => authority.toLowerCase().replace(/:\d+$/, '').replace(/\.$/, '');

/**
 * Why a request for the tunnel is not taken. Browsers send an Origin with a scheme (safety row 29); the library's
 * client sends the bare name of the host.
 */
const refusalOf = (headers: Readonly<Record<string, unknown>>, names: readonly string[]): number | undefined => {
  const authority = headers[':authority'] ?? headers['host'];
  if (typeof authority !== 'string' || !names.includes(hostOf(authority))) return 421;
  const origin = headers['origin'];
  if (origin !== undefined && !(typeof origin === 'string' && names.includes(origin))) return 403;
  return headers[':path'] === WEBTRANSPORT_PATH ? undefined : 404;
};

/** The server half. Rejects with {@link TransportError} when the library is not there. */
export const acceptWebTransport = async (options: {
  /** Host names at which the tunnel is served: `tunnel.<domain>`, lower-case. */
  readonly names: readonly string[];
  readonly onConnection: (connection: Connection) => void;
  readonly limits?: Partial<WebTransportLimits>;
}): Promise<WebTransportAcceptor> => {
  const limits = { ...WEBTRANSPORT_LIMITS, ...options.limits };
  const { Http2Server } = await loadWebTransport();
  interface Client {
    readonly socket: TLSSocket;
    readonly onRequest: OtherRequests | undefined;
    refused: number;
    isTaken: boolean;
    stopWaiting: () => void;
  }
  const clients = new Map<Http2Session, Client>();
  const connections = new Set<Connection>();

  // It never listens and does no TLS: name, port and certificate are never used.
  const library = new Http2Server({
    ...libraryOptions(limits),
    port: 0,
    host: 'none',
    secret: 'none',
    cert: [],
    privKey: [],
  });
  void library.createTransportInt();
  const { serverInt: server } = library.transportInt;
  server.updateSettings({
    ...http2Settings(limits),
    maxConcurrentStreams: MAX_CONCURRENT_REQUESTS,
    maxHeaderListSize: MAX_HEADER_LIST_BYTES,
  });
  library.transportInt.addPath(WEBTRANSPORT_PATH);

  const takeSession = (session: LibrarySession): void => {
    const native = session.objint!;
    const client = clients.get(native.capsParser.stream.session);
    if (client === undefined) return;
    let made: ReturnType<typeof createWebTransportConnection>;
    try {
      made = createWebTransportConnection(session, client.socket, {
        isClient: false,
        limits,
        onEnd: () => connections.delete(made.connection),
      });
    } catch {
      return void client.socket.destroy();
    }
    const { connection } = made;
    connections.add(connection);
    made.attach(native);
    session.ready.then(
      () => options.onConnection(connection),
      () => connection.close(),
    );
  };
  library.sessionController[WEBTRANSPORT_PATH] = { enqueue: takeSession };

  // The library's listener answers 406 to all that is not for it, and takes WebSockets: it gets what is checked only.
  const [takeTunnel] = server.listeners('stream') as LibraryStreamListener[];
  server.on('request', (request, response) => {
    const onRequest = clients.get(request.stream.session!)?.onRequest;
    if (onRequest) return onRequest(request, response);
    response.writeHead(404, { 'cache-control': 'no-store' });
    response.end();
  });
  const [, takeRequest] = server.listeners('stream') as LibraryStreamListener[];
  server.removeAllListeners('stream');
  server.on('stream', (stream: ServerHttp2Stream, headers, flags, raw) => {
    const client = clients.get(stream.session!);
    if (client === undefined) return stream.close(constants.NGHTTP2_REFUSED_STREAM);
    if (headers[':method'] !== 'CONNECT' || headers[':protocol'] !== 'webtransport') {
      return takeRequest!(stream, headers, flags, raw);
    }
    const status = client.isTaken ? 409 : refusalOf(headers, options.names);
    if (status !== undefined) {
      if (++client.refused >= limits.refusedRequests) {
        return stream.session?.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
      }
      stream.on('error', () => {});
      return stream.respond({ ':status': status, 'cache-control': 'no-store' }, { endStream: true });
    }
    client.isTaken = true;
    client.stopWaiting();
    takeTunnel!(stream, headers, flags, raw);
  });
  server.on('session', (session) => session.setLocalWindowSize(limits.http2ConnectionWindowBytes));
  server.on('sessionError', () => {});

  return {
    handle: (socket, onRequest) => {
      let session: ServerHttp2Session | undefined;
      const onSession = (made: ServerHttp2Session): void => {
        session = made;
        const client: Client = {
          socket,
          onRequest,
          refused: 0,
          isTaken: false,
          stopWaiting: systemClock.timer(limits.handshakeTimeoutMs, () => made.destroy()),
        };
        clients.set(made, client);
        made.once('close', () => {
          client.stopWaiting();
          clients.delete(made);
        });
      };
      server.once('session', onSession);
      server.emit('secureConnection', socket);
      server.removeListener('session', onSession);
      if (session === undefined || session.destroyed) socket.destroy();
      return session;
    },
    close: () => {
      for (const connection of connections) connection.close();
      for (const [session, { isTaken }] of clients) if (!isTaken) session.destroy();
    },
  };
};

/** Speaks HTTP/2 on `socket`, in place of what the library would connect itself. */
const createTransport = (
  client: NativeClient,
  socket: TLSSocket,
  authority: string,
  limits: WebTransportLimits,
  events: { connected(): void; supported(): void; gone(error: Error | undefined): void },
): void => {
  const session: ClientHttp2Session & { WTrtt?: number } = connectHttp2(`https://${authority}`, {
    createConnection: () => socket,
    settings: http2Settings(limits),
    remoteCustomSettings: Object.values(WEBTRANSPORT_SETTINGS),
  });
  client.clientInt = session;
  const ping = (): void => {
    if (session.closed || session.destroyed) return;
    session.ping((error, durationMs) => {
      if (error === null) session.WTrtt = durationMs;
    });
    cancelPing = systemClock.timer(PING_INTERVAL_MS, ping);
  };
  let cancelPing = (): void => {};
  let failure: Error | undefined;
  session.once('connect', () => {
    session.setLocalWindowSize(limits.http2ConnectionWindowBytes);
    events.connected();
    ping();
  });
  session.once('remoteSettings', ({ enableConnectProtocol }) => {
    if (enableConnectProtocol) events.supported();
    else session.destroy(new TransportError('the server speaks HTTP/2, but carries no WebTransport'));
  });
  session.on('error', (error) => (failure = error));
  session.once('close', () => {
    cancelPing();
    events.gone(failure);
  });
};

export interface WebTransportDial {
  /** Makes the TLS connection, `h2` offered by ALPN. Called once. */
  readonly connect: (options: { readonly signal: AbortSignal }) => Promise<TLSSocket>;
  /** `tunnel.<domain>:port`. */
  readonly authority: string;
  readonly limits?: Partial<WebTransportLimits>;
}

/**
 * The client half. Rejects with the reason of the signal, or with {@link TransportError}: `no_http2` when the other end
 * does not speak HTTP/2, which is what a proxy that inspects TLS looks like.
 */
export const dialWebTransport = async (
  { connect, authority, ...options }: WebTransportDial,
  { signal }: { readonly signal: AbortSignal },
): Promise<Connection> => {
  const limits = { ...WEBTRANSPORT_LIMITS, ...options.limits };
  signal.throwIfAborted();
  const library = await loadWebTransport();
  const socket = await connect({ signal });
  const refuse = (reason: string, more: { cause?: unknown; code?: TransportFailure } = {}): TransportError =>
    new TransportError(`cannot reach ${authority} over WebTransport: ${reason}`, more);
  if (signal.aborted || socket.alpnProtocol !== 'h2') {
    socket.on('error', () => {});
    socket.destroy();
    signal.throwIfAborted();
    throw refuse('the other end speaks no HTTP/2', { code: 'no_http2' });
  }

  const { promise: failed, reject: fail } = Promise.withResolvers<never>();
  failed.catch(() => {});
  const onAbort = (): void => fail(signal.reason as Error);
  signal.addEventListener('abort', onAbort, { once: true });
  const cancelTimer = systemClock.timer(limits.handshakeTimeoutMs, () =>
    fail(refuse(`no tunnel within ${limits.handshakeTimeoutMs} ms`)),
  );
  /** Frees what waits inside the library, timers included. */
  let release = (): void => {};
  const Client = class extends library.WebTransport {
    override createClient(given: object) {
      const made = super.createClient(given);
      const { client } = made;
      const { createReliableClient } = client.args;
      client.args.createReliableClient = (owner) => {
        const native = createReliableClient(owner);
        let connected = false;
        let supported = false;
        release = () => {
          if (!connected) client.onClientConnected({ success: false });
          else if (!supported) client.onClientWebTransportSupport({});
        };
        native.createTransport = () =>
          createTransport(native, socket, authority, limits, {
            connected: () => {
              connected = true;
              client.onClientConnected({ success: true });
            },
            supported: () => {
              supported = true;
              client.onClientWebTransportSupport({});
            },
            gone: (cause) => fail(refuse('the connection ended at once', { cause })),
          });
        return native;
      };
      return made;
    }
  };
  try {
    const { sessionint: session } = new Client(`https://${authority}${WEBTRANSPORT_PATH}`, {
      ...libraryOptions(limits),
      forceReliable: true,
      // Ours is the one that counts.
      quicConnectTimeout: limits.handshakeTimeoutMs,
      webTransportConnectTimeout: limits.handshakeTimeoutMs,
    });
    const { connection, attach } = createWebTransportConnection(session, socket, {
      isClient: true,
      limits,
      onEnd: () => {},
    });
    const { setSessionObj, onClose } = session;
    session.setSessionObj = (native, reliable) => {
      setSessionObj.call(session, native, reliable);
      attach(native);
    };
    session.onClose = (event) => {
      const { errorcode } = event;
      // Before the tunnel is up, this is the status of the answer to CONNECT.
      fail(refuse(`it was answered with status ${errorcode ?? 'none'}`, { cause: event, code: 'refused' }));
      onClose.call(session, event);
    };
    await Promise.race([session.ready, failed]);
    return connection;
  } catch (error) {
    release();
    socket.destroy();
    throw error instanceof TransportError || signal.aborted ? error : refuse('it failed', { cause: error });
  } finally {
    cancelTimer();
    signal.removeEventListener('abort', onAbort);
  }
};
