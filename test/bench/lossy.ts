/**
 * Downloads, or uploads, over a long link that loses packets: this gateway over each transport, and plain TCP (TLS) on the same link.
 *
 *     node test/bench/lossy.ts [--loss PERCENT…] [--control cubic|bbr…] [--mtu BYTES] [--upload] [--seconds N]
 *         [--rounds N] [--json]
 *
 * Of several rounds the median counts. Needs Debian and root, nginx, curl and Python. Runs in namespaces of its own.
 */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { furnish, isInside, runInside, WORK_DIRECTORY } from './peers/cage.ts';
import { makeCertificate } from './peers/certificate.ts';
import { downloads, type LoadContext, uploads } from './peers/load.ts';
import type { Certificate } from './peers/nginx.ts';
import type { Program } from './program.ts';
import { startProgram } from './peers/program.ts';
import { alignColumns } from './peers/report.ts';
import { startGatewaySystem, startSystem, type System } from './peers/systems.ts';
import { createTopology, HOSTS } from './peers/topology.ts';
import { bigFile as bigFileOf, startUpstream } from './peers/upstream.ts';

const ROUND_TRIP_MS = 100;
/** Until a client that may choose has chosen, s: 30 s of loss, and the measurement. */
const CHOICE_TIMEOUT_S = 110;
/**
 * Until the leg that was chosen is up and the gateway knows, or until a leg that stays has sent what is left of the
 * transfers that were given up (256 KiB each), ms.
 */
const SETTLE_MS = { webtransport: 3_000, quic: 10_000 } as const;

const { values } = parseArgs({
  options: {
    loss: { type: 'string', multiple: true, default: ['0', '0.1', '1', '5'] },
    control: { type: 'string', multiple: true, default: ['cubic', 'bbr'] },
    mtu: { type: 'string' },
    upload: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});

interface Result {
  readonly lossPercent: number;
  readonly congestionControl: string;
  /** MiB/s. */
  readonly tcp: number;
  readonly quic: number;
  readonly webtransport: number;
  /** Of a client that may choose, after it has seen the path for a minute; and what it chose. */
  readonly auto: number;
  readonly choice: string;
}

/** Keeps one transfer going, as somebody who works does, until the client has decided. */
const untilChosen = async ({ topology, bigFile }: LoadContext, system: System, client: Program): Promise<string> => {
  const decided = /"?(another transport carries more|no other transport carries much more) on this lossy path/;
  const load = startProgram(topology.edge, [
    ...['curl', '-sk', '--http1.1', '-m', String(CHOICE_TIMEOUT_S), '-o', '/dev/null'],
    ...(values.upload ? ['-H', 'Expect:', '-T', bigFile, `${system.url('sink')}/`] : [`${system.url('web')}/big`]),
  ]);
  const loadEnded = once(load.child, 'exit').then(() => undefined);
  // A client that sees too few packets to tell says nothing, and stays.
  const chosen = await Promise.race([client.waitFor(decided).catch(() => undefined), loadEnded]);
  await load.stop();
  const choice = chosen?.[1]?.startsWith('another') ? 'webtransport' : 'quic';
  await delay(SETTLE_MS[choice]);
  return choice;
};

const measure = async (certificate: Certificate, lossPercent: number, congestionControl: string): Promise<Result> => {
  const directory = join(WORK_DIRECTORY, `${congestionControl}-${lossPercent}`);
  await mkdir(directory);
  const topology = await createTopology({ roundTripMs: ROUND_TRIP_MS, loss: lossPercent / 100, congestionControl });
  const upstream = await startUpstream(topology, directory, certificate);
  if (values.mtu !== undefined) {
    for (const namespace of [topology.edge, topology.runner]) {
      await namespace.run('ip', 'link', 'set', 'link0', 'mtu', values.mtu);
    }
  }
  const context = { topology, upstream, bigFile: bigFileOf(directory) };
  const options = { topology, directory, certificate };
  const over = async (system: System): Promise<number> => {
    const figures: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      figures.push(await (values.upload ? uploads : downloads)(context, system, 1, Number(values.seconds)));
    }
    const median = figures.sort((a, b) => a - b)[Math.floor(figures.length / 2)] ?? NaN;
    return Math.round(median * 1_000) / 1_000;
  };
  const alone = async (name: 'direct' | 'gateway-quic' | 'gateway-webtransport'): Promise<number> => {
    const system = await startSystem(name, options);
    const figure = await over(system);
    await system.stop();
    return figure;
  };
  try {
    const [tcp, quic, webtransport] = [
      await alone('direct'),
      await alone('gateway-quic'),
      await alone('gateway-webtransport'),
    ];
    const own = join(directory, 'gateway-auto');
    await mkdir(own);
    const auto = await startGatewaySystem({ ...options, directory: own, transport: 'auto' });
    const choice =
      lossPercent === 0 || !auto.tunnelClient ? 'quic' : await untilChosen(context, auto, auto.tunnelClient);
    const result = { lossPercent, congestionControl, tcp, quic, webtransport, auto: await over(auto), choice };
    await auto.stop();
    return result;
  } finally {
    await upstream.stop();
    await topology.close();
  }
};

const run = async (): Promise<void> => {
  furnish(HOSTS);
  mkdirSync(WORK_DIRECTORY, { recursive: true });
  const certificate = await makeCertificate(WORK_DIRECTORY);
  const results: Result[] = [];
  for (const loss of values.loss.map(Number)) {
    for (const control of values.control) {
      const result = await measure(certificate, loss, control);
      results.push(result);
      if (values.json) continue;
      console.error(JSON.stringify(result));
    }
  }
  if (values.json) {
    console.log(JSON.stringify(results));
    return;
  }
  const head = ['loss %', 'kernel', 'TCP', 'QUIC', 'WebTransport', 'auto', 'chosen'];
  const rows = results.map((each) => [
    String(each.lossPercent),
    each.congestionControl,
    ...[each.tcp, each.quic, each.webtransport, each.auto].map((figure) => figure.toFixed(2)),
    each.choice,
  ]);
  console.log(alignColumns([head, ...rows]));
};

if (isInside()) {
  await run();
  process.exit();
}
process.exitCode = await runInside();
