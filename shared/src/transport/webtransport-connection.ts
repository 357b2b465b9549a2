/** A WebTransport session over HTTP/2 as {@link Connection}. */
import type { TLSSocket } from 'node:tls';
import { systemClock } from '../clock.ts';
import { TransportError, type EndedBy } from '../errors.ts';
import type { Connection, ConnectionEnd, ConnectionStats, TransportStream } from './connection.ts';
import { createQueue } from './queue.ts';
import { exporterOf, remoteAddressOf } from './tls-socket.ts';
import type { WebTransportLimits } from './webtransport-limits.ts';
import type { LibrarySession, NativeSession, NativeStream } from './webtransport-native.ts';
import { createWebTransportStream, type WebTransportStream } from './webtransport-stream.ts';

/**
 * Bytes of a capsule that may wait for its rest: every one that is looked at as a whole is far smaller. The library
 * would wait for 64 MiB of a datagram, and copy them anew with each piece that comes.
 */
const MAX_HEAD_BYTES = 4_096;
/** Bits of a stream id (RFC 9000 section 2.1, mirrored by the library: the client's have the lowest bit). */
const CLIENT_STREAM = 1n;
const UNIDIRECTIONAL_STREAM = 2n;

export interface WebTransportConnection {
  readonly connection: Connection;
  /** Call at once, before anything is read from the peer. */
  attach(native: NativeSession): void;
}

/**
 * The connection of a library session that is not up yet; it may be used when `session.ready` resolves. `onEnd` is
 * called once, when `closed` settles. Throws {@link TransportError} when the socket is gone.
 */
export const createWebTransportConnection = (
  session: LibrarySession,
  socket: TLSSocket,
  options: { readonly isClient: boolean; readonly limits: WebTransportLimits; readonly onEnd: () => void },
): WebTransportConnection => {
  const { isClient, limits } = options;
  const remoteAddress = remoteAddressOf(socket);
  const exporter = exporterOf(socket);
  const incoming = createQueue<TransportStream>();
  const streams = new Set<WebTransportStream>();
  const writable = new Set<() => void>();
  const { promise: closed, resolve: resolveClosed } = Promise.withResolvers<ConnectionEnd>();
  let native: NativeSession | undefined;
  let ended: { readonly failure: TransportError; readonly stats: ConnectionStats } | undefined;
  let opening: { stream?: TransportStream } | undefined;

  const currentStats = (): ConnectionStats => ({
    rttMs: native?.capsParser.stream.session?.WTrtt,
    received: socket.bytesRead,
    bytesSent: socket.bytesWritten,
    bytesReceived: socket.bytesRead,
  });
  const cut = (): void => {
    native?.capsParser.stream.session?.destroy();
    socket.destroy();
  };
  const end = (by: EndedBy, error: Error | undefined): boolean => {
    if (ended !== undefined) return false;
    const failure = new TransportError('the connection ended', { by, cause: error });
    ended = { failure, stats: currentStats() };
    for (const stream of streams) stream.cut(failure);
    streams.clear();
    writable.clear();
    incoming.fail(failure);
    resolveClosed(error === undefined ? { by } : { by, error });
    options.onEnd();
    return true;
  };
  const violated = (message: string): void => {
    if (end('local', new TransportError(`the peer broke the rules of WebTransport: ${message}`))) cut();
  };

  const take = (stream: NativeStream, isIncoming: boolean): void => {
    const made = createWebTransportStream(
      stream,
      {
        session,
        failure: () => ended?.failure,
        violated,
        whenWritable: (callback) => {
          if (ended !== undefined) return;
          if (native?.capsParser.blocked) writable.add(callback);
          else callback();
        },
      },
      () => {
        if (isIncoming && ended === undefined) incoming.put(made.stream);
      },
    );
    streams.add(made);
    if (!isIncoming && opening !== undefined) opening.stream = made.stream;
  };

  /** The library throws in event handlers, or grows without end, for a peer that breaks the rules. */
  const guard = ({ capsParser: parser }: NativeSession): void => {
    const { parseData, newStream } = parser;
    parser.parseData = (bytes) => {
      if (ended !== undefined) return;
      try {
        parseData.call(parser, bytes);
      } catch (error) {
        return violated(error instanceof Error ? error.message : 'a capsule that cannot be read');
      }
      if ((parser.saveddata?.byteLength ?? 0) > MAX_HEAD_BYTES) violated('a capsule that is too long');
    };
    parser.newStream = (id, priority) => {
      if (ended !== undefined) return undefined;
      const isOwn = ((id & CLIENT_STREAM) === CLIENT_STREAM) === isClient;
      if (isOwn !== (opening !== undefined) || (id & UNIDIRECTIONAL_STREAM) !== 0n) {
        violated(`stream ${id} is not one that the peer may open`);
        return undefined;
      }
      return newStream.call(parser, id, priority);
    };
    parser.onCloseWebTransportSession = () => {
      if (end('remote', undefined)) cut();
    };
    // The library stops to give credit when it is told to drain.
    parser.onDrain = () => violated('it drains');
    session.onDatagramReceived = () => violated('it sends datagrams');
    parser.stream.on('drain', () => {
      const callbacks = [...writable];
      writable.clear();
      for (const callback of callbacks) callback();
    });
  };

  // Below this, whatever the library would keep of a stream or an end is ours.
  session.ready.catch(() => {});
  session.closed.catch(() => {});
  session.onStream = ({ stream, incoming: isIncoming }) => take(stream, isIncoming);
  const { onClose } = session;
  session.onClose = (event) => {
    const lost = end('remote', new TransportError(`the connection to ${remoteAddress} was lost`, { cause: event }));
    onClose.call(session, event);
    if (lost) cut();
  };

  const close = (error?: Error): void => {
    if (!end('local', error)) return;
    if (native === undefined || session.state !== 'connected') return cut();
    // The peer ends the TCP connection when it has read this.
    const cancel = systemClock.timer(limits.closeTimeoutMs, cut);
    socket.once('close', cancel);
    if (socket.destroyed) cancel();
    else native.close({ code: 0, reason: '' });
  };

  return {
    attach: (given) => {
      native = given;
      guard(given);
      // The library's client loses parts of stream 0, the first one of the server: its reader takes that id for none.
      if (!isClient) given.streamIdMngrBi.getNextOutgoingStreamId();
    },
    connection: {
      transport: 'webtransport',
      remoteAddress,
      peerKey: undefined,
      ...(exporter === undefined ? {} : { exporter }),
      openStream: async ({ signal }) => {
        if (ended !== undefined) throw ended.failure;
        signal.throwIfAborted();
        if (!native!.streamIdMngrBi.canOpenNextOutgoingStream()) {
          throw new TransportError(`the ${limits.streams} streams of this connection are used up`, { by: 'local' });
        }
        const current: { stream?: TransportStream } = {};
        opening = current;
        try {
          native!.orderBidiStream({ waitUntilAvailable: true });
        } finally {
          opening = undefined;
        }
        if (current.stream === undefined) throw new TransportError('no stream could be opened', { by: 'local' });
        return current.stream;
      },
      acceptStream: ({ signal }) => (ended === undefined ? incoming.next(signal) : Promise.reject(ended.failure)),
      closed,
      stats: () => ended?.stats ?? currentStats(),
      close,
    },
  };
};
