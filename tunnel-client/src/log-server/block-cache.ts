/**
 * Blocks of files that were read, shared by everybody who follows: 200 followers of one log cost one read. The least
 * recently used blocks are dropped.
 */
import type { FileHandle } from 'node:fs/promises';
import { BLOCK_BYTES } from './log-source.ts';

/** Blocks of all logs of a client, 16 MiB: what some hundred followers near the end of their logs need. */
const CACHED_BLOCKS = 256;

/** The file is shorter than it was a moment ago. */
export class TruncatedError extends Error {
  override readonly name = 'TruncatedError';
}

interface Block {
  readonly buffer: Buffer;
  /** Bytes that are valid. */
  length: number;
  loading: Promise<void> | undefined;
}

export interface CachedFile {
  /**
   * `length` bytes at `position`, at most {@link BLOCK_BYTES}, of a file that has `size`; the memory is shared, and not
   * to be changed. Throws {@link TruncatedError} when the file ends before.
   */
  read(position: number, length: number, size: number): Promise<Buffer>;
  /** Forgets its blocks. */
  drop(): void;
  stats(): { readonly reads: number; readonly bytesRead: number };
}

export interface BlockCache {
  file(handle: FileHandle): CachedFile;
}

export const createBlockCache = (maxBlocks: number = CACHED_BLOCKS): BlockCache => {
  /** In the order of their last use. */
  const blocks = new Map<string, Block>();
  let files = 0;

  const touch = (key: string): Block => {
    const block = blocks.get(key) ?? { buffer: Buffer.allocUnsafeSlow(BLOCK_BYTES), length: 0, loading: undefined };
    blocks.delete(key);
    blocks.set(key, block);
    if (blocks.size > maxBlocks) {
      const [oldest] = blocks.keys();
      if (oldest !== undefined) blocks.delete(oldest);
    }
    return block;
  };

  return {
    file(handle) {
      const name = (files += 1);
      const stats = { reads: 0, bytesRead: 0 };

      const fill = async (block: Block, position: number, length: number): Promise<void> => {
        const { bytesRead } = await handle.read(block.buffer, block.length, length - block.length, position);
        stats.reads += 1;
        stats.bytesRead += bytesRead;
        if (bytesRead === 0) throw new TruncatedError('the file is shorter than it was');
        block.length += bytesRead;
      };
      /** The block `index`, with at least `length` valid bytes. Who comes while it is read, waits for the same read. */
      const load = async (index: number, length: number, size: number): Promise<Buffer> => {
        const block = touch(`${name}:${index}`);
        const available = Math.max(length, Math.min(BLOCK_BYTES, size - index * BLOCK_BYTES));
        while (block.length < length) {
          block.loading ??= fill(block, index * BLOCK_BYTES + block.length, available).finally(() => {
            block.loading = undefined;
          });
          await block.loading;
        }
        return block.buffer;
      };

      return {
        async read(position, length, size) {
          const index = Math.floor(position / BLOCK_BYTES);
          const from = position - index * BLOCK_BYTES;
          const inFirst = Math.min(length, BLOCK_BYTES - from);
          const first = (await load(index, from + inFirst, size)).subarray(from, from + inFirst);
          if (inFirst === length) return first;
          const rest = (await load(index + 1, length - inFirst, size)).subarray(0, length - inFirst);
          return Buffer.concat([first, rest]);
        },
        drop() {
          for (const key of blocks.keys()) if (key.startsWith(`${name}:`)) blocks.delete(key);
        },
        stats: () => stats,
      };
    },
  };
};
