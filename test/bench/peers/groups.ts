/** The parts of a run, as `--only` and `--list` name them. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { makeCertificate, sayCiphers } from './certificate.ts';
import { measureIdleLegs, measureReconnect } from './crowds.ts';
import { measureLossy } from './lossy.ts';
import { messageOf, note, type RunRecord, runWorkload, type Say, startSystems } from './rounds.ts';
import type { SystemName } from './systems.ts';
import { createTopology } from './topology.ts';
import { bigFile, startUpstream } from './upstream.ts';
import { WORKLOADS } from './workloads.ts';
import type { Certificate } from './nginx.ts';

export interface RunOptions {
  readonly systems: readonly SystemName[];
  readonly rounds: number;
  readonly secondsFactor: number;
  /** Exists. */
  readonly directory: string;
  readonly profileDirectory?: string;
  readonly record: RunRecord;
  readonly say: Say;
}

export type Measure = (options: RunOptions & { readonly certificate: Certificate }) => Promise<void>;

/** Those that bring their own world. */
const OWN: readonly { readonly name: string; readonly how: string; readonly measure: Measure }[] = [
  {
    name: 'lossy',
    how: 'one download over a link of 100 ms round trip and 1 % loss, kernel congestion control CUBIC and BBR',
    measure: measureLossy,
  },
  {
    name: 'idle-legs',
    how: 'memory per leg at 1,000 and 5,000, processor while all are idle, latency of 50 requests a second meanwhile',
    measure: measureIdleLegs,
  },
  {
    name: 'reconnect',
    how: 'the gateway is started again under 1,000 tunnel clients: time from when it listens until 99 % are back',
    measure: measureReconnect,
  },
];

export const GROUPS: readonly { readonly name: string; readonly how: string }[] = [...WORKLOADS, ...OWN];

/** Those that all systems, up at once, take their turns in. */
const measureTogether = async (
  names: readonly string[],
  options: RunOptions & { readonly certificate: Certificate },
): Promise<void> => {
  const { record, say, certificate } = options;
  const directory = join(options.directory, 'together');
  await mkdir(directory);
  const topology = await createTopology();
  const upstream = await startUpstream(topology, directory, certificate);
  say('starting the systems');
  const systems = await startSystems(options.systems, { ...options, topology, directory }, record, say);
  try {
    await sayCiphers(topology, systems, say);
    const context = { topology, upstream, bigFile: bigFile(directory) };
    for (const workload of WORKLOADS.filter(({ name }) => names.includes(name))) {
      const taking = systems.filter(({ name }) => workload.isAlsoPlain || name !== 'nginx-ssh-plain');
      await runWorkload(context, taking, workload, options, record, say);
    }
  } finally {
    await Promise.all(systems.map((system) => system.stop()));
    await upstream.stop();
    await topology.close();
  }
};

export const measureGroups = async (names: readonly string[], options: RunOptions): Promise<void> => {
  const { record, say } = options;
  const certificate = await makeCertificate(options.directory);
  const all = { ...options, certificate };
  const guarded = async (name: string, measure: () => Promise<void>): Promise<void> => {
    try {
      await measure();
    } catch (error) {
      note(record, say, { kind: 'failed', message: `${name} failed: ${messageOf(error)}` });
    }
  };
  const together = WORKLOADS.map(({ name }) => name).filter((name) => names.includes(name));
  if (together.length > 0) await guarded(together.join(', '), () => measureTogether(together, all));
  for (const { name, measure } of OWN) {
    if (names.includes(name)) await guarded(name, () => measure(all));
  }
};
