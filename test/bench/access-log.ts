/**
 * `node test/bench/access-log.ts`: what the access log costs. One gateway serves small requests while the log is switched
 * on and off by turns (SIGHUP), so that both are measured on the same machine in the same minutes. Needs `h2load`.
 *
 *     --rounds 5        with and without, each; the medians are printed
 *     --seconds 5       of each round
 */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { runProcess } from '../support/processes.ts';
import { until } from '../support/runner.ts';
import { startWorld, type World } from './world.ts';

const CONNECTIONS = 64;
const RECENT_CHARACTERS = 64 << 10;

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '5' }, seconds: { type: 'string', default: '5' } },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;

/** Of the last lines of the gateway: all that it keeps under load is soon gone. */
const timesRead = (world: World): number =>
  world.gateway.output().slice(-RECENT_CHARACTERS).split('configuration read again').length;

const switchLog = async (world: World, enabled: boolean): Promise<void> => {
  const path = join(dirname(world.stateDir), 'gateway.yaml');
  const config = JSON.parse(await readFile(path, 'utf8')) as object;
  await writeFile(path, JSON.stringify({ ...config, accessLog: { enabled } }));
  const before = timesRead(world);
  world.gateway.child.kill('SIGHUP');
  await until(() => timesRead(world) > before);
};

/** Requests a second, and processor time of the gateway for each, µs. */
const measure = async (world: World): Promise<{ rate: number; gatewayUs: number }> => {
  const before = await world.gateway.cpuSeconds();
  const { stdout, stderr } = await runProcess(
    'h2load',
    [
      ...['--h1', '-c', String(CONNECTIONS), '-D', String(seconds), '--connect-to', `127.0.0.1:${world.httpsPort}`],
      `https://${world.host()}:${world.httpsPort}/`,
    ],
    { timeoutMs: (seconds + 30) * 1_000 },
  );
  const rate = Number(/finished in [\d.]+s, ([\d.]+) req\/s/.exec(stdout)?.[1]);
  if (Number.isNaN(rate)) throw new Error(stdout + stderr);
  return { rate, gatewayUs: (((await world.gateway.cpuSeconds()) - before) * 1e6) / (rate * seconds) };
};

const world = await startWorld();
try {
  await measure(world);
  const seen = {
    true: [] as { rate: number; gatewayUs: number }[],
    false: [] as { rate: number; gatewayUs: number }[],
  };
  for (let round = 0; round < 2 * rounds; round++) {
    // Off and on in changing order: what a machine does by and by falls on both.
    const enabled = (round + Math.floor(round / 2)) % 2 === 1;
    await switchLog(world, enabled);
    seen[`${enabled}`].push(await measure(world));
  }
  for (const [name, results] of [
    ['without an access log', seen.false],
    ['with an access log', seen.true],
  ] as const) {
    const rate = median(results.map((result) => result.rate));
    const gatewayUs = median(results.map((result) => result.gatewayUs));
    console.log(`${name.padEnd(24)} ${rate.toFixed(0)} requests/s  ${gatewayUs.toFixed(1)} µs of the gateway each`);
  }
} finally {
  await world.stop();
}
