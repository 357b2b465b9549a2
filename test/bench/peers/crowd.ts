/**
 * Many runners of one gateway, as a program of its own.
 *
 *     node crowd.ts legs DIRECTORY ISSUER ADDRESS COUNT       legs that do nothing, ten of a runner
 *     node crowd.ts clients DIRECTORY ISSUER URL CA COUNT     tunnel clients, which come back by themselves
 *
 * DIRECTORY is the file of the gateway's own directory, in which the runners are made. Prints `ready {"open", "ms"}`
 * when all are up. A line on standard input is answered with `open {"open"}`; of clients, the line `watch` with
 * `back {"at"}`, the time of day in ms at which 99 % were up again after a time at which fewer were.
 */
import { mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { systemClock } from '../../../shared/src/clock.ts';
import { createKey } from '../../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../../shared/src/identity/membership.ts';
import { dialLeg } from '../../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import { parseHostPort } from '../../../shared/src/transport/address.ts';
import { createQuicDialer, type QuicDialer } from '../../../shared/src/transport/quic.ts';
import { openEmbeddedDirectory } from '../../../gateway/src/directory/embedded.ts';
import { connectRunner } from '../../../tunnel-client/src/client.ts';

/** Below the gateway's limit for one runner. */
const LEGS_PER_RUNNER = 10;
/** Dials at once: as many as keep the gateway busy. */
const DIALS = 32;
const DIAL_TIMEOUT_MS = 30_000;
/** A dial that fails is tried again: a listener may have lost a datagram in the rush. */
const TRIES = 5;
/** That many are to be back. */
const BACK_SHARE = 0.99;

interface Crowd {
  /** Counts what is up. */
  open(): number;
  /** Called whenever the count may have changed. */
  onChange: () => void;
}

const [mode, directoryPath = '', issuer = '', ...rest] = process.argv.slice(2);
const directory = await openEmbeddedDirectory({ clock: systemClock }, { path: directoryPath, issuer });
const { current, trust, issuer: known } = await directory.authority();

/** `work` for every index, `DIALS` at once. */
const forEach = async (count: number, work: (index: number) => Promise<void>): Promise<void> => {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: DIALS }, worker));
};

interface Party {
  readonly dialer: QuicDialer;
  readonly membership: string;
}

const enrol = async (): Promise<Party> => {
  const key = createKey();
  const { runner, exchangeToken } = await directory.createRunner({ name: 'crowd' });
  await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
  const claims = { id: runner.id, organization: undefined, group: 'runner', publicKey: key.publicKey } as const;
  return {
    dialer: createQuicDialer({ key }),
    membership: await signMembership(current, claims, { clock: systemClock }),
  };
};

const openLegs = async (address: string, count: number): Promise<Crowd> => {
  const { host, port } = parseHostPort(address);
  const verify = (token: string, peerKey: Uint8Array): ReturnType<typeof verifyMembership> =>
    verifyMembership(token, { trust, issuer: known, group: 'gateway', peerKey }, { clock: systemClock });
  const dial = async ({ dialer, membership }: Party, instance: string): Promise<Leg> => {
    for (let attempt = 1; ; attempt++) {
      const signal = AbortSignal.timeout(DIAL_TIMEOUT_MS);
      try {
        const leg = await dialLeg(
          await dialer.dial({ host, port }, { signal }),
          {
            clock: systemClock,
            membership: () => membership,
            verify,
            hello: { instance, instanceStartedAt: 1, agent: 'crowd' },
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
  const parties: Party[] = [];
  for (let index = 0; index < count / LEGS_PER_RUNNER; index++) parties.push(await enrol());
  const legs: Leg[] = [];
  await forEach(count, async (index) => {
    const party = parties[Math.floor(index / LEGS_PER_RUNNER)]!;
    legs.push(await dial(party, `instance-${index % LEGS_PER_RUNNER}`));
  });
  return { open: () => legs.filter((leg) => leg.isOpen).length, onChange: () => {} };
};

const openClients = async (gateway: string, caFile: string, count: number): Promise<Crowd> => {
  const ca = await readFile(caFile, 'utf8');
  const base = await mkdtemp(join(tmpdir(), 'crowd-'));
  const up = new Set<number>();
  const crowd: Crowd = { open: () => up.size, onChange: () => {} };
  await forEach(count, async (index) => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'crowd' });
    const stateDir = join(base, String(index));
    const client = connectRunner({ gateway, runnerId: runner.id, exchangeToken, stateDir, ca });
    client.on('state', (state) => {
      if (state === 'online') up.add(index);
      else up.delete(index);
      crowd.onChange();
    });
    client.on('error', () => {}); // it goes on by itself
    await client.ready();
  });
  return crowd;
};

const startedAt = performance.now();
const crowd =
  mode === 'legs'
    ? await openLegs(rest[0] ?? '', Number(rest[1]))
    : await openClients(rest[0] ?? '', rest[1] ?? '', Number(rest[2]));
const count = Number(rest.at(-1));
createInterface(process.stdin).on('line', (line) => {
  if (line !== 'watch') return console.log(`open ${JSON.stringify({ open: crowd.open() })}`);
  let wasDown = false;
  crowd.onChange = () => {
    if (crowd.open() < count * BACK_SHARE) wasDown = true;
    else if (wasDown) {
      crowd.onChange = () => {};
      console.log(`back ${JSON.stringify({ at: Date.now() })}`);
    }
  };
  console.log('watching');
});
console.log(`ready ${JSON.stringify({ open: crowd.open(), ms: Math.round(performance.now() - startedAt) })}`);
