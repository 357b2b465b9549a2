/**
 * An IP link with delay, loss, reordering, doubled and damaged packets and black holes between two namespaces, changed
 * while it runs. The packets go through `lossy-link.py`: Node cannot open a TUN device. About 80,000 packets a second
 * on one core.
 *
 *     const link = await startLossyLink([a, b], { delayMs: 50, loss: 0.01 });
 *     await link.set({ blackhole: true });
 *     await link.set({ loss: 0 }, 'a-to-b');
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { boundToParent, type Namespace } from './namespaces.ts';
import { cleanEnvironment } from './processes.ts';
import { findProgram } from './system-packages.ts';

export interface LinkSettings {
  /** One way, ms. */
  readonly delayMs: number;
  /** Up to so much more, ms. */
  readonly jitterMs: number;
  /** Shares of the packets, 0 to 1. */
  readonly loss: number;
  readonly reorder: number;
  readonly duplicate: number;
  readonly corrupt: number;
  readonly blackhole: boolean;
}

export interface LinkCounters {
  readonly packets: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly corrupted: number;
  /** Dropped because too many were on the way. */
  readonly overflowed: number;
}

export type LinkDirection = 'a-to-b' | 'b-to-a';
export interface LinkState {
  readonly settings: Readonly<Record<LinkDirection, LinkSettings>>;
  readonly counters: Readonly<Record<LinkDirection, LinkCounters>>;
}

export interface LossyLink {
  /** Addresses of the two ends; each is reached from the other namespace. */
  readonly addresses: readonly [string, string];
  /** In force for every packet that comes from now on; those under way keep their time. */
  set(change: Partial<LinkSettings>, direction?: LinkDirection): Promise<LinkState>;
  state(): Promise<LinkState>;
  /** The devices go too. */
  close(): Promise<void>;
}

const ADDRESSES = ['10.77.0.1', '10.77.0.2'] as const;

export const startLossyLink = async (
  namespaces: readonly [Namespace, Namespace],
  settings: Partial<LinkSettings> = {},
  addresses: readonly [string, string] = ADDRESSES,
): Promise<LossyLink> => {
  const python = findProgram('python3');
  if (python === undefined) throw new Error('the lossy link needs Python 3 (Debian: python3-minimal)');
  const directory = await mkdtemp(join(tmpdir(), 'lossy-link-'));
  const socketPath = join(directory, 'control');
  const [program = '', ...args] = boundToParent([
    python,
    join(import.meta.dirname, 'lossy-link.py'),
    ...namespaces.map(({ path }) => path),
    ...addresses,
    socketPath,
    JSON.stringify(settings),
  ]);
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'], env: cleanEnvironment({ PATH: path }) });
  const exited = once(child, 'exit');
  const close = async (): Promise<void> => {
    child.stdin.end();
    await exited;
    await rm(directory, { recursive: true, force: true });
  };
  await Promise.race([
    once(child.stdout, 'data'),
    exited.then(async () => {
      await rm(directory, { recursive: true, force: true });
      throw new Error('the lossy link ended at once: it needs root and /dev/net/tun');
    }),
  ]);
  // One line is asked after the other.
  let last: Promise<unknown> = Promise.resolve();
  const ask = async (line: object): Promise<LinkState> => {
    const socket = connect(socketPath);
    try {
      await once(socket, 'connect');
      socket.write(`${JSON.stringify(line)}\n`);
      const [answer] = (await once(createInterface(socket), 'line')) as [string];
      const parsed = JSON.parse(answer) as LinkState | { error: string };
      if ('error' in parsed) throw new RangeError(parsed.error);
      return parsed;
    } finally {
      socket.destroy();
    }
  };
  const askInTurn = (line: object): Promise<LinkState> => {
    const answer = last.then(() => ask(line));
    last = answer.catch(() => undefined); // told to whoever asked
    return answer;
  };
  let closing: Promise<void> | undefined;
  return {
    addresses,
    set: (change, direction) => askInTurn({ ...change, ...(direction === undefined ? {} : { direction }) }),
    state: () => askInTurn({}),
    close: () => (closing ??= last.then(close)),
  };
};
