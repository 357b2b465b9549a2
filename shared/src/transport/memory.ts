/**
 * Connections inside one process, for tests. They behave as QUIC does where a program can tell: a stream is seen by
 * the peer with its first byte, boundaries of writes are not kept, windows and the number of streams are limited, and
 * what was not read is lost with the connection.
 */
import { TransportError, type EndedBy } from '../errors.ts';
import type { Connection, ConnectionEnd, TransportStream } from './connection.ts';
import { createQueue } from './queue.ts';

/** Streams that one side may have open, as on QUIC. More wait in `openStream`. */
export const MEMORY_STREAMS = 16;
/** Bytes unread in one direction of a stream, as on QUIC. The writer waits beyond it. */
export const MEMORY_WINDOW_BYTES = 4 << 20;
/** Bytes of one read at most. */
const MAX_READ_BYTES = 64 << 10;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

const misuse = (message: string): TransportError => new TransportError(message, { by: 'local' });

interface Pipe {
  read(): Promise<Uint8Array | null>;
  write(bytes: Uint8Array): Promise<void>;
  finish(): Promise<void>;
  /** Ends both ends at once; what is unread is lost. */
  cut(reader: TransportError, writer: TransportError): void;
}

/** One direction of a stream. `onDone` is called once: its end was read, or it was cut. */
const createPipe = (onDone: () => void): Pipe => {
  let chunks: Uint8Array[] = [];
  let unread = 0;
  let finished = false;
  let endRead = false;
  let failure: { readonly reader: TransportError; readonly writer: TransportError } | undefined;
  let reader: Waiter<Uint8Array | null> | undefined;
  let writer: (Waiter<void> & { rest: Uint8Array }) | undefined;

  const accept = (): void => {
    if (writer === undefined) return;
    // A copy: the writer has its memory back at once, and `slice` of a Buffer is a view.
    const part = new Uint8Array(writer.rest.subarray(0, MEMORY_WINDOW_BYTES - unread));
    if (part.length > 0) chunks.push(part);
    unread += part.length;
    writer.rest = writer.rest.subarray(part.length);
    if (writer.rest.length > 0) return;
    const done = writer;
    // One turn of the event loop per write, so that a stream that never waits for anything does not starve timers.
    setImmediate(() => {
      if (writer !== done) return;
      writer = undefined;
      done.resolve();
    });
  };
  const deliver = (): void => {
    if (reader === undefined) return;
    if (unread === 0) {
      if (!finished) return;
      endRead = true;
      reader.resolve(null);
      reader = undefined;
      onDone();
      return;
    }
    const bytes = new Uint8Array(Math.min(unread, MAX_READ_BYTES));
    for (let filled = 0; filled < bytes.length;) {
      const part = chunks[0]!.subarray(0, bytes.length - filled);
      bytes.set(part, filled);
      filled += part.length;
      if (part.length === chunks[0]!.length) chunks.shift();
      else chunks[0] = chunks[0]!.subarray(part.length);
    }
    unread -= bytes.length;
    reader.resolve(bytes);
    reader = undefined;
    accept();
  };

  return {
    read: () => {
      if (failure !== undefined) return Promise.reject(failure.reader);
      if (endRead) return Promise.resolve(null);
      if (reader !== undefined) return Promise.reject(misuse('a read is under way'));
      return new Promise((resolve, reject) => {
        reader = { resolve, reject };
        deliver();
      });
    },
    write: (bytes) => {
      if (failure !== undefined) return Promise.reject(failure.writer);
      if (finished) return Promise.reject(misuse('the writing direction is finished'));
      if (writer !== undefined) return Promise.reject(misuse('a write is under way'));
      return new Promise((resolve, reject) => {
        writer = { resolve, reject, rest: bytes };
        accept();
        deliver();
      });
    },
    finish: async () => {
      if (failure !== undefined) throw failure.writer;
      finished = true;
      deliver();
    },
    cut: (readerError, writerError) => {
      if (failure !== undefined || endRead) return;
      failure = { reader: readerError, writer: writerError };
      chunks = [];
      reader?.reject(readerError);
      writer?.reject(writerError);
      reader = writer = undefined;
      onDone();
    },
  };
};

const opposite = (side: Side): Side => (side === 'dialler' ? 'acceptor' : 'dialler');
type Side = 'dialler' | 'acceptor';

/** Two ends of one connection. */
export const memoryConnectionPair = (options: {
  readonly diallerKey: Uint8Array;
  readonly acceptorKey: Uint8Array;
}): { readonly dialler: Connection; readonly acceptor: Connection } => {
  const cuts = new Set<(resetBy: Side) => void>();
  const carried: Record<Side, number> = { dialler: 0, acceptor: 0 };
  const arrivals: Record<Side, number> = { dialler: 0, acceptor: 0 };
  let endedBy: Side | undefined;

  const createSide = () => {
    const { promise: closed, resolve } = Promise.withResolvers<ConnectionEnd>();
    /** Places for streams that this side opens. */
    const places = createQueue<true>();
    for (let place = 0; place < MEMORY_STREAMS; place++) places.put(true);
    return { closed, resolve, places, incoming: createQueue<TransportStream>() };
  };
  const sides = { dialler: createSide(), acceptor: createSide() };

  const by = (cause: Side, seenFrom: Side): EndedBy => (cause === seenFrom ? 'local' : 'remote');
  const endError = (side: Side): TransportError =>
    new TransportError('the connection ended', { by: by(endedBy!, side) });

  const createStream = (opener: Side): TransportStream => {
    const peer = opposite(opener);
    let open = 2;
    const onDone = (): void => {
      if (--open > 0) return;
      cuts.delete(cut);
      sides[opener].places.put(true);
    };
    const pipes = { [opener]: createPipe(onDone), [peer]: createPipe(onDone) } as Record<Side, Pipe>;
    const cut = (cause: Side): void => {
      const error = (side: Side): TransportError =>
        endedBy === undefined
          ? new TransportError('the transport stream was reset', { by: by(cause, side) })
          : endError(side);
      for (const side of [opener, peer]) pipes[side].cut(error(opposite(side)), error(side));
    };
    cuts.add(cut);

    /** The stream as `side` has it; `touch` runs before what the peer would see. */
    const view = (side: Side, touch: () => void): TransportStream => ({
      read: () => pipes[opposite(side)].read(),
      write: (bytes) => {
        if (bytes.length > 0) touch();
        carried[side] += bytes.length;
        arrivals[opposite(side)]++;
        return pipes[side].write(bytes);
      },
      finish: () => {
        touch();
        arrivals[opposite(side)]++;
        return pipes[side].finish();
      },
      reset: () => {
        touch();
        cut(side);
      },
    });
    let seen = false;
    const reveal = (): void => {
      if (seen || endedBy !== undefined) return;
      seen = true;
      sides[peer].incoming.put(view(peer, () => {}));
    };
    return view(opener, reveal);
  };

  const end = (cause: Side, error: Error | undefined): void => {
    if (endedBy !== undefined) return;
    endedBy = cause;
    for (const cut of [...cuts]) cut(cause);
    for (const side of ['dialler', 'acceptor'] as const) {
      sides[side].places.fail(endError(side));
      sides[side].incoming.fail(endError(side));
    }
    sides[cause].resolve(error === undefined ? { by: 'local' } : { by: 'local', error });
    sides[opposite(cause)].resolve({ by: 'remote' });
  };

  const connection = (side: Side, peerKey: Uint8Array): Connection => ({
    transport: 'memory',
    remoteAddress: `memory:${side === 'dialler' ? 2 : 1}`,
    peerKey,
    openStream: async ({ signal }) => {
      if (endedBy !== undefined) throw endError(side);
      await sides[side].places.next(signal);
      if (endedBy !== undefined) throw endError(side);
      return createStream(side);
    },
    acceptStream: ({ signal }) =>
      endedBy === undefined ? sides[side].incoming.next(signal) : Promise.reject(endError(side)),
    closed: sides[side].closed,
    stats: () => ({
      rttMs: 0,
      received: arrivals[side],
      bytesSent: carried[side],
      bytesReceived: carried[opposite(side)],
    }),
    close: (error) => end(side, error),
  });
  return {
    dialler: connection('dialler', options.acceptorKey),
    acceptor: connection('acceptor', options.diallerKey),
  };
};
