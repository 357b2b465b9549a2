/**
 * `node test/bench/profile.ts --workload h1 --out DIR`: where gateway and tunnel client spend their time while one kind
 * of work goes on. Writes for each a flame graph (`h1-gateway.svg`) and a table of functions (`h1-gateway.txt`).
 *
 *     --workload h1     or h2, download, upload
 *     --seconds 8       of it
 *     --out .           where the files go
 *     --keep            keeps the .cpuprofile too
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { runProcess } from '../support/processes.ts';
import { drawFlameGraph, summarize, type CpuProfile } from './flame-graph.ts';
import { download, upload } from './transfer.ts';
import { startWorld, type World } from './world.ts';

const TRANSFER_BYTES = 256 << 20;
/** Between samples, µs. */
const INTERVAL_US = '500';

const { values } = parseArgs({
  options: {
    workload: { type: 'string', default: 'h1' },
    seconds: { type: 'string', default: '8' },
    out: { type: 'string', default: '.' },
    keep: { type: 'boolean', default: false },
  },
});
const seconds = Number(values.seconds);

const load = async (world: World, args: readonly string[]): Promise<void> => {
  const target = ['--connect-to', `127.0.0.1:${world.httpsPort}`, `https://${world.host()}:${world.httpsPort}/`];
  await runProcess('h2load', [...args, '-D', values.seconds, ...target], { timeoutMs: (seconds + 30) * 1_000 });
};
const forSeconds = async (move: () => Promise<unknown>): Promise<void> => {
  const end = performance.now() + seconds * 1_000;
  while (performance.now() < end) await move();
};
const WORKLOADS: Readonly<Record<string, (world: World) => Promise<void>>> = {
  h1: (world) => load(world, ['--h1', '-c', '64']),
  h2: (world) => load(world, ['-c', '8', '-m', '16']),
  download: (world) => forSeconds(() => download(world, TRANSFER_BYTES)),
  upload: (world) => forSeconds(() => upload(world, TRANSFER_BYTES)),
};
const workload = WORKLOADS[values.workload];
if (!workload) throw new Error(`--workload is one of ${Object.keys(WORKLOADS).join(', ')}`);

const directory = await mkdtemp(join(tmpdir(), 'gateway-profile-'));
try {
  const args = (name: string): string[] => [
    '--cpu-prof',
    `--cpu-prof-dir=${join(directory, name)}`,
    `--cpu-prof-interval=${INTERVAL_US}`,
  ];
  const world = await startWorld({ nodeArgs: { gateway: args('gateway'), tunnelClient: args('tunnel-client') } });
  try {
    await workload(world);
  } finally {
    await world.stop();
  }
  const out = resolve(values.out);
  await mkdir(out, { recursive: true });
  for (const name of ['gateway', 'tunnel-client']) {
    const [file] = await readdir(join(directory, name));
    const text = await readFile(join(directory, name, file ?? ''), 'utf8');
    const profile = JSON.parse(text) as CpuProfile;
    const to = join(out, `${values.workload}-${name}`);
    await writeFile(`${to}.svg`, drawFlameGraph(profile, `${name}, ${values.workload}`));
    await writeFile(`${to}.txt`, summarize(profile));
    if (values.keep) await writeFile(`${to}.cpuprofile`, text);
  }
} finally {
  await rm(directory, { recursive: true, force: true });
}
