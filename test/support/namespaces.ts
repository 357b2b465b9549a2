/**
 * Network namespaces that are held by a process instead of a name: when whoever made them ends, however it ends, the
 * kernel takes them away with everything in them. Needs root, `unshare`, `nsenter`, `setpriv` and `ip`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlink } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { findProgram } from './system-packages.ts';
import { runProcess } from './processes.ts';

/** The holder enters its namespace within milliseconds. */
const ENTER_TIMEOUT_MS = 5_000;
const ENTER_CHECK_MS = 2;

export interface Namespace {
  /** `/proc/PID/ns/net` of the holder. */
  readonly path: string;
  /** Command and arguments before a command that is to run inside; it keeps everything else of this process. */
  readonly prefix: readonly string[];
  /** Runs a command inside to its end and gives its output. Rejects when it fails. */
  run(command: string, ...args: string[]): Promise<string>;
  close(): Promise<void>;
}

/** The command that runs `command` so that it dies with this process, even with one that is killed. */
export const boundToParent = (command: readonly string[]): string[] => ['setpriv', '--pdeathsig', 'KILL', ...command];

const succeed = async (command: readonly string[]): Promise<string> => {
  const { code, stdout, stderr } = await runProcess(command[0] ?? '', command.slice(1));
  if (code !== 0) throw new Error(`${command.join(' ')} failed: ${stderr}${stdout}`);
  return stdout;
};

export const createNamespace = async (): Promise<Namespace> => {
  const ip = findProgram('ip') ?? 'ip';
  const [program = '', ...args] = boundToParent(['unshare', '--net', '--', 'sleep', 'infinity']);
  const holder = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const path = `/proc/${holder.pid}/ns/net`;
  const prefix = ['nsenter', `--net=${path}`, '--'];
  const close = async (): Promise<void> => {
    if (holder.exitCode !== null || holder.signalCode !== null || holder.pid === undefined) return;
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  };
  const ours = await readlink('/proc/self/ns/net');
  const failed = new Promise<never>((_, reject) => {
    holder.once('error', reject);
    holder.once('exit', () => reject(new Error('no network namespace can be made: this needs root (SYS_ADMIN)')));
  });
  failed.catch(() => undefined); // it also ends when it is closed
  const entered = async (): Promise<void> => {
    for (const end = Date.now() + ENTER_TIMEOUT_MS; (await readlink(path).catch(() => ours)) === ours;) {
      if (Date.now() > end) throw new Error('no network namespace was made in time');
      await delay(ENTER_CHECK_MS);
    }
  };
  try {
    await Promise.race([entered(), failed]);
    await succeed([...prefix, ip, 'link', 'set', 'lo', 'up']);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    path,
    prefix,
    close,
    run: (command, ...rest) => succeed([...prefix, findProgram(command) ?? command, ...rest]),
  };
};

/** Joins two namespaces by a cable without delay. */
export const joinNamespaces = async (
  a: { namespace: Namespace; address: string },
  b: { namespace: Namespace; address: string },
  prefixLength: number,
): Promise<void> => {
  const pidOf = ({ path }: Namespace): string => path.split('/')[2] ?? '';
  await a.namespace.run(
    'ip',
    'link',
    'add',
    'cable0',
    'type',
    'veth',
    'peer',
    'name',
    'cable0',
    'netns',
    pidOf(b.namespace),
  );
  for (const { namespace, address } of [a, b]) {
    await namespace.run('ip', 'address', 'add', `${address}/${prefixLength}`, 'dev', 'cable0');
    await namespace.run('ip', 'link', 'set', 'cable0', 'up');
  }
};
