/**
 * Everything the benchmark starts lives in a mount and a process namespace of its own. However it ends, also by
 * SIGKILL, the kernel ends every process in there and takes the mounts, and with them all files, away.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { boundToParent } from '../../support/namespaces.ts';
import { cleanEnvironment } from '../../support/processes.ts';

/** Set for the process inside. */
const MARK = 'BENCH_INSIDE';
/** A file system in memory; nothing of the benchmark is written anywhere else. */
const PRIVATE = '/run';
export const WORK_DIRECTORY = `${PRIVATE}/bench`;
/** Ended by Ctrl-C, by the convention of shells. */
const INTERRUPTED_EXIT_CODE = 130;

export const isInside = (): boolean => process.env[MARK] !== undefined;

/** Runs this program again, inside, and gives its exit code. */
export const runInside = async (): Promise<number> => {
  const [program = '', ...args] = boundToParent([
    ...['unshare', '--mount', '--pid', '--fork', '--kill-child=SIGKILL', '--mount-proc', '--'],
    ...[process.execPath, ...process.execArgv, ...process.argv.slice(1)],
  ]);
  const environment = cleanEnvironment({
    [MARK]: '1',
    TMPDIR: WORK_DIRECTORY,
    PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
  });
  const child = spawn(program, args, { stdio: 'inherit', env: environment });
  let isInterrupted = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      isInterrupted = true;
      child.kill('SIGKILL');
    });
  }
  const [code] = (await once(child, 'exit')) as [number | null];
  return isInterrupted ? INTERRUPTED_EXIT_CODE : (code ?? 1);
};

const mount = (...args: string[]): void => {
  const { status, stderr } = spawnSync('mount', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mount ${args.join(' ')} failed: ${stderr}`);
};

/** To be called first of all inside. `hosts` stands in for /etc/hosts. */
export const furnish = (hosts: string): void => {
  // The outside decides when to end: the first process of a namespace gets only those signals that it listens for.
  mount('-t', 'tmpfs', '-o', 'mode=755', 'bench', PRIVATE);
  mkdirSync(WORK_DIRECTORY);
  mkdirSync(`${PRIVATE}/sshd`); // where sshd wants its empty directory
  writeFileSync(`${WORK_DIRECTORY}/hosts`, hosts);
  mount('--bind', `${WORK_DIRECTORY}/hosts`, '/etc/hosts');
};
