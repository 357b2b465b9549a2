/** Programs in a namespace of the benchmark: started, waited for, looked at, ended. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { boundToParent, type Namespace } from '../../support/namespaces.ts';
import { cleanEnvironment } from '../../support/processes.ts';

/** A program that has not come up by then will not, ms. */
const START_TIMEOUT_MS = 120_000;
const STOP_GRACE_MS = 5_000;
/** Kept of what a program says: enough to see why it failed. */
const KEPT_OUTPUT_CHARACTERS = 1 << 18;
/** USER_HZ of Linux, a second. */
const CLOCK_TICKS = 100;

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  output(): string;
  /** Resolves with the first match in what it said. Rejects when it ends, or takes too long. One call at a time. */
  waitFor(pattern: RegExp): Promise<RegExpExecArray>;
  /** Resident memory of it and what it started, bytes. */
  rss(): Promise<number>;
  /** Time on processors so far, all threads, s. */
  cpuSeconds(): Promise<number>;
  stop(): Promise<void>;
}

/** Starts `command` inside `namespace`. Its standard input stays open until it is stopped. */
export const startProgram = (namespace: Namespace, command: readonly string[]): Program => {
  const [program = '', ...args] = boundToParent([...namespace.prefix, ...command]);
  const child = spawn(program, args, { env: cleanEnvironment(), stdio: 'pipe' });
  const name = command.slice(0, 3).join(' ');
  child.stdin.on('error', () => undefined); // it may end without reading
  let text = '';
  let check = (): void => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.length > 2 * KEPT_OUTPUT_CHARACTERS) text = text.slice(-KEPT_OUTPUT_CHARACTERS);
      check();
    });
  }
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} cannot be started`);
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
  return {
    pid,
    child,
    output: () => text,
    waitFor: (pattern) =>
      new Promise((resolve, reject) => {
        const finish = (settle: () => void): void => {
          clearTimeout(timer);
          child.off('exit', onExit);
          check = () => {};
          settle();
        };
        const onExit = (): void => finish(() => reject(new Error(`${name} ended:\n${text}`)));
        const timer = setTimeout(
          () => finish(() => reject(new Error(`${name} did not say ${pattern}:\n${text}`))),
          START_TIMEOUT_MS,
        );
        child.once('exit', onExit);
        check = () => {
          const match = pattern.exec(text);
          if (match) finish(() => resolve(match));
        };
        if (hasEnded()) onExit();
        else check();
      }),
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
      if (hasEnded()) return;
      child.kill('SIGTERM');
      const killer = setTimeout(() => child.kill('SIGKILL'), STOP_GRACE_MS);
      await once(child, 'exit');
      clearTimeout(killer);
    },
  };
};

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command in a namespace to its end. */
export const runProgram = async (
  namespace: Namespace,
  command: readonly string[],
  timeoutMs: number,
): Promise<Ended> => {
  const [program = '', ...args] = boundToParent([...namespace.prefix, ...command]);
  const child = spawn(program, args, {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: timeoutMs,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
};
