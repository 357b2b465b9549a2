/**
 * What a command has printed, as far as it is kept: a ring of blocks. Standard output and standard error are joined
 * line by line, so that no line of one stands inside a line of the other.
 */
import type { Readable } from 'node:stream';
import { BLOCK_BYTES, countNewlines, wholeCharacters } from './log-source.ts';

/** What is kept of a command's output, blocks: 4 MiB, some 40,000 lines. Who is further behind skips lines. */
const KEPT_BLOCKS = 64;
/** A line longer than this is not waited for, bytes. */
const MAX_LINE_BYTES = BLOCK_BYTES;
const NEWLINE = 10;

interface Block {
  readonly buffer: Buffer;
  length: number;
  /** Newlines before it, since the ring was made. */
  readonly linesBefore: number;
}

/** Offsets count from 0. */
export interface OutputRing {
  start(): number;
  end(): number;
  append(bytes: Buffer): void;
  /** `offset` lies between start and end. */
  read(offset: number, maxBytes: number): Buffer;
  /** Newlines before `offset`, since the ring was made. */
  linesBefore(offset: number): number;
  /** Offset of the last `lines` lines. */
  tail(lines: number): number;
}

export const createOutputRing = (maxBlocks: number = KEPT_BLOCKS): OutputRing => {
  const blocks: Block[] = [];
  /** Blocks that were dropped. */
  let dropped = 0;

  const blockAt = (offset: number): Block | undefined => blocks[Math.floor(offset / BLOCK_BYTES) - dropped];
  const start = (): number => dropped * BLOCK_BYTES;
  const end = (): number => {
    const last = blocks.at(-1);
    return last ? (dropped + blocks.length - 1) * BLOCK_BYTES + last.length : start();
  };
  const newBlock = (): Block => {
    const last = blocks.at(-1);
    const linesBefore = last ? last.linesBefore + countNewlines(last.buffer) : 0;
    const block: Block = { buffer: Buffer.alloc(BLOCK_BYTES), length: 0, linesBefore };
    blocks.push(block);
    if (blocks.length > maxBlocks) {
      blocks.shift();
      dropped += 1;
    }
    return block;
  };
  const linesBefore = (offset: number): number => {
    const block = blockAt(offset);
    if (!block) {
      const last = blocks.at(-1);
      return last ? last.linesBefore + countNewlines(last.buffer.subarray(0, last.length)) : 0;
    }
    return block.linesBefore + countNewlines(block.buffer.subarray(0, offset % BLOCK_BYTES));
  };

  return {
    start,
    end,
    append(bytes) {
      for (let at = 0; at < bytes.length;) {
        const last = blocks.at(-1);
        const block = last && last.length < BLOCK_BYTES ? last : newBlock();
        const copied = bytes.copy(block.buffer, block.length, at);
        block.length += copied;
        at += copied;
      }
    },
    read(offset, maxBytes) {
      const wanted = Math.min(maxBytes, end() - offset);
      const from = offset % BLOCK_BYTES;
      const first = blockAt(offset)?.buffer.subarray(from, Math.min(BLOCK_BYTES, from + wanted)) ?? Buffer.alloc(0);
      if (first.length === wanted) return first;
      const rest = blockAt(offset + first.length)?.buffer.subarray(0, wanted - first.length) ?? Buffer.alloc(0);
      return Buffer.concat([first, rest]);
    },
    linesBefore,
    tail(lines) {
      const stop = end();
      let missing = lines;
      for (let index = blocks.length - 1; index >= 0; index--) {
        const { buffer, length } = blocks[index] as Block;
        const base = (dropped + index) * BLOCK_BYTES;
        for (let at = length === 0 ? -1 : buffer.lastIndexOf(NEWLINE, length - 1); at !== -1;) {
          const behind = base + at + 1;
          if (behind !== stop || lines === 0) {
            missing -= 1;
            if (missing <= 0) return behind;
          }
          at = at === 0 ? -1 : buffer.lastIndexOf(NEWLINE, at - 1);
        }
      }
      return start();
    },
  };
};

/** Hands what a pipe brings to `write` in whole lines; a line that is too long, or the last one, in whole characters. */
export const readLines = (pipe: Readable, write: (bytes: Buffer) => void): { flush(): void } => {
  let held: Buffer[] = [];
  let heldBytes = 0;
  const take = (): Buffer => {
    const bytes = Buffer.concat(held);
    held = [];
    heldBytes = 0;
    return bytes;
  };
  const hold = (bytes: Buffer): void => {
    if (bytes.length === 0) return;
    held.push(bytes);
    heldBytes += bytes.length;
  };
  pipe.on('data', (chunk: Buffer) => {
    const newline = chunk.lastIndexOf(NEWLINE);
    if (newline !== -1) {
      held.push(chunk.subarray(0, newline + 1));
      write(take());
      return hold(chunk.subarray(newline + 1));
    }
    hold(chunk);
    if (heldBytes < MAX_LINE_BYTES) return;
    const bytes = take();
    const whole = wholeCharacters(bytes);
    write(bytes.subarray(0, whole));
    hold(bytes.subarray(whole));
  });
  pipe.on('error', () => undefined);
  return {
    flush() {
      if (heldBytes > 0) write(take());
    },
  };
};
