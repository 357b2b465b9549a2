/** A QUIC listener and dialer on loopback, and connections between them. */
import { createKey, type IdentityKey } from '../../shared/src/identity/keys.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import type { QuicLimits } from '../../shared/src/transport/quic-limits.ts';
import { createQuicDialer, listenQuic, type QuicDialer, type QuicListener } from '../../shared/src/transport/quic.ts';

export interface QuicEnds {
  readonly listener: QuicListener;
  readonly dialer: QuicDialer;
  readonly keys: { readonly listener: IdentityKey; readonly dialer: IdentityKey };
  /** What `onError` was called with. */
  readonly errors: readonly Error[];
  /** The next connection that comes in at the listener. */
  nextConnection(): Promise<Connection>;
  /** Dials the listener, or `port` in its place (a relay). */
  connect(port?: number): Promise<{ readonly dialler: Connection; readonly acceptor: Connection }>;
  close(): Promise<void>;
}

export const createQuicEnds = async (
  options: {
    host?: string;
    keys?: QuicEnds['keys'];
    limits?: Partial<QuicLimits>;
    listenerLimits?: Partial<QuicLimits>;
  } = {},
): Promise<QuicEnds> => {
  const keys = options.keys ?? { listener: createKey(), dialer: createKey() };
  const host = options.host ?? '127.0.0.1';
  const errors: Error[] = [];
  const arrived: Connection[] = [];
  const waiting: ((connection: Connection) => void)[] = [];
  const listener = await listenQuic({
    host,
    port: 0,
    key: keys.listener,
    limits: { ...options.limits, ...options.listenerLimits },
    onConnection: (connection) => {
      const next = waiting.shift();
      if (next === undefined) arrived.push(connection);
      else next(connection);
    },
    onError: (error) => errors.push(error),
  });
  const dialer = createQuicDialer({ key: keys.dialer, limits: options.limits ?? {} });
  const nextConnection = (): Promise<Connection> => {
    const ready = arrived.shift();
    return ready === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(ready);
  };
  return {
    listener,
    dialer,
    keys,
    errors,
    nextConnection,
    connect: async (port = listener.address.port) => {
      const [dialler, acceptor] = await Promise.all([
        dialer.dial({ host, port }, { signal: new AbortController().signal }),
        nextConnection(),
      ]);
      return { dialler, acceptor };
    },
    close: async () => {
      dialer.close();
      await listener.close();
    },
  };
};
