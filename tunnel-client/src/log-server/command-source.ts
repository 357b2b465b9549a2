/**
 * A log that a command prints. It runs while somebody follows, and a while longer, once for all of them; the last part
 * of its output is kept. A command that ends by itself with exit code 0 has said everything; any other end is an
 * accident, after which it runs again for the next who asks. Each run is a log of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../logger.ts';
import { createOutputRing, type OutputRing, readLines } from './command-output.ts';
import { endProcess } from './end-process.ts';
import { countNewlines, createChangeSignal, type LogCursor, type LogSource, MAX_PIECE_BYTES } from './log-source.ts';

/** A command that nobody follows goes on for so long, ms: a follower that lost its leg comes back within. */
const LINGER_MS = 600_000;
/** Between two starts of a command, ms: one that fails at once is no reason to start a process for each request. */
const RUN_AGAIN_MS = 5_000;
/**
 * The offsets of a run begin at its time of start (ms) times this: above all that an earlier run had, also one of an
 * earlier process of the client, as long as that printed less than 2 MiB/s on average. Fits in 53 bits until 2109.
 */
const OFFSETS_PER_MS = 2_048;
/** A follower that fell out of the ring goes on in its middle: at its end it would fall out again at once. */
const RESUME_AT = 0.5;

export interface CommandSourceDeps {
  readonly clock: Clock;
  readonly log: Logger;
  /** Environment variables of the command; absent: those of the process. */
  readonly variables: Readonly<Record<string, string | undefined>> | undefined;
}

interface Run {
  readonly base: number;
  readonly ring: OutputRing;
  readonly child: ChildProcess;
  /** Monotonic ms. */
  readonly startedAt: number;
  readonly closed: Promise<unknown>;
  over: 'no' | 'done' | 'failed';
  reads: number;
}

/** The first line that begins at or behind `offset`; `offset` where no line ends soon. */
const lineBegin = (ring: OutputRing, offset: number): number => {
  const newline = offset === 0 ? -1 : ring.read(offset, MAX_PIECE_BYTES).indexOf(10);
  return newline === -1 ? offset : offset + newline + 1;
};

export const createCommandSource = (
  deps: CommandSourceDeps,
  options: { command: readonly string[]; environmentId: string },
): LogSource => {
  const { clock, log } = deps;
  const { environmentId } = options;
  const [program = '', ...parameters] = options.command;
  const change = createChangeSignal();
  const ended = { reads: 0, bytesRead: 0 };
  let run: Run | undefined;
  let starting: Promise<void> | undefined;
  let ending: Promise<void> | undefined;
  let users = 0;
  let closed = false;
  let cancelLinger = (): void => undefined;

  const endOf = ({ base, ring }: Run): number => base + ring.end();

  const startRun = async (): Promise<void> => {
    const base = Math.max(run ? endOf(run) + 1 : 0, Math.floor(clock.now()) * OFFSETS_PER_MS);
    const child = spawn(program, parameters, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: process.platform !== 'win32',
      windowsHide: true,
      ...(deps.variables ? { env: deps.variables } : {}),
    });
    const ring = createOutputRing();
    const closing = new Promise((resolve) => child.once('close', resolve));
    const next: Run = { base, ring, child, startedAt: clock.monotonic(), closed: closing, over: 'no', reads: 0 };
    const append = (bytes: Buffer): void => {
      ring.append(bytes);
      next.reads += 1;
      change.raise();
    };
    const pipes = [child.stdout, child.stderr].map((pipe) => readLines(pipe, append));
    child.once('close', (code, signal) => {
      pipes.forEach((pipe) => pipe.flush());
      next.over = code === 0 ? 'done' : 'failed';
      log[code === 0 || ending || closed ? 'info' : 'warn']({ environmentId, code, signal }, 'a log command has ended');
      change.raise();
    });
    await once(child, 'spawn');
    child.on('error', (error) => log.warn({ err: error, environmentId }, 'a log command has a problem'));
    if (run) {
      ended.reads += run.reads;
      ended.bytesRead += run.ring.end();
    }
    run = next;
    log.info({ environmentId, program, pid: child.pid }, 'a log command has started');
    change.raise();
  };

  const stop = (): Promise<void> => {
    cancelLinger();
    if (run?.over === 'no') {
      ending ??= endProcess({ clock }, run.child, run.closed).finally(() => {
        ending = undefined;
      });
    }
    return ending ?? Promise.resolve();
  };
  const release = (): void => {
    users -= 1;
    if (users > 0 || closed) return;
    cancelLinger();
    cancelLinger = clock.timer(LINGER_MS, () => void stop());
  };
  const isOld = ({ startedAt }: Run): boolean => clock.monotonic() - startedAt >= RUN_AGAIN_MS;

  return {
    async open(start) {
      users += 1;
      cancelLinger();
      try {
        await ending;
        // Who goes on where a command has ended for good gets nothing twice.
        const isRead = run?.over === 'done' && start.kind === 'since' && start.offset <= endOf(run);
        if (!run || (run.over !== 'no' && isOld(run) && !isRead)) {
          starting ??= startRun().finally(() => {
            starting = undefined;
          });
          await starting;
        }
      } catch (error) {
        release();
        throw error;
      }
    },
    release,
    end: () => (run ? endOf(run) : 0),
    cursor(start) {
      let at = run;
      if (!at) throw new TypeError('the log is not open');
      const { base, ring } = at;
      let offset = 0;
      let isReset = false;
      let lost: number | undefined;
      if (start.kind === 'tail') offset = ring.tail(start.lines);
      else if (start.kind === 'all') offset = lineBegin(ring, ring.start());
      else if (start.offset >= base + ring.start() && start.offset <= base + ring.end()) offset = start.offset - base;
      else {
        offset = lineBegin(ring, ring.start());
        if (start.offset >= base && start.offset < base + offset) lost = base + offset - start.offset;
        else isReset = true;
      }
      let line = ring.linesBefore(offset);
      let given: Buffer = Buffer.alloc(0);

      const cursor: LogCursor = {
        get offset() {
          return (at as Run).base + offset;
        },
        next() {
          if (lost !== undefined) {
            const bytes = lost;
            lost = undefined;
            return Promise.resolve({ kind: 'skipped', lines: undefined, bytes });
          }
          if (isReset) {
            isReset = false;
            return Promise.resolve({ kind: 'reset' });
          }
          const { ring: here, over } = at as Run;
          if (offset < here.start()) {
            const middle = here.start() + Math.floor((here.end() - here.start()) * RESUME_AT);
            const before = { offset, line };
            offset = lineBegin(here, middle);
            line = here.linesBefore(offset);
            return Promise.resolve({ kind: 'skipped', lines: line - before.line, bytes: offset - before.offset });
          }
          if (offset < here.end()) {
            given = here.read(offset, MAX_PIECE_BYTES);
            const isLast = over !== 'no' && offset + given.length === here.end();
            return Promise.resolve({ kind: 'bytes', bytes: given, last: isLast });
          }
          if (over === 'no' || run === at) return Promise.resolve(undefined);
          at = run;
          offset = lineBegin((at as Run).ring, (at as Run).ring.start());
          line = (at as Run).ring.linesBefore(offset);
          return Promise.resolve({ kind: 'reset' });
        },
        advance(bytes) {
          line += countNewlines(given.subarray(0, bytes));
          offset += bytes;
        },
        close: () => undefined,
      };
      return Promise.resolve(cursor);
    },
    isOver: () => closed || run === undefined || run.over !== 'no',
    version: change.version,
    changed: change.changed,
    stats: () => ({
      reads: ended.reads + (run?.reads ?? 0),
      bytesRead: ended.bytesRead + (run?.ring.end() ?? 0),
    }),
    async close() {
      if (closed) return;
      closed = true;
      change.raise();
      await starting?.catch(() => undefined);
      await stop();
    },
  };
};
