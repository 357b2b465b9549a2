/** Programs of the benchmark: started, waited for, looked at, ended. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type ProcessOptions, spawnProcess } from '../support/processes.ts';

/** A program that has not come up by then will not, ms. */
const START_TIMEOUT_MS = 120_000;
/** Kept of what a program says: enough to see why it failed. */
const KEPT_OUTPUT_CHARACTERS = 1 << 20;
/** USER_HZ of Linux, a second. */
const CLOCK_TICKS = 100;

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  output(): string;
  /** Resolves with the first match in what it said. Rejects when it ends, or takes too long. */
  waitFor(pattern: RegExp): Promise<RegExpExecArray>;
  /** Resident memory, bytes. */
  rss(): Promise<number>;
  /** Time on processors so far, all threads, s. Says more than the clock where other programs run too. */
  cpuSeconds(): Promise<number>;
  stop(): Promise<void>;
}

/** Its standard input stays open until it is stopped. Throws when it cannot be started. */
export const spawnProgram = (
  [program = '', ...args]: readonly string[],
  options: Pick<ProcessOptions, 'cwd'> = {},
): Program => {
  const started = spawnProcess(program, args, {
    ...options,
    hasInput: true,
    keptCharacters: KEPT_OUTPUT_CHARACTERS,
  });
  const { child } = started;
  const { pid } = child;
  if (pid === undefined) throw new Error(`${program} cannot be started`);
  return {
    pid,
    child,
    output: () => started.output(),
    waitFor: (pattern) => started.waitForOutput(pattern, { timeoutMs: START_TIMEOUT_MS }),
    async rss() {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1_024;
    },
    async cpuSeconds() {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
      // proc(5): utime and stime are fields 14 and 15; the name before them may hold anything but the last bracket.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS;
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      // What it started may live on, and hold its output open: that is not waited for.
      const ended = once(child, 'exit');
      void started.stop();
      await ended;
    },
  };
};
