/**
 * A log as its followers see it: one long run of bytes whose offsets count up over rotation, truncation and a new run
 * of a command, and that is read at the pace of whoever reads.
 *
 *     offset   0 ─────────── start ───────────────────────── end
 *              gone (rotated     │ a file: what is on disk    │ what comes next
 *              away, or the ring │ a command: the last 4 MiB  │
 *              went on)
 *
 * A source keeps nothing for a follower but a cursor: a slow one costs no memory, and is told what it missed.
 */

/** Where a log comes from, as an environment's configuration says it. */
export type LogSettings = { readonly file: string } | { readonly command: readonly string[] };

/** Bytes that are read and kept together. */
export const BLOCK_BYTES = 64 << 10;
/** Largest piece that a cursor gives; a line longer than this comes in pieces. One block: a follower holds no more. */
export const MAX_PIECE_BYTES = BLOCK_BYTES;
const NEWLINE = 10;

export type LogStep =
  /** What stands at the cursor. `last`: behind these bytes the line cannot go on any more, although no newline ends it. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer; readonly last: boolean }
  /** What stood at the cursor is gone; the cursor is behind it. `lines` is undefined where nobody can count them. */
  | { readonly kind: 'skipped'; readonly lines: number | undefined; readonly bytes: number }
  /** From here on the log is another one: it was truncated, deleted and made anew, or the command runs again. */
  | { readonly kind: 'reset' };

export interface LogCursor {
  /** Of the next byte. */
  readonly offset: number;
  /** What comes next, at most {@link MAX_PIECE_BYTES}; undefined when there is nothing yet. `skipped` and `reset` once. */
  next(): Promise<LogStep | undefined>;
  /** `bytes` of the last `bytes` step are done with. */
  advance(bytes: number): void;
  close(): void;
}

/** Where a reader begins. */
export type LogStart =
  | { readonly kind: 'all' }
  /** The last so many lines. */
  | { readonly kind: 'tail'; readonly lines: number }
  /** Goes on at an offset that an earlier response named. */
  | { readonly kind: 'since'; readonly offset: number };

export interface LogSource {
  /** Must be called before anything else, each time. Rejects with the system's error when the log cannot be read. */
  open(start: LogStart): Promise<void>;
  /** Nobody needs the log any more that called `open`. */
  release(): void;
  /** Behind the last byte there is now. */
  end(): number;
  cursor(start: LogStart): Promise<LogCursor>;
  /** True when nothing more will come: the command has ended. */
  isOver(): boolean;
  /** Counts changes: more bytes, another file, the end. */
  version(): number;
  /** Resolves when the version is not `seen` any more, or when the signal is aborted. */
  changed(seen: number, signal: AbortSignal): Promise<void>;
  stats(): LogSourceStats;
  close(): Promise<void>;
}

export interface LogSourceStats {
  /** Reads from the file or the command, and what they brought: not a function of how many follow. */
  readonly reads: number;
  readonly bytesRead: number;
}

export const countNewlines = (bytes: Uint8Array): number => {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count += 1;
  return count;
};

/** Length of the longest prefix of `bytes` that does not end inside of a UTF-8 sequence (RFC 3629 section 3). */
export const wholeCharacters = (bytes: Uint8Array): number => {
  const { length } = bytes;
  for (let back = 1; back <= 3 && back <= length; back++) {
    const byte = bytes[length - back] as number;
    if (byte >> 6 === 0b10) continue;
    const expected = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return expected > back ? length - back : length;
  }
  return length;
};

/** How much of a piece may be sent: whole lines; of a line that fills the piece, or will not go on, whole characters. */
export const sendable = (bytes: Buffer, last: boolean): number => {
  if (last) return bytes.length;
  const newline = bytes.lastIndexOf(NEWLINE);
  if (newline !== -1) return newline + 1;
  return bytes.length < MAX_PIECE_BYTES ? 0 : wholeCharacters(bytes);
};

/** Tells everybody who waits for the next change of something. */
export interface ChangeSignal {
  version(): number;
  changed(seen: number, signal: AbortSignal): Promise<void>;
  raise(): void;
}

export const createChangeSignal = (): ChangeSignal => {
  let version = 0;
  const waiting = new Set<() => void>();
  return {
    version: () => version,
    changed: (seen, signal) =>
      new Promise((resolve) => {
        if (version !== seen || signal.aborted) return resolve();
        const wake = (): void => {
          waiting.delete(wake);
          signal.removeEventListener('abort', wake);
          resolve();
        };
        waiting.add(wake);
        signal.addEventListener('abort', wake, { once: true });
      }),
    raise() {
      version += 1;
      for (const wake of [...waiting]) wake();
    },
  };
};
