/**
 * The files that a log has been. Rotation (renamed, a new file made), truncation (copied and emptied) and re-creation
 * (deleted and made anew) begin a new generation; the offsets go on. A generation that was renamed or deleted is read to
 * its end and stays readable for a while.
 */
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../logger.ts';
import type { BlockCache } from './block-cache.ts';
import { countLinesFrom, type FileCursor } from './file-cursor.ts';
import type { FileHistory, HistoryStore } from './file-history.ts';
import { createGeneration, type Generation, hasHead, HEAD_BYTES, openLogFile } from './generation.ts';

/** Files held open beside the current one. Beyond it the oldest is dropped, and who still reads there skips its rest. */
const KEPT_FILES = 2;
/** A file that was rotated away is held open as long, ms: as long as it is, a deleted one takes space on the disk. */
const KEPT_MS = 600_000;
/** Siblings that are searched for the file that was rotated away while nobody looked. */
const SEARCHED_SIBLINGS = 64;
/**
 * The numbering goes on so far behind the last known byte when the log changed while nobody looked (1 TiB): no offset
 * that was told before can mean a byte of the new file.
 */
const UNSEEN_GAP_BYTES = 2 ** 40;

export interface FileGenerations {
  /** The oldest first; the last one is the file under the path. */
  list(): readonly Generation[];
  /** Offset at which the next one begins. */
  nextBase(): number;
  /** Opens what is there. Rejects when that is not possible; a file that is missing is none of that. */
  begin(): Promise<void>;
  /** Looks what became of the file. Not while it looks already. */
  inspect(): Promise<void>;
  /** Keeps the position, and closes all. It may begin again. */
  end(): Promise<void>;
  stats(): { reads: number; bytesRead: number };
}

type Opened = Awaited<ReturnType<typeof openLogFile>>;
const errorCode = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

export const createFileGenerations = (
  deps: {
    readonly clock: Clock;
    readonly log: Logger;
    readonly cache: BlockCache;
    readonly history: HistoryStore;
    /** Those that read now: they are told what is dropped. */
    readonly cursors: ReadonlySet<FileCursor>;
    readonly onChange: () => void;
  },
  { path }: { readonly path: string },
): FileGenerations => {
  const { clock, log, cache, history, cursors, onChange } = deps;
  const ended = { reads: 0, bytesRead: 0 };
  const cancelKept = new Set<() => void>();
  let generations: Generation[] = [];
  let known: FileHistory | undefined;

  const nextBase = (): number => {
    const last = generations.at(-1);
    if (last) return last.base + last.length();
    return known ? known.base + known.size + UNSEEN_GAP_BYTES : 0;
  };

  // ---- generations

  const save = async (): Promise<void> => {
    const last = generations.at(-1);
    if (!last) return;
    try {
      const { dev, ino, base } = last;
      known = { version: 1, path, dev, ino, base, size: last.size(), head: await last.head() };
      await history.save(known);
    } catch (error) {
      log.warn({ err: error, path }, 'the position in a log cannot be kept: its offsets may not go on after a restart');
    }
  };

  const add = async (opened: Opened, base: number, isReset: boolean): Promise<Generation> => {
    const generation = createGeneration({ cache }, { ...opened, base, isReset });
    await generation.grow();
    generations = [...generations, generation];
    return generation;
  };

  const closeGeneration = async (generation: Generation): Promise<void> => {
    const { reads, bytesRead } = generation.stats();
    ended.reads += reads;
    ended.bytesRead += bytesRead;
    await generation.close().catch((error: unknown) => log.warn({ err: error, path }, 'closing a log failed'));
  };

  /** Takes a generation away; who still reads there is told how many lines that costs, if they can be counted. */
  const drop = (generation: Generation, canBeRead: boolean): void => {
    if (!generations.includes(generation)) return;
    generations = generations.filter((entry) => entry !== generation);
    const offsets: number[] = [];
    const counted = Promise.withResolvers<ReadonlyMap<number, number> | undefined>();
    for (const cursor of cursors) {
      cursor.onDropped(generation, async (offset) => {
        offsets.push(offset);
        return (await counted.promise)?.get(offset);
      });
    }
    (canBeRead ? countLinesFrom(generation, offsets) : Promise.resolve(undefined))
      .then(counted.resolve, (error: unknown) => {
        log.warn({ err: error, path }, 'the lines of a rotated log could not be counted');
        counted.resolve(undefined);
      })
      .then(() => closeGeneration(generation))
      .catch(() => undefined);
  };

  const keepForAWhile = (generation: Generation): void => {
    const cancel = clock.timer(KEPT_MS, () => {
      cancelKept.delete(cancel);
      drop(generation, true);
      onChange();
    });
    cancelKept.add(cancel);
    while (generations.length > KEPT_FILES + 1) drop(generations[0] as Generation, true);
  };

  /** The file that was known and is not under its path any more: log rotation renames within a directory. */
  const findRotated = async (was: FileHistory): Promise<Opened | undefined> => {
    const name = basename(path);
    const names = (await readdir(dirname(path))).filter((entry) => entry.startsWith(name) && entry !== name);
    for (const entry of names.slice(0, SEARCHED_SIBLINGS)) {
      const candidate = join(dirname(path), entry);
      const stats = await stat(candidate).catch(() => undefined);
      if (!stats?.isFile() || stats.ino !== was.ino || stats.dev !== was.dev) continue;
      const opened = await openLogFile(candidate).catch(() => undefined);
      if (opened && (await hasHead(opened.handle, was.head))) return opened;
      await opened?.handle.close();
    }
    return undefined;
  };

  /** The first file that is seen: the one that was known before, the one that took its place, or simply the first. */
  const adopt = async (opened: Opened): Promise<void> => {
    const { handle, identity } = opened;
    const was = known;
    if (!was) {
      await add(opened, 0, false);
    } else if (identity.ino === was.ino && identity.dev === was.dev) {
      const isSame = (await handle.stat()).size >= was.size && (await hasHead(handle, was.head));
      await add(opened, isSame ? was.base : nextBase(), !isSame);
    } else {
      const rotated = await findRotated(was);
      if (rotated) {
        const generation = await add(rotated, was.base, false);
        generation.seal();
        keepForAWhile(generation);
      }
      await add(opened, nextBase(), rotated === undefined);
    }
    await save();
  };

  const tryOpen = async (): Promise<Opened | undefined> => {
    try {
      return await openLogFile(path);
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  };

  const onTruncated = async (current: Generation): Promise<void> => {
    const opened = await tryOpen();
    // Gone from its path as well: the next look finds what comes there.
    if (!opened) return;
    current.seal();
    const base = nextBase();
    drop(current, false);
    await add(opened, base, true);
    await save();
    onChange();
  };

  const onReplaced = async (current: Generation): Promise<void> => {
    const opened = await tryOpen();
    if (!opened) return;
    current.seal();
    await add(opened, nextBase(), await current.isDeleted());
    keepForAWhile(current);
    await save();
    onChange();
  };

  const inspect = async (): Promise<void> => {
    const current = generations.at(-1);
    if (!current) {
      const opened = await tryOpen();
      if (opened) await adopt(opened);
      return opened ? onChange() : undefined;
    }
    const there = await stat(path).catch((error: unknown) => {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    const growth = await current.grow();
    if (growth === 'truncated') return onTruncated(current);
    if (growth === 'grown') {
      if (known && known.head.length < HEAD_BYTES && current.size() >= 2 * known.head.length) await save();
      onChange();
    }
    // While the new file is empty its writer may still write to the old one.
    const isOther = there !== undefined && (there.ino !== current.ino || there.dev !== current.dev);
    if (isOther && there.isFile() && there.size > 0) await onReplaced(current);
  };

  return {
    list: () => generations,
    nextBase,
    async begin() {
      known ??= await history.load(path);
      const opened = await tryOpen();
      if (opened) await adopt(opened);
    },
    inspect,
    async end() {
      cancelKept.forEach((cancel) => cancel());
      cancelKept.clear();
      await save();
      const closing = generations;
      generations = [];
      await Promise.all(closing.map(closeGeneration));
    },
    stats: () =>
      generations.reduce((sum, generation) => {
        const { reads, bytesRead } = generation.stats();
        return { reads: sum.reads + reads, bytesRead: sum.bytesRead + bytesRead };
      }, ended),
  };
};
