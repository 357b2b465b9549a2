/** Bytes that wait for a reader, without the cost of one object for each tiny piece that a peer chooses to send. */

/** Pieces below this are copied together: a piece costs about 150 bytes of objects, however small it is. */
const SMALL_PIECE_BYTES = 2 << 10;
/** What small pieces are gathered in. */
const GATHER_BYTES = 16 << 10;

export interface ByteQueue {
  isEmpty(): boolean;
  /** Adds a view of `chunk`, which is copied where keeping it would hold memory out of proportion. */
  push(bytes: Buffer, chunk: Uint8Array): void;
  shift(): Buffer | undefined;
}

export const createByteQueue = (): ByteQueue => {
  const pieces: Buffer[] = [];
  /** The last piece, while there is room behind it. */
  let gather: Buffer | undefined;
  let filled = 0;

  const seal = (): void => {
    if (!gather) return;
    pieces.push(gather.subarray(0, filled));
    gather = undefined;
    filled = 0;
  };

  return {
    isEmpty: () => pieces.length === 0 && !gather,
    push(bytes, chunk) {
      if (bytes.length < SMALL_PIECE_BYTES) {
        if (gather && filled + bytes.length > gather.length) seal();
        gather ??= Buffer.allocUnsafeSlow(GATHER_BYTES);
        filled += bytes.copy(gather, filled);
        return;
      }
      seal();
      // A piece that waits would hold the whole chunk that it came in.
      pieces.push(bytes.length * 2 < chunk.byteLength ? Buffer.from(bytes) : bytes);
    },
    shift() {
      if (pieces.length === 0) seal();
      return pieces.shift();
    },
  };
};
