/** Child processes whose output goes to log files, and that all end together. */
import { spawn } from 'node:child_process';
import { createReadStream, openSync, closeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { createInterface } from 'node:readline/promises';

/** How long a child may take to end by itself after SIGTERM, ms. A second SIGTERM then asks it to end at once. */
const GRACE_MS = 3_000;
/** After the second SIGTERM, ms; then SIGKILL. */
const SECOND_GRACE_MS = 2_000;
/** Lines of its log that are shown of a child that died. */
const SHOWN_LOG_LINES = 15;

export interface Child {
  readonly name: string;
  readonly logPath: string;
  /** How it ended, in words. Never rejects. */
  readonly ended: Promise<string>;
  stop(): Promise<void>;
}

export interface ChildOptions {
  readonly name: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly logPath: string;
}

export const startChild = ({ name, args, cwd, env, logPath }: ChildOptions): Child => {
  const log = openSync(logPath, 'w', 0o600);
  // Detached: a Ctrl-C reaches this process alone, which then ends its children in order.
  const child = spawn(process.execPath, args, { cwd, env, stdio: ['ignore', log, log], detached: true });
  closeSync(log);
  const ended = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(`could not be started: ${error.message}`));
    child.on('exit', (code, signal) => resolve(signal ? `was ended by ${signal}` : `ended with exit code ${code}`));
  });
  const hasEnded = async (withinMs: number): Promise<boolean> => {
    const timer = new AbortController();
    const tooLate = delay(withinMs, false, { signal: timer.signal }).catch(() => false);
    const result = await Promise.race([ended.then(() => true), tooLate]);
    timer.abort();
    return result;
  };
  return {
    name,
    logPath,
    ended,
    stop: async () => {
      for (const [signal, graceMs] of [
        ['SIGTERM', GRACE_MS],
        ['SIGTERM', SECOND_GRACE_MS],
      ] as const) {
        child.kill(signal);
        if (await hasEnded(graceMs)) return;
      }
      child.kill('SIGKILL');
      await ended;
    },
  };
};

/** The last lines of a log, indented. */
export const lastLogLines = async (logPath: string): Promise<string> => {
  const lines: string[] = [];
  for await (const line of createInterface({ input: createReadStream(logPath) })) {
    lines.push(line);
    if (lines.length > SHOWN_LOG_LINES) lines.shift();
  }
  return lines.map((line) => `    ${line}`).join('\n') || '    (nothing)';
};
