/**
 * One file of a log: what stood under its path between two rotations or truncations. It is held open, so that what was
 * renamed or deleted can still be read to its end.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { BlockCache } from './block-cache.ts';
import { BLOCK_BYTES } from './log-source.ts';

const NEWLINE = 10;
/** Bytes at the beginning by which a file is known again after a restart: i-node numbers are used anew. */
export const HEAD_BYTES = 256;
/** Bytes before the known end that must still be there when the file has grown: else it was truncated and written anew. */
const ANCHOR_BYTES = 64;

/** Something other than a file stands at the path of a log. */
class NotAFileError extends Error {
  override readonly name = 'NotAFileError';
  readonly code = 'ENOTFILE';
}

export interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

export interface Head {
  readonly length: number;
  /** SHA-256, base64url. */
  readonly hash: string;
}

export interface Generation extends FileIdentity {
  /** Offset of its first byte in the log as a whole. */
  readonly base: number;
  /** What came before is another log: told to who comes from there. */
  readonly isReset: boolean;
  /** Known bytes of the file. */
  size(): number;
  /** Bytes it has in the log: a file that is done and does not end with a newline gets one. */
  length(): number;
  isSealed(): boolean;
  /** Looks how long the file is now. */
  grow(): Promise<'same' | 'grown' | 'truncated'>;
  /** Nothing more will be written: gives it the newline that may be missing. */
  seal(): void;
  isDeleted(): Promise<boolean>;
  head(): Promise<Head>;
  /** Bytes at `position` (within {@link length}), at most `maxBytes`. */
  read(position: number, maxBytes: number): Promise<Buffer>;
  /** How often it was read. */
  stats(): { readonly reads: number; readonly bytesRead: number };
  close(): Promise<void>;
}

const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('base64url');

/** Never waits for the other end of a pipe. Throws the system's error, or {@link NotAFileError}. */
export const openLogFile = async (path: string): Promise<{ handle: FileHandle; identity: FileIdentity }> => {
  const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  const stats = await handle.stat();
  if (stats.isFile()) return { handle, identity: { dev: stats.dev, ino: stats.ino } };
  await handle.close();
  throw new NotAFileError(`${path} is no regular file`);
};

export const createGeneration = (
  deps: { cache: BlockCache },
  options: { handle: FileHandle; identity: FileIdentity; base: number; isReset: boolean },
): Generation => {
  const { handle, identity, base, isReset } = options;
  const file = deps.cache.file(handle);
  let size = 0;
  let anchor: Buffer = Buffer.alloc(0);
  let sealed = false;
  let lacksNewline = false;
  let closing: Promise<void> | undefined;

  const readExact = async (position: number, length: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(length);
    const { bytesRead } = await handle.read(buffer, 0, length, position);
    return buffer.subarray(0, bytesRead);
  };

  return {
    ...identity,
    base,
    isReset,
    size: () => size,
    length: () => size + (lacksNewline ? 1 : 0),
    isSealed: () => sealed,
    async grow() {
      const { size: now } = await handle.stat();
      if (now === size) return 'same';
      if (now < size) return 'truncated';
      if (!(await readExact(size - anchor.length, anchor.length)).equals(anchor)) return 'truncated';
      const length = Math.min(ANCHOR_BYTES, now);
      const next = await readExact(now - length, length);
      // It shrank between the two looks; the next one says so.
      if (next.length < length) return 'truncated';
      anchor = next;
      size = now;
      return 'grown';
    },
    seal() {
      sealed = true;
      lacksNewline = size > 0 && anchor.at(-1) !== NEWLINE;
    },
    isDeleted: async () => (await handle.stat()).nlink === 0,
    async head() {
      const bytes = await readExact(0, Math.min(HEAD_BYTES, size));
      return { length: bytes.length, hash: hashOf(bytes) };
    },
    async read(position, maxBytes) {
      const wanted = Math.min(maxBytes, BLOCK_BYTES, size + (lacksNewline ? 1 : 0) - position);
      const inFile = Math.min(wanted, size - position);
      const bytes = inFile > 0 ? await file.read(position, inFile, size) : Buffer.alloc(0);
      return wanted > Math.max(0, inFile) ? Buffer.concat([bytes, Buffer.from([NEWLINE])]) : bytes;
    },
    stats: () => file.stats(),
    close() {
      file.drop();
      closing ??= handle.close();
      return closing;
    },
  };
};

/** Whether an open file is the one that was known by this head. */
export const hasHead = async (handle: FileHandle, head: Head): Promise<boolean> => {
  const buffer = Buffer.alloc(head.length);
  const { bytesRead } = await handle.read(buffer, 0, head.length, 0);
  return bytesRead === head.length && hashOf(buffer) === head.hash;
};
