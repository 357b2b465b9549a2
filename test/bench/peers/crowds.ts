/** What many runners cost one gateway, and how fast they are back after it was started again. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Measure } from './groups.ts';
import { latencies, type LoadContext } from './load.ts';
import type { Program } from '../program.ts';
import { startProgram } from './program.ts';
import { put } from './rounds.ts';
import { type GatewayFiles, startGateway, startGatewaySystem } from './systems.ts';
import { createTopology, DOMAIN, EDGE_ADDRESS } from './topology.ts';
import { bigFile, startUpstream } from './upstream.ts';

const SIZES = [1_000, 5_000] as const;
const CLIENTS = 1_000;
const CROWD = join(import.meta.dirname, 'crowd.ts');
/** After the last leg is up, until the processor is looked at, ms: what came with connecting is done. */
const SETTLE_MS = 4_000;
/** How long the processor is looked at, ms: several rounds of keep-alives. */
const IDLE_MS = 8_000;
/** Low, so that it tells what a request waits for and not what the machine carries. */
const RATE = 50;
const LATENCY_SECONDS = 5;
/** Clients that are not back by then will not be, ms. */
const BACK_TIMEOUT_MS = 120_000;

/** All runners come from one address here. */
const LIMITS = { unauthenticatedLegsPerAddress: 256, apiAttemptsPerAddress: 100_000, legs: 6_000 };

const issuerOf = (): string => `https://api.${DOMAIN}`;
const directoryOf = (files: GatewayFiles): string => join(files.stateDir, 'directory.sqlite');

const numberAfter = async (program: Program, word: string, key: string): Promise<number> => {
  const [, json = ''] = await program.waitFor(new RegExp(`^${word} (\\{.*\\})$`, 'm'));
  return Number((JSON.parse(json) as Record<string, unknown>)[key]);
};

export const measureIdleLegs: Measure = async (options) => {
  const { record, say, certificate, systems } = options;
  if (!systems.includes('gateway-quic')) return;
  const directory = join(options.directory, 'idle-legs');
  await mkdir(directory);
  const topology = await createTopology();
  const upstream = await startUpstream(topology, directory, certificate);
  const system = await startGatewaySystem({ topology, directory, certificate, transport: 'quic', limits: LIMITS });
  const { gateway } = system;
  const context: LoadContext = { topology, upstream, bigFile: bigFile(directory) };
  const crowds: Program[] = [];
  try {
    const seconds = Math.max(1, Math.round(LATENCY_SECONDS * options.secondsFactor));
    const latency = async (legs: number): Promise<void> => {
      const { p50, p99 } = await latencies(context, system, RATE, seconds);
      put(record, 'gateway-quic', 0, { [`idle-legs-${legs}-p50`]: p50, [`idle-legs-${legs}-p99`]: p99 });
      say(`  a request beside ${legs} legs: p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`);
    };
    say(`idle-legs: memory and processor of the gateway with ${SIZES.join(' and ')} legs, ${RATE} requests/s beside`);
    await latencies(context, system, 10 * RATE, seconds); // its code is compiled, and the memory for it is there
    await latency(1);
    const before = await gateway.rss();
    let legs = 0;
    for (const size of SIZES) {
      const crowd = startProgram(topology.runner, [
        ...[process.execPath, CROWD, 'legs', directoryOf(gateway.files), issuerOf()],
        ...[`${EDGE_ADDRESS}:${gateway.files.quicPort}`, String(size - legs)],
      ]);
      crowds.push(crowd);
      const tookMs = await numberAfter(crowd, 'ready', 'ms');
      legs = size;
      await delay(SETTLE_MS);
      const cpuBefore = await gateway.cpuSeconds();
      await delay(IDLE_MS);
      const cpu = ((await gateway.cpuSeconds()) - cpuBefore) / (IDLE_MS / 1_000);
      const memory = ((await gateway.rss()) - before) / size / 1_000;
      put(record, 'gateway-quic', 0, { [`idle-legs-${size}-memory`]: memory, [`idle-legs-${size}-cpu`]: cpu * 100 });
      say(
        `  ${size} legs, up in ${tookMs / 1_000} s: ${memory.toFixed(0)} KB a leg, ${(cpu * 100).toFixed(0)} % of a core`,
      );
      await latency(size);
      let open = 0;
      for (const each of crowds) {
        const answered = each.output().length;
        each.child.stdin?.write('\n');
        while (!/^open \{.*\}$/m.test(each.output().slice(answered))) await delay(1);
        open += Number(/^open \{"open":(\d+)\}$/m.exec(each.output().slice(answered))?.[1]);
      }
      if (open < size) throw new Error(`only ${open} of ${size} legs stayed up`);
    }
  } finally {
    await Promise.all([system.stop(), ...crowds.map((crowd) => crowd.stop())]);
    await upstream.stop();
    await topology.close();
  }
};

export const measureReconnect: Measure = async (options) => {
  const { record, say, certificate, systems } = options;
  if (!systems.includes('gateway-quic')) return;
  const directory = join(options.directory, 'reconnect');
  await mkdir(directory);
  const topology = await createTopology();
  const started = { topology, directory, certificate, transport: 'quic', limits: LIMITS } as const;
  let gateway = await startGateway(started);
  const { files } = gateway;
  say(`reconnect: the gateway is ended and started under ${CLIENTS} tunnel clients`);
  const crowd = startProgram(topology.runner, [
    ...[process.execPath, CROWD, 'clients', directoryOf(files), issuerOf()],
    ...[`https://api.${DOMAIN}:${files.httpsPort}`, certificate.certificate, String(CLIENTS)],
  ]);
  try {
    say(`  ${CLIENTS} clients are up after ${(await numberAfter(crowd, 'ready', 'ms')) / 1_000} s`);
    crowd.child.stdin?.write('watch\n');
    await crowd.waitFor(/^watching$/m);
    await gateway.stop();
    gateway = await startGateway(started);
    const listensAt = Date.now();
    const at = await Promise.race([
      numberAfter(crowd, 'back', 'at'),
      delay(BACK_TIMEOUT_MS, undefined, { ref: false }).then(() => {
        throw new Error(`99 % of the clients are not back after ${BACK_TIMEOUT_MS / 1_000} s`);
      }),
    ]);
    const seconds = Math.max(0, at - listensAt) / 1_000;
    put(record, 'gateway-quic', 0, { reconnect: seconds });
    say(`  99 % are back ${seconds.toFixed(1)} s after the gateway listens`);
  } finally {
    await Promise.all([gateway.stop(), crowd.stop()]);
    await topology.close();
  }
};
