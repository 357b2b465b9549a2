/** Very many legs of one gateway: real QUIC connections with the real handshake, ten of a runner. */
import { systemClock } from '../../shared/src/clock.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { createQuicDialer, type QuicDialer } from '../../shared/src/transport/quic.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';

/** Below the gateway's limit for one runner. */
const LEGS_PER_RUNNER = 10;
/** Dials at once: as many as keep the gateway busy. */
const DIALS = 32;
const DIAL_TIMEOUT_MS = 30_000;
/** A dial that fails is tried again: a listener may have lost a datagram in the rush. */
const TRIES = 5;

export interface Party {
  readonly dialer: QuicDialer;
  readonly membership: string;
  readonly verify: (token: string, peerKey: Uint8Array) => ReturnType<typeof verifyMembership>;
}

/** `work` for every index, {@link DIALS} at once. */
export const forEachAtOnce = async (count: number, work: (index: number) => Promise<void>): Promise<void> => {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: DIALS }, worker));
};

/** A new runner with its membership. Whoever asked for it closes its dialer. */
export const enrolParty = async (
  directory: Directory,
  { name = 'bench', organization }: { readonly name?: string; readonly organization?: string } = {},
): Promise<Party> => {
  const key = createKey();
  const { runner, exchangeToken } = await directory.createRunner({
    name,
    ...(organization === undefined ? {} : { organization }),
  });
  await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
  const { current, trust, issuer } = await directory.authority();
  const deps = { clock: systemClock };
  const claims = { id: runner.id, organization, group: 'runner', publicKey: key.publicKey } as const;
  return {
    dialer: createQuicDialer({ key }),
    membership: await signMembership(current, claims, deps),
    verify: (token, peerKey) => verifyMembership(token, { trust, issuer, group: 'gateway', peerKey }, deps),
  };
};

/** As many runners as `legs` need. Whoever asked for them closes their dialers. */
export const enrolParties = async (directory: Directory, legs: number): Promise<Party[]> => {
  const parties: Party[] = [];
  while (parties.length < legs / LEGS_PER_RUNNER) parties.push(await enrolParty(directory));
  return parties;
};

/** A leg of the party that takes whatever comes, and answers none of it. */
export const openLeg = async (
  party: Party,
  to: { readonly host: string; readonly port: number },
  instance: string,
): Promise<Leg> => {
  for (let attempt = 1; ; attempt++) {
    const signal = AbortSignal.timeout(DIAL_TIMEOUT_MS);
    try {
      const leg = await dialLeg(
        await party.dialer.dial(to, { signal }),
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

export const openLegs = async (
  parties: readonly Party[],
  to: { readonly host: string; readonly port: number },
  count: number,
): Promise<Leg[]> => {
  const legs: Leg[] = [];
  await forEachAtOnce(count, async (index) => {
    const party = parties[Math.floor(index / LEGS_PER_RUNNER)]!;
    legs.push(await openLeg(party, to, `instance-${index % LEGS_PER_RUNNER}`));
  });
  return legs;
};
