/** A download over a long link that loses packets, TCP and UDP alike, with each congestion control of the kernel. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { downloads, type LoadContext } from './load.ts';
import type { Measure } from './groups.ts';
import { note, runWorkload, startSystems } from './rounds.ts';
import type { System } from './systems.ts';
import { createTopology } from './topology.ts';
import { bigFile, startUpstream } from './upstream.ts';

const ROUND_TRIP_MS = 100;
const LOSS = 0.01;
/** Long enough to leave the start of congestion control behind. */
const SECONDS = 6;
/** Fewer than of the others: the time is long, and what a link loses is the same for all. */
const ROUNDS = 2;

export const measureLossy: Measure = async (options) => {
  const { record, say, certificate } = options;
  const names = options.systems.filter((name) => name !== 'nginx-ssh-plain');
  for (const congestionControl of ['cubic', 'bbr']) {
    const directory = join(options.directory, `lossy-${congestionControl}`);
    await mkdir(directory);
    const lossy = { roundTripMs: ROUND_TRIP_MS, loss: LOSS, congestionControl };
    const topology = await createTopology(lossy).catch((error: unknown) => {
      const message = `the kernel has no ${congestionControl}, or there is no lossy link: ${String(error)}`;
      note(record, say, { kind: 'not-available', message });
    });
    if (!topology) continue;
    const upstream = await startUpstream(topology, directory, certificate);
    say('starting the systems');
    const systems = await startSystems(names, { ...options, topology, directory }, record, say);
    const row = `lossy-${congestionControl}`;
    const workload = {
      name: row,
      how: `one download, ${ROUND_TRIP_MS} ms round trip, ${LOSS * 100} % loss each way, ${congestionControl}`,
      seconds: SECONDS,
      warmUpSeconds: 1,
      measure: async (context: LoadContext, system: System, seconds: number) => ({
        [row]: await downloads(context, system, 1, seconds),
      }),
    };
    const context = { topology, upstream, bigFile: bigFile(directory) };
    await runWorkload(
      context,
      systems,
      workload,
      { ...options, rounds: Math.min(ROUNDS, options.rounds) },
      record,
      say,
    );
    await Promise.all(systems.map((system) => system.stop()));
    await upstream.stop();
    await topology.close();
  }
};
