/** Reads a log that is kept in files: from one generation into the next, and over what is gone. */
import { TruncatedError } from './block-cache.ts';
import type { Generation } from './generation.ts';
import { BLOCK_BYTES, countNewlines, type LogCursor, type LogStart, MAX_PIECE_BYTES } from './log-source.ts';

/** Lines of a file that is dropped are counted for who had not read them, up to so many bytes: some 100 ms. */
const MAX_COUNTED_BYTES = 256 << 20;

export interface FileCursorDeps {
  /** The files there are, oldest first. */
  readonly generations: () => readonly Generation[];
  /** Looks at the file again: a read has shown that it is not what it was. */
  readonly look: () => Promise<void>;
  readonly onClose: (cursor: FileCursor) => void;
  /** Where a log begins that has no file yet. */
  readonly nextBase: () => number;
}

export interface FileCursor extends LogCursor {
  /** The generation is taken away: what the cursor had before it there is lost. `lines` counts the lost lines. */
  onDropped(generation: Generation, lines: (offset: number) => Promise<number | undefined>): void;
}

const endOf = (generation: Generation): number => generation.base + generation.length();

export const createFileCursor = (deps: FileCursorDeps, start: LogStart, tailOffset: number | undefined): FileCursor => {
  const { generations } = deps;
  let offset = deps.nextBase();
  /** False while there is no file yet. */
  let placed = false;
  let current: Generation | undefined;
  let lost: { readonly bytes: number; readonly lines: Promise<number | undefined> } | undefined;
  let isReset = false;

  const place = (): void => {
    const [first] = generations();
    const last = generations().at(-1);
    if (!first || !last || placed) return;
    placed = true;
    const wanted = start.kind === 'since' ? start.offset : (tailOffset ?? first.base);
    // From a log that this one is not any more, or whose beginning is gone.
    isReset = wanted > endOf(last);
    offset = isReset || wanted < first.base ? first.base : wanted;
    if (wanted < first.base) lost = { bytes: first.base - wanted, lines: Promise.resolve(undefined) };
  };
  place();
  if (!placed && start.kind === 'since') offset = start.offset;

  /** The generation at the cursor. */
  const find = (): Generation | undefined => {
    const [first] = generations();
    if (first && offset < first.base) offset = first.base;
    return generations().findLast(({ base }) => base <= offset);
  };

  /** What has to be told before more bytes, and where the cursor goes for that. */
  const move = (generation: Generation): { readonly bytes: number } | 'reset' | undefined => {
    const next = generations()[generations().indexOf(generation) + 1];
    if (offset >= endOf(generation) && next) {
      const bytes = next.base - offset;
      offset = next.base;
      // A gap of the numbering, where nobody knows how much is missing, is told by the reset alone.
      if (bytes > 0 && !next.isReset) return { bytes };
      return move(next);
    }
    const before = current;
    current = generation;
    if (before === generation || !generation.isReset || offset !== generation.base) return undefined;
    return before !== undefined || start.kind === 'since' ? 'reset' : undefined;
  };

  const cursor: FileCursor = {
    get offset() {
      return offset;
    },
    async next() {
      place();
      if (lost) {
        const { bytes, lines } = lost;
        lost = undefined;
        return { kind: 'skipped', bytes, lines: await lines };
      }
      if (isReset) {
        isReset = false;
        current = find();
        return { kind: 'reset' };
      }
      const generation = find();
      if (!generation) return undefined;
      const told = move(generation);
      if (told === 'reset') return { kind: 'reset' };
      if (told) return { kind: 'skipped', bytes: told.bytes, lines: undefined };
      const here = current as Generation;
      const position = offset - here.base;
      if (position >= here.length()) return undefined;
      let bytes: Buffer;
      try {
        bytes = await here.read(position, MAX_PIECE_BYTES);
      } catch (error) {
        if (!(error instanceof TruncatedError)) throw error;
        if (here.isSealed()) cursor.onDropped(here, () => Promise.resolve(undefined));
        else await deps.look();
        // Emptied, and its path is gone as well: what comes there is told later.
        return !here.isSealed() && generations().includes(here) ? undefined : cursor.next();
      }
      // Dropped meanwhile: what is true now is told by the next step.
      if (offset !== here.base + position) return cursor.next();
      const isLast = here.isSealed() && position + bytes.length === here.length();
      return { kind: 'bytes', bytes, last: isLast };
    },
    advance(bytes) {
      // Not when the cursor was moved after it gave the bytes.
      if (current && generations().includes(current)) offset += bytes;
    },
    onDropped(generation, lines) {
      if (!placed || offset < generation.base || offset >= endOf(generation)) return;
      lost = { bytes: endOf(generation) - offset, lines: lines(offset) };
      offset = endOf(generation);
    },
    close: () => deps.onClose(cursor),
  };
  return cursor;
};

/** Newlines from each of `offsets` to the end of a generation, in one pass; undefined where it cannot be read. */
export const countLinesFrom = async (
  generation: Generation,
  offsets: readonly number[],
): Promise<ReadonlyMap<number, number> | undefined> => {
  const sorted = [...new Set(offsets)].sort((a, b) => a - b);
  const [first] = sorted;
  const end = endOf(generation);
  if (first === undefined || end - first > MAX_COUNTED_BYTES) return undefined;
  /** Newlines between `first` and the offset. */
  const before = new Map<number, number>();
  let total = 0;
  let at = first;
  try {
    for (const stop of [...sorted, end]) {
      while (at < stop) {
        const bytes = await generation.read(at - generation.base, Math.min(BLOCK_BYTES, stop - at));
        total += countNewlines(bytes);
        at += bytes.length;
      }
      if (stop !== end) before.set(stop, total);
    }
  } catch (error) {
    if (error instanceof TruncatedError) return undefined;
    throw error;
  }
  return new Map([...before].map(([offset, count]) => [offset, total - count]));
};

/** Offset of the last `lines` lines, over all generations that are there. A last line without its newline counts. */
export const findTail = async (generations: readonly Generation[], lines: number): Promise<number | undefined> => {
  if (generations.length === 0) return undefined;
  let missing = lines;
  const last = generations.at(-1) as Generation;
  for (const generation of [...generations].reverse()) {
    let end = generation.length();
    while (end > 0) {
      const from = Math.max(0, end - BLOCK_BYTES);
      const bytes = await generation.read(from, end - from);
      for (let at = bytes.lastIndexOf(10); at !== -1; at = at === 0 ? -1 : bytes.lastIndexOf(10, at - 1)) {
        const behind = generation.base + from + at + 1;
        // The newline at the very end ends the last line and begins none.
        if (behind === endOf(last) && lines > 0) continue;
        missing -= 1;
        if (missing <= 0) return behind;
      }
      end = from;
    }
  }
  return generations[0]?.base;
};
