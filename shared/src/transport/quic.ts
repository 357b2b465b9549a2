/**
 * QUIC over UDP: listener and dialer. The Ed25519 key of each side is its TLS 1.3 identity, so a connection that
 * exists has proved both keys. 0-RTT is never used: the binding neither offers nor accepts early data, and gives a
 * connection out only when its handshake is complete. There is no connection migration.
 */
import { createSocket } from 'node:dgram';
import { isIP, isIPv6 } from 'node:net';
import { systemClock, type Clock } from '../clock.ts';
import { describeError, TransportError, type EndedBy } from '../errors.ts';
import type { IdentityKey } from '../identity/keys.ts';
import { formatHostPort, type HostPort } from './address.ts';
import type { Connection, ConnectionListener } from './connection.ts';
import { createQuicConnection } from './quic-connection.ts';
import { createConfig, KEEP_ALIVE_OFF_MS, QUIC_LIMITS, type QuicLimits } from './quic-limits.ts';
import {
  loadQuic,
  type NativeClient,
  type NativeConfig,
  type NativeConnection,
  type NativeQuic,
} from './quic-native.ts';

/** Calls issued in one go: 0.7 ms of event loop. All 8,192 at once would hold it up for over 20 ms. */
const CALLS_PER_TURN = 256;
/**
 * Calls that wait for handshakes which have not begun, as many again as are under way. Not all that may ever be needed:
 * each waiting call is looked at whenever anything happens in a native thread, and with 8,192 of them that took longer
 * than a request.
 */
const SPARE_CALLS = 128;
/**
 * ms between looks at how many handshakes have begun, which is not told: a flood gets from {@link SPARE_CALLS} to all
 * places in six. Also until places of failed handshakes are filled again.
 */
const LOOK_INTERVAL_MS = 25;

/** The binding's error has no code: the same bind by Node says why, in `cause.code` (EADDRINUSE, EACCES, ...). */
const explainBindFailure = async (host: string, port: number, cause: unknown): Promise<TransportError> => {
  const socket = isIPv6(host) ? createSocket({ type: 'udp6', ipv6Only: true }) : createSocket('udp4');
  const reason: unknown = await new Promise((resolve) => {
    socket.once('error', resolve);
    socket.bind({ address: host, port, exclusive: true }, () => resolve(cause));
  });
  socket.close();
  const address = formatHostPort(host, port);
  return new TransportError(`cannot listen on UDP ${address}: ${describeError(reason)}`, {
    by: 'local',
    cause: reason,
  });
};

export interface QuicListenerStats {
  /** Connections handed out since the start. */
  readonly accepted: number;
  /** Handshakes that failed or timed out since the start. */
  readonly failed: number;
  /** Connections closed since the start because the peer's key is not Ed25519. */
  readonly refused: number;
  /** Handshakes under way now. */
  readonly handshaking: number;
  /** Most handshakes under way at once; while `handshaking` is there, new ones wait. */
  readonly capacity: number;
  /** Connections open now. */
  readonly connections: number;
}

export interface QuicListenerOptions {
  /** IP address; a listener on `::` is for IPv6 only. */
  readonly host: string;
  readonly port: number;
  readonly key: IdentityKey;
  readonly onConnection: (connection: Connection) => void;
  /** A handshake failed, a peer was refused, or `onConnection` threw. May come at the rate of a flood. */
  readonly onError?: (error: Error) => void;
  readonly limits?: Partial<QuicLimits>;
}

export interface QuicListener extends ConnectionListener {
  stats(): QuicListenerStats;
}

/** Listens on one UDP address. Rejects with {@link TransportError}; `cause.code` tells why the bind failed. */
export const listenQuic = async (options: QuicListenerOptions): Promise<QuicListener> => {
  const { host, onConnection, onError } = options;
  const limits = { ...QUIC_LIMITS, ...options.limits };
  if (isIP(host) === 0) throw new TransportError(`cannot listen on UDP: "${host}" is no IP address`, { by: 'local' });
  const quic = loadQuic();
  const config = createConfig(quic, options.key, limits, KEEP_ALIVE_OFF_MS);
  let server;
  try {
    server = new quic.Server(config, host, options.port);
  } catch (cause) {
    throw await explainBindFailure(host, options.port, cause);
  }
  // Asked once: after `abort()` the native call ends the process.
  const address = { host, port: server.port() };
  const connections = new Set<Connection>();
  let waiting = 0;
  let accepted = 0;
  let failed = 0;
  let refused = 0;
  let closing: Promise<void> | undefined;
  let lastStats: QuicListenerStats | undefined;

  const take = (native: NativeConnection): void => {
    let connection: Connection;
    try {
      connection = createQuicConnection(native, () => connections.delete(connection));
    } catch (error) {
      refused++;
      onError?.(error as Error);
      return;
    }
    accepted++;
    connections.add(connection);
    try {
      onConnection(connection);
    } catch (error) {
      connection.close(error as Error);
      onError?.(error as Error);
    }
  };
  const call = (): void => {
    waiting++;
    server.inboundConnection().then(
      (native) => {
        waiting--;
        if (closing !== undefined) return native.abort();
        take(native);
        fill();
      },
      (cause: unknown) => {
        waiting--;
        if (closing !== undefined) return;
        failed++;
        onError?.(new TransportError(`a QUIC handshake failed: ${describeError(cause)}`, { cause }));
      },
    );
  };
  const handshaking = (): number => Math.max(0, server.stats().acceptedHandshakes - accepted - failed - refused);
  let scheduled = false;
  const fill = (): void => {
    if (scheduled || closing !== undefined) return;
    const wanted = Math.min(limits.handshakes, 2 * handshaking() + SPARE_CALLS);
    for (let calls = 0; calls < CALLS_PER_TURN && waiting < wanted; calls++) call();
    if (waiting >= wanted) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      fill();
    });
  };
  let cancelLook = (): void => {};
  const look = (): void => {
    fill();
    cancelLook = systemClock.timer(LOOK_INTERVAL_MS, look);
  };
  look();

  const stats = (): QuicListenerStats => ({
    accepted,
    failed,
    refused,
    handshaking: handshaking(),
    capacity: limits.handshakes,
    connections: connections.size,
  });
  return {
    address,
    stats: () => lastStats ?? stats(),
    close: () => {
      closing ??= (async () => {
        cancelLook();
        for (const connection of connections) connection.close();
        lastStats = { ...stats(), handshaking: 0 };
        await server.abort();
      })();
      return closing;
    },
  };
};

export interface QuicDialer {
  /** Dials an IP address. Rejects with {@link TransportError}, or with the reason of the signal. */
  dial(address: HostPort, options: { readonly signal: AbortSignal }): Promise<Connection>;
  /** Ends every connection and dial of this dialer at once. */
  close(): void;
}

/** A UDP socket of a dialer. */
interface Endpoint {
  readonly native: NativeClient;
  /** Monotonic, ms. */
  readonly createdAt: number;
  /** Connections and dials. */
  users: number;
  retired: boolean;
}

/** Dials with one UDP socket per address family; see `minSocketAgeMs` for when it is replaced. */
export const createQuicDialer = (options: {
  readonly key: IdentityKey;
  readonly limits?: Partial<QuicLimits>;
  readonly clock?: Clock;
}): QuicDialer => {
  const clock = options.clock ?? systemClock;
  const limits = { ...QUIC_LIMITS, ...options.limits };
  const endpoints = new Map<4 | 6, Endpoint>();
  /** With those that were replaced and still have users. */
  const open = new Set<Endpoint>();
  const connections = new Set<Connection>();
  const closing = new AbortController();
  let quic: NativeQuic | undefined;
  let config: NativeConfig | undefined;

  const endpointFor = (family: 4 | 6): Endpoint => {
    const existing = endpoints.get(family);
    if (existing !== undefined) return existing;
    quic ??= loadQuic();
    config ??= createConfig(quic, options.key, limits, limits.keepAliveMs);
    const endpoint = {
      native: new quic.Client(config, family === 4 ? 0 : 1),
      createdAt: clock.monotonic(),
      users: 0,
      retired: false,
    };
    endpoints.set(family, endpoint);
    open.add(endpoint);
    return endpoint;
  };
  const release = (endpoint: Endpoint): void => {
    endpoint.users--;
    if (!endpoint.retired || endpoint.users > 0) return;
    open.delete(endpoint);
    endpoint.native.abort();
  };
  const retire = (endpoint: Endpoint): void => {
    if (clock.monotonic() - endpoint.createdAt < limits.minSocketAgeMs) return;
    endpoint.retired = true;
    for (const [family, current] of endpoints) if (current === endpoint) endpoints.delete(family);
  };

  const connect = async (endpoint: Endpoint, { host, port }: HostPort): Promise<Connection> => {
    endpoint.users++;
    let native: NativeConnection;
    try {
      native = await endpoint.native.outboundConnection(host, port);
    } catch (error) {
      retire(endpoint);
      release(endpoint);
      throw error;
    }
    try {
      const connection = createQuicConnection(native, () => {
        connections.delete(connection);
        release(endpoint);
      });
      connections.add(connection);
      return connection;
    } catch (error) {
      release(endpoint);
      throw error;
    }
  };

  const dial: QuicDialer['dial'] = async (address, { signal }) => {
    signal.throwIfAborted();
    const refuse = (reason: string, by: EndedBy, cause?: unknown): TransportError =>
      new TransportError(`cannot reach ${formatHostPort(address.host, address.port)} over QUIC: ${reason}`, {
        by,
        cause,
      });
    if (closing.signal.aborted) throw refuse('the dialer is closed', 'local');
    const family = isIP(address.host);
    if (family === 0) throw refuse('the host is not an IP address', 'local');
    if (!(address.port >= 1 && address.port <= 65_535)) throw refuse('the port is not one to dial', 'local');
    let endpoint: Endpoint;
    try {
      endpoint = endpointFor(family === 4 ? 4 : 6);
    } catch (cause) {
      throw refuse(describeError(cause), 'local', cause);
    }
    const connecting = connect(endpoint, address);
    return new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        signal.removeEventListener('abort', onAbort);
        closing.signal.removeEventListener('abort', onClose);
        cancelTimer();
        act();
      };
      /** The native dial cannot be cancelled: a connection that comes late is closed. */
      const giveUp = (error: Error): void => {
        settle(() => reject(error));
        void connecting.then(
          (connection) => connection.close(),
          () => {},
        );
      };
      const onAbort = (): void => giveUp(signal.reason as Error);
      const onClose = (): void => giveUp(refuse('the dialer is closed', 'local'));
      signal.addEventListener('abort', onAbort, { once: true });
      closing.signal.addEventListener('abort', onClose, { once: true });
      const cancelTimer = clock.timer(limits.handshakeTimeoutMs, () => {
        retire(endpoint);
        giveUp(refuse(`no handshake within ${limits.handshakeTimeoutMs} ms; is UDP blocked?`, 'remote'));
      });
      connecting.then(
        (connection) => settle(() => resolve(connection)),
        (cause: unknown) => settle(() => reject(refuse(`${describeError(cause)}; is UDP blocked?`, 'remote', cause))),
      );
    });
  };

  return {
    dial,
    close: () => {
      if (closing.signal.aborted) return;
      closing.abort();
      for (const connection of connections) connection.close();
      for (const endpoint of open) endpoint.native.abort();
      endpoints.clear();
      open.clear();
    },
  };
};
