/** Programs that tests and benchmarks start: their output can be waited for. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';

/** A program that says nothing for so long will not say it any more, ms. */
export const OUTPUT_TIMEOUT_MS = 30_000;
/** From SIGTERM to SIGKILL, ms. */
const STOP_GRACE_MS = 5_000;

export interface ProcessOptions {
  readonly cwd?: string;
  /** Added to (or, with undefined, taken from) the cleaned environment of the test. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface StartedProcess {
  readonly child: ChildProcess;
  /** Everything that came out so far, standard output and error as they came. */
  output(): string;
  /** Resolves with the first match in what came out, also before the call. Rejects when the program ends first. */
  waitForOutput(pattern: RegExp, options?: { timeoutMs?: number }): Promise<RegExpExecArray>;
  readonly exited: Promise<Exit>;
  /** SIGTERM, and SIGKILL when that does not help. May be called twice. */
  stop(): Promise<Exit>;
}

/**
 * What a program inherits: not the variables by which npm and the test runner talk to their own children, and none
 * that configure gateway or tunnel client.
 */
export const cleanEnvironment = (extra: ProcessOptions['env'] = {}): NodeJS.ProcessEnv => {
  const isForeign = (name: string): boolean =>
    (/^npm_/i.test(name) && name.toLowerCase() !== 'npm_config_registry') ||
    /^(?:NODE_TEST_CONTEXT|NODE_OPTIONS|INIT_CWD|GATEWAY_.*|TUNNEL_.*)$/.test(name);
  return { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !isForeign(name))), ...extra };
};

/** Whoever starts it ends it. */
export const spawnProcess = (
  command: string,
  args: readonly string[],
  options: ProcessOptions & {
    /** Its standard input stays open until it ends; otherwise it has none. */
    readonly hasInput?: boolean;
    /** Of what comes out, at least so many characters are kept. Default: all of them. */
    readonly keptCharacters?: number;
  } = {},
): StartedProcess => {
  const { keptCharacters = Infinity } = options;
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: cleanEnvironment(options.env),
    stdio: [options.hasInput ? 'pipe' : 'ignore', 'pipe', 'pipe'],
  });
  child.stdin?.on('error', () => undefined); // it may end without reading
  let text = '';
  const waiting = new Set<() => void>();
  const add = (chunk: string): void => {
    text += chunk;
    if (text.length > 2 * keptCharacters) text = text.slice(-keptCharacters);
    for (const check of waiting) check();
  };
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', add);
  const exited = new Promise<Exit>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  // A program that cannot be started is reported by whoever waits for it; nobody may.
  exited.catch(() => undefined);

  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
  const stop = async (): Promise<Exit> => {
    if (!hasEnded()) {
      child.kill('SIGTERM');
      const killer = setTimeout(() => child.kill('SIGKILL'), STOP_GRACE_MS);
      await once(child, 'exit').finally(() => clearTimeout(killer));
    }
    return exited;
  };
  return {
    child,
    output: () => text,
    exited,
    stop,
    waitForOutput: (pattern, { timeoutMs = OUTPUT_TIMEOUT_MS } = {}) =>
      new Promise((resolve, reject) => {
        const finish = (settle: () => void): void => {
          waiting.delete(check);
          clearTimeout(timer);
          settle();
        };
        const check = (): void => {
          const match = new RegExp(pattern.source, pattern.flags.replace('g', '')).exec(text);
          if (match) finish(() => resolve(match));
        };
        const fail = (why: string) => finish(() => reject(new Error(`${command} ${why} without ${pattern}:\n${text}`)));
        const timer = setTimeout(() => fail(`went on for ${timeoutMs} ms`), timeoutMs);
        waiting.add(check);
        exited.then(
          () => {
            check();
            fail('ended');
          },
          (error: unknown) => finish(() => reject(error instanceof Error ? error : new Error(String(error)))),
        );
        check();
      }),
  };
};

/** It is gone when the test is. */
export const startProcess = (
  t: TestContext,
  command: string,
  args: readonly string[],
  options: ProcessOptions = {},
): StartedProcess => {
  const started = spawnProcess(command, args, options);
  t.after(async () => {
    await started.stop().catch(() => undefined); // could not be started: nothing to stop
  });
  return started;
};

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. A code other than 0 is a result, not an error. */
export const runProcess = (
  command: string,
  args: readonly string[],
  options: ProcessOptions & { timeoutMs?: number; input?: string } = {},
): Promise<Finished> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: cleanEnvironment(options.env),
      timeout: options.timeoutMs ?? OUTPUT_TIMEOUT_MS,
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
    child.stdin.on('error', () => undefined); // it may end without reading
    child.stdin.end(options.input);
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
