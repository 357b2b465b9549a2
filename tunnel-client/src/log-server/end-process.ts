/** Ends a child process with everything that it has started. */
import type { ChildProcess } from 'node:child_process';
import type { Clock } from '../../../shared/src/clock.ts';

/** For a command to end after SIGTERM, ms; then SIGKILL. */
const KILL_AFTER_MS = 5_000;

/** `child` is the head of a process group (`detached`). Resolves when it has ended and its output is closed. */
export const endProcess = async (
  { clock }: { clock: Clock },
  child: ChildProcess,
  closed: Promise<unknown>,
): Promise<void> => {
  const kill = (signal: NodeJS.Signals): void => {
    try {
      // A signal to the child alone would leave behind what a shell has started.
      if (process.platform === 'win32' || child.pid === undefined) child.kill(signal);
      else process.kill(-child.pid, signal);
    } catch {
      // It has ended already.
    }
  };
  kill('SIGTERM');
  const cancel = clock.timer(KILL_AFTER_MS, () => {
    kill('SIGKILL');
    child.stdout?.destroy();
    child.stderr?.destroy();
  });
  await closed;
  cancel();
};
