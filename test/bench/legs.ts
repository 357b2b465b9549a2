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
import { createKey } from '../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { createQuicDialer, type QuicDialer } from '../../shared/src/transport/quic.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { smallRequest } from './transfer.ts';
import { DOMAIN, startWorld, type World } from './world.ts';

/** Below the gateway's limit for one runner. */
const LEGS_PER_RUNNER = 10;
/** Dials at once: as many as keep the gateway busy. */
const DIALS = 32;
const DIAL_TIMEOUT_MS = 30_000;
/** A dial that fails is tried again: a listener may have lost a datagram in the rush. */
const TRIES = 5;
/** After the last leg is up, until memory is read, ms: two rounds of echoes. */
const SETTLE_MS = 15_000;
const IDLE_REQUESTS = 50;
const KIB = 1 << 10;

interface Party {
  readonly dialer: QuicDialer;
  readonly membership: string;
  readonly verify: (token: string, peerKey: Uint8Array) => ReturnType<typeof verifyMembership>;
}

const quantile = (numbers: readonly number[], part: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length * part)] ?? NaN;

const enrol = async (directory: Directory): Promise<Party> => {
  const key = createKey();
  const { runner, exchangeToken } = await directory.createRunner({ name: 'bench' });
  await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
  const { current, trust, issuer } = await directory.authority();
  const deps = { clock: systemClock };
  return {
    dialer: createQuicDialer({ key }),
    membership: await signMembership(
      current,
      { id: runner.id, organization: undefined, group: 'runner', publicKey: key.publicKey },
      deps,
    ),
    verify: (token, peerKey) => verifyMembership(token, { trust, issuer, group: 'gateway', peerKey }, deps),
  };
};

const dial = async (world: World, party: Party, instance: string): Promise<Leg> => {
  for (let attempt = 1; ; attempt++) {
    const signal = AbortSignal.timeout(DIAL_TIMEOUT_MS);
    try {
      const connection = await party.dialer.dial({ host: '127.0.0.1', port: world.quicPort }, { signal });
      const leg = await dialLeg(
        connection,
        {
          clock: systemClock,
          membership: () => party.membership,
          verify: party.verify,
          hello: { instance, instanceStartedAt: 1, agent: 'bench' },
        },
        { signal },
      );
      leg.attach({});
      return leg;
    } catch (error) {
      if (attempt === TRIES) throw error;
    }
  }
};

const times = (values: readonly number[]): string =>
  `median ${quantile(values, 0.5).toFixed(1)} ms, p99 ${quantile(values, 0.99).toFixed(1)} ms`;

const measure = async (count: number): Promise<void> => {
  const world = await startWorld({
    // All legs come from one address here.
    limits: { unauthenticatedLegsPerAddress: 256, legs: count + 100 },
  });
  const parties: Party[] = [];
  const legs: Leg[] = [];
  const directory = await openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(world.stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
  );
  try {
    for (let index = 0; index < count / LEGS_PER_RUNNER; index++) parties.push(await enrol(directory));
    const request = async (requests: number): Promise<number[]> => {
      const result: number[] = [];
      for (let round = 0; round < requests; round++) result.push(await smallRequest(world));
      return result;
    };
    await request(IDLE_REQUESTS);
    const before = await request(IDLE_REQUESTS);
    const rssBefore = await world.gateway.rss();

    const startedAt = performance.now();
    let next = 0;
    let isConnecting = true;
    const work = async (): Promise<void> => {
      while (next < count) {
        const index = next++;
        const party = parties[Math.floor(index / LEGS_PER_RUNNER)]!;
        legs.push(await dial(world, party, `instance-${index % LEGS_PER_RUNNER}`));
      }
    };
    const meanwhile: number[] = [];
    const watch = async (): Promise<void> => {
      while (isConnecting) meanwhile.push(...(await request(1)));
    };
    const watching = watch();
    await Promise.all(Array.from({ length: DIALS }, work));
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
