/**
 * `npm run bench`: this gateway beside nginx + Nebula, nginx + `ssh -R` and the upstream without a tunnel, on this
 * machine, in namespaces of its own. Debian, root, two cores or more; `--help` tells the rest.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { furnish, isInside, runInside, WORK_DIRECTORY } from './peers/cage.ts';
import { GROUPS, measureGroups } from './peers/groups.ts';
import { bringPackages } from './peers/packages.ts';
import { alignColumns, summarize, tableRows, targetRows, toFile } from './peers/report.ts';
import { createRecord } from './peers/rounds.ts';
import { SYSTEM_NAMES, type SystemName } from './peers/systems.ts';
import { addDerived } from './peers/targets.ts';
import { HOSTS } from './peers/topology.ts';
import { drawChart } from './peers/chart.ts';

const HELP = `npm run bench -- [options]

Measures this gateway over QUIC and over WebTransport, nginx + Nebula, nginx + ssh -R, and the upstream without a
tunnel: same upstream, certificate, cipher, connections, bodies and load tools for all, round by round in turn. Needs
Debian and root, installs the programs that are missing, takes up to 15 minutes on two cores. What it starts runs in
namespaces of its own and is gone when it ends, also after Ctrl-C; it leaves the two files of --out.

  --only NAME      this workload only; may be repeated
  --system NAME    this system only; may be repeated (${SYSTEM_NAMES.join(', ')})
  --rounds N       measurements of each system and workload, the median counts (default: 3)
  --seconds X      factor on the time of every measurement (default: 1)
  --out DIRECTORY  results.json and results.svg are written there (default: bench-results)
  --profile DIR    gateway and tunnel client write CPU profiles there
  --json           prints the results as JSON, and what is going on to standard error
  --list           prints the workloads
  --help           prints this`;

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    system: { type: 'string', multiple: true },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    out: { type: 'string', default: 'bench-results' },
    profile: { type: 'string' },
    json: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const fail = (message: string): never => {
  console.error(message);
  process.exit(2);
};

const pick = <T extends string>(
  what: string,
  wanted: readonly string[] | undefined,
  all: readonly T[],
): readonly T[] => {
  const unknown = wanted?.find((name) => !all.includes(name as T));
  if (unknown !== undefined) fail(`There is no ${what} "${unknown}". There are: ${all.join(', ')}`);
  return wanted === undefined ? all : all.filter((name) => wanted.includes(name));
};
const positive = (name: 'rounds' | 'seconds', isWhole: boolean): number => {
  const number = Number(values[name]);
  if (!(number > 0) || (isWhole && !Number.isInteger(number))) fail(`--${name} must be a number above 0`);
  return number;
};

if (values.help) {
  console.log(HELP);
  process.exit();
}
if (values.list) {
  console.log(alignColumns(GROUPS.map(({ name, how }) => [name, how])));
  process.exit();
}
const names = pick(
  'workload',
  values.only,
  GROUPS.map(({ name }) => name),
);
const systems: readonly SystemName[] = pick('system', values.system, SYSTEM_NAMES);
const rounds = positive('rounds', true);
const secondsFactor = positive('seconds', false);

const say = values.json ? console.error : console.log;

const measure = async (): Promise<void> => {
  furnish(HOSTS);
  const record = createRecord();
  const startedAt = performance.now();
  await measureGroups(names, {
    systems,
    rounds,
    secondsFactor,
    directory: WORK_DIRECTORY,
    ...(values.profile === undefined ? {} : { profileDirectory: resolve(values.profile) }),
    record,
    say,
  });
  addDerived(record.measured);
  const summary = summarize(record.measured);
  const minutes = (performance.now() - startedAt) / 60_000;
  const machine = { cores: cpus().length, processor: cpus()[0]?.model, node: process.version, minutes };
  mkdirSync(values.out, { recursive: true });
  writeFileSync(join(values.out, 'results.json'), `${JSON.stringify(toFile(record, machine), undefined, 2)}\n`);
  writeFileSync(join(values.out, 'results.svg'), drawChart(record.measured));
  if (values.json) console.log(JSON.stringify(summary, undefined, 2));
  else {
    console.log(`\n${alignColumns(tableRows(record.measured))}\n`);
    if (summary.targets.length > 0) console.log(`${alignColumns(targetRows(summary.targets))}\n`);
  }
  for (const { message } of record.problems) say(message);
  say(`${minutes.toFixed(1)} minutes; ${join(values.out, 'results.json')}, ${join(values.out, 'results.svg')}`);
  process.exit(record.problems.some(({ kind }) => kind === 'failed') ? 1 : 0);
};

if (isInside()) {
  await measure();
} else {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) fail('The benchmark needs Linux and root.');
  try {
    bringPackages(say, values.json ? 'stderr' : 'stdout');
  } catch (error) {
    fail((error as Error).message);
  }
  process.exitCode = await runInside();
}
