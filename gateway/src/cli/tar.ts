/**
 * Writes an archive of regular files in the format of POSIX.1-1988 (ustar), which every tar reads:
 *
 *     header, 512 bytes | content, padded to 512 bytes | … | two blocks of zeros
 */
import { stat, type FileHandle } from 'node:fs/promises';
import { createReadStream } from 'node:fs';

const BLOCK_BYTES = 512;
/** What eleven octal digits hold, bytes. */
const MAX_FILE_BYTES = 0o77777777777;
const MAX_NAME_BYTES = 100;

export interface TarEntry {
  /** Path in the archive. */
  readonly name: string;
  /** Path of the file. */
  readonly path: string;
}

const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, '0')}\0`;

const header = (name: string, size: number, modifiedAt: number): Buffer => {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES || size > MAX_FILE_BYTES) throw new RangeError(`${name} does not fit`);
  const block = Buffer.alloc(BLOCK_BYTES);
  const put = (text: string, offset: number): void => void block.write(text, offset, 'utf8');
  put(name, 0);
  put(octal(0o600, 8), 100);
  put(octal(0, 8), 108);
  put(octal(0, 8), 116);
  put(octal(size, 12), 124);
  put(octal(Math.floor(modifiedAt / 1_000), 12), 136);
  // The checksum counts as spaces while it is made.
  put(' '.repeat(8), 148);
  put('0', 156);
  put('ustar\u000000', 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
};

/** Writes all of `entries`, none of which may change meanwhile. */
export const writeTar = async (file: FileHandle, entries: readonly TarEntry[]): Promise<void> => {
  for (const { name, path } of entries) {
    const { size, mtimeMs } = await stat(path);
    await file.write(header(name, size, mtimeMs));
    let written = 0;
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      await file.write(chunk);
      written += chunk.length;
    }
    if (written !== size) throw new Error(`${path} changed while it was read`);
    await file.write(Buffer.alloc((BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES));
  }
  await file.write(Buffer.alloc(2 * BLOCK_BYTES));
};
