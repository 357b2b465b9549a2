/** Bytes of one direction of a stream between their arrival and their reader. */
import { TransportError } from '../errors.ts';

/** What one read hands over at most, bytes; several small pieces are joined up to here. */
const MAX_READ_BYTES = 128 << 10;
/**
 * Pieces below this are copied out of the memory they arrived in, bytes: a piece of one byte would otherwise keep the
 * whole chunk that it came with.
 */
const COPY_BELOW_BYTES = 4 << 10;
/** Pieces that may wait before they are joined: pieces of one byte cost a hundred times their size. */
const MAX_PIECES = 1_024;

export interface IncomingBytes {
  /** Takes over `bytes`, which arrived. */
  push(bytes: Uint8Array): void;
  /** Nothing more arrives. */
  end(): void;
  /** Discards what waits; reads reject from now on. */
  fail(error: Error): void;
  read(): Promise<Uint8Array | null>;
  readonly unread: number;
  /** The end has been read. */
  readonly isOver: boolean;
}

/** `onTaken` is told of bytes that a reader got, or that were discarded; `onOver` when the end was read. */
export const createIncomingBytes = (hooks: {
  readonly onTaken: (bytes: number) => void;
  readonly onOver: () => void;
}): IncomingBytes => {
  let pieces: Uint8Array[] = [];
  let unread = 0;
  let ended = false;
  let isOver = false;
  let failure: Error | undefined;
  let reader: { resolve: (bytes: Uint8Array | null) => void; reject: (error: Error) => void } | undefined;

  /** Up to {@link MAX_READ_BYTES} of what waits, without copying where it is one piece. */
  const take = (): Uint8Array => {
    const [first] = pieces as [Uint8Array];
    if (pieces.length === 1 || first.length >= MAX_READ_BYTES / 2) {
      pieces.shift();
      return first;
    }
    let count = 0;
    let length = 0;
    while (count < pieces.length && length + pieces[count]!.length <= MAX_READ_BYTES) length += pieces[count++]!.length;
    return Buffer.concat(pieces.splice(0, count), length);
  };
  const deliver = (): void => {
    if (reader === undefined || (unread === 0 && !ended)) return;
    const { resolve } = reader;
    reader = undefined;
    if (unread === 0) {
      isOver = true;
      resolve(null);
      hooks.onOver();
      return;
    }
    const bytes = take();
    unread -= bytes.length;
    resolve(bytes);
    hooks.onTaken(bytes.length);
  };

  return {
    push: (bytes) => {
      if (failure !== undefined) return hooks.onTaken(bytes.length);
      pieces.push(bytes.length < COPY_BELOW_BYTES ? new Uint8Array(bytes) : bytes);
      unread += bytes.length;
      if (pieces.length > MAX_PIECES) pieces = [Buffer.concat(pieces, unread)];
      deliver();
    },
    end: () => {
      ended = true;
      deliver();
    },
    fail: (error) => {
      if (failure !== undefined || isOver) return;
      failure = error;
      const dropped = unread;
      pieces = [];
      unread = 0;
      reader?.reject(error);
      reader = undefined;
      if (dropped > 0) hooks.onTaken(dropped);
    },
    read: () => {
      if (failure !== undefined) return Promise.reject(failure);
      if (isOver) return Promise.resolve(null);
      if (reader !== undefined) return Promise.reject(new TransportError('a read is under way', { by: 'local' }));
      return new Promise((resolve, reject) => {
        reader = { resolve, reject };
        deliver();
      });
    },
    get unread() {
      return unread;
    },
    get isOver() {
      return isOver;
    },
  };
};
