/**
 * `npm run bench:legs`: what many idle legs cost one gateway. Every leg is a real QUIC connection with the real
 * handshake and a membership of the gateway's own authority; gateway, application and the tunnel client that carries the
 * requests are processes of their own, the idle legs end in this one.
 *
 *     npm run bench:legs -- 1000 5000        numbers of legs, one gateway each
 */
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import { systemClock } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { enrolParties, openLegs, type Party } from './idle-legs.ts';
import { quantile } from './peers/statistics.ts';
import { smallRequest } from './transfer.ts';
import { DOMAIN, startWorld } from './world.ts';

/** After the last leg is up, until memory is read, ms: two rounds of echoes. */
const SETTLE_MS = 15_000;
const IDLE_REQUESTS = 50;
const KIB = 1 << 10;

const times = (values: readonly number[]): string =>
  `median ${quantile(values, 0.5).toFixed(1)} ms, p99 ${quantile(values, 0.99).toFixed(1)} ms`;

const measure = async (count: number): Promise<void> => {
  const world = await startWorld({
    // All legs come from one address here.
    limits: { unauthenticatedLegsPerAddress: 256, legs: count + 100 },
  });
  let parties: Party[] = [];
  let legs: Leg[] = [];
  const directory = await openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(world.stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
  );
  try {
    parties = await enrolParties(directory, count);
    const request = async (requests: number): Promise<number[]> => {
      const result: number[] = [];
      for (let round = 0; round < requests; round++) result.push(await smallRequest(world));
      return result;
    };
    await request(IDLE_REQUESTS);
    const before = await request(IDLE_REQUESTS);
    const rssBefore = await world.gateway.rss();

    const startedAt = performance.now();
    let isConnecting = true;
    const meanwhile: number[] = [];
    const watch = async (): Promise<void> => {
      while (isConnecting) meanwhile.push(...(await request(1)));
    };
    const watching = watch();
    legs = await openLegs(parties, { host: '127.0.0.1', port: world.quicPort }, count);
    const tookMs = performance.now() - startedAt;
    isConnecting = false;
    await watching;
    const cpuBefore = await world.gateway.cpuSeconds();
    await delay(SETTLE_MS);
    const cpu = (await world.gateway.cpuSeconds()) - cpuBefore;
    const rss = await world.gateway.rss();
    const after = await request(IDLE_REQUESTS);
    const open = legs.filter((leg) => leg.isOpen).length;

    console.log(`${count} legs`);
    console.log(`  open at the end                  ${open}`);
    console.log(`  connected in                     ${(tookMs / 1_000).toFixed(1)} s`);
    console.log(`  memory of the gateway            ${((rss - rssBefore) / count / KIB).toFixed(0)} KiB a leg`);
    console.log(`  processor time while all idle    ${((cpu / (SETTLE_MS / 1_000)) * 100).toFixed(1)} % of a core`);
    console.log(`  a request before                 ${times(before)}`);
    console.log(`  a request while they connect     ${times(meanwhile)}`);
    console.log(`  a request beside the idle legs   ${times(after)}`);
  } finally {
    for (const leg of legs) leg.abort('closed');
    for (const { dialer } of parties) dialer.close();
    await directory.close();
    await world.stop();
  }
};

const counts = process.argv.slice(2).map(Number);
for (const count of counts.length > 0 ? counts : [1_000, 5_000]) await measure(count);
process.exit();
