/**
 * `npm run bench:path`: what the whole way carries (client, TLS, gateway, QUIC, tunnel client, application), everything
 * on this machine. Small requests need `h2load` (Debian: nghttp2-client).
 *
 *     --rounds 3        of each measurement; the median is printed
 *     --seconds 5       of small requests, per round
 *     --mib 512         of a big transfer
 */
import { parseArgs } from 'node:util';
import { runProcess } from '../support/processes.ts';
import { findProgram } from '../support/system-packages.ts';
import { download, upload } from './transfer.ts';
import { startWorld, type World } from './world.ts';

const CONNECTIONS = 64;
const MIB = 1 << 20;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '5' },
    mib: { type: 'string', default: '512' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const bytes = Number(values.mib) * MIB;

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;

interface Measured {
  readonly rate: number;
  /** Processor time of each program by unit of work, ms. */
  readonly gatewayMs: number;
  readonly tunnelClientMs: number;
}

/** `measure` gives a rate and how many units were done. */
const repeat = async (world: World, measure: () => Promise<{ rate: number; units: number }>): Promise<Measured> => {
  const results: Measured[] = [];
  for (let round = 0; round < rounds; round++) {
    const cpu = (): Promise<number[]> => Promise.all([world.gateway.cpuSeconds(), world.tunnelClient.cpuSeconds()]);
    const before = await cpu();
    const { rate, units } = await measure();
    const [gatewayMs = NaN, tunnelClientMs = NaN] = (await cpu()).map(
      (after, index) => ((after - (before[index] ?? NaN)) * 1_000) / units,
    );
    results.push({ rate, gatewayMs, tunnelClientMs });
  }
  return {
    rate: median(results.map(({ rate }) => rate)),
    gatewayMs: median(results.map((result) => result.gatewayMs)),
    tunnelClientMs: median(results.map((result) => result.tunnelClientMs)),
  };
};

/** Requests a second; HTTP/2 on four connections. */
const requests = async (world: World, args: readonly string[]): Promise<{ rate: number; units: number }> => {
  const { stdout, stderr } = await runProcess(
    'h2load',
    [
      ...args,
      ...['-D', String(seconds), '--connect-to', `127.0.0.1:${world.httpsPort}`],
      `https://${world.host()}:${world.httpsPort}/`,
    ],
    { timeoutMs: (seconds + 30) * 1_000 },
  );
  const rate = /finished in [\d.]+s, ([\d.]+) req\/s/.exec(stdout)?.[1];
  // What the end of the time cuts off is counted as neither.
  const wrong = /(\d+) 3xx, (\d+) 4xx, (\d+) 5xx/
    .exec(stdout)
    ?.slice(1)
    .some((count) => count !== '0');
  if (rate === undefined || wrong !== false) throw new Error(stdout + stderr);
  return { rate: Number(rate), units: Number(rate) * seconds };
};

const show = (what: string, ...values: string[]): void =>
  console.log(what.padEnd(44) + values.map((value) => value.padStart(18)).join(''));
const row = (what: string, unit: string, { rate, gatewayMs, tunnelClientMs }: Measured): void =>
  show(what, `${rate.toFixed(0)} ${unit}/s`, `${gatewayMs.toFixed(3)} ms`, `${tunnelClientMs.toFixed(3)} ms`);
const big = async (move: Promise<number>): Promise<{ rate: number; units: number }> => ({
  rate: await move,
  units: bytes / MIB,
});

const hasH2load = findProgram('h2load') !== undefined;
const world = await startWorld();
try {
  show('processor time by request or MiB', '', 'gateway', 'tunnel client');
  await download(world, bytes / 4);
  row(`download, one of ${values.mib} MiB`, 'MiB', await repeat(world, () => big(download(world, bytes))));
  row(`upload, one of ${values.mib} MiB`, 'MiB', await repeat(world, () => big(upload(world, bytes))));
  for (const [protocol, args] of [
    ['HTTP/1.1', ['--h1', '-c', String(CONNECTIONS)]],
    ['HTTP/2', ['-c', '4', '-m', String(CONNECTIONS / 4)]],
  ] as const) {
    const what = `requests of 1 KiB, ${CONNECTIONS} at once, ${protocol}`;
    if (!hasH2load) show(what, 'needs h2load');
    else row(what, 'requests', await repeat(world, () => requests(world, args)));
  }
  const mib = async (program: { rss(): Promise<number> }): Promise<string> =>
    `${((await program.rss()) / MIB).toFixed(0)} MiB`;
  show('memory afterwards', '', await mib(world.gateway), await mib(world.tunnelClient));
} finally {
  await world.stop();
}
