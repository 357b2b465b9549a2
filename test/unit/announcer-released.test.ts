import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { environmentSchema, type Environment, type MessageOf } from '../../shared/src/protocol/messages.ts';
import { CLAIM_RETRY_MS, createAnnouncer, type Announcer } from '../../tunnel-client/src/announcer.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

const environment = (id: string, over: object = {}): Environment => environmentSchema.parse({ id, ...over });

describe('the announcer', () => {
  let clock: ManualClock;
  let announcer: Announcer;
  let sent: { full: boolean; set: string[] }[];
  /** The part of a leg that is announced on. */
  const newLeg = (): Leg =>
    ({
      send: (message: MessageOf<'environments'>) =>
        sent.push({ full: message.full, set: message.set.map((each) => (each as Environment).id) }),
    }) as unknown as Leg;
  const refuse = (leg: Leg, id: string, code: string): void =>
    announcer.onResults(leg, {
      type: 'environmentsResult',
      revision: 1,
      results: [{ id, accepted: false, code, message: code, urls: [] }],
    } as unknown as MessageOf<'environmentsResult'>);

  beforeEach(() => {
    clock = createManualClock();
    sent = [];
    announcer = createAnnouncer({ clock, onResult: () => undefined });
    announcer.replaceAll([environment('one'), environment('two')]);
  });

  it('announces what another runner holds again after a while', async () => {
    const leg = newLeg();
    announcer.addLeg(leg, 'gw');
    sent = [];
    refuse(leg, 'one', 'claimed');
    await clock.advance(CLAIM_RETRY_MS);
    assert.deepEqual(sent, [{ full: false, set: ['one'] }]);
    announcer.close();
  });

  it('leaves alone what an operator has released, on new legs too, until it is set anew', async () => {
    const leg = newLeg();
    announcer.addLeg(leg, 'gw');
    assert.deepEqual(sent.splice(0), [{ full: true, set: ['one', 'two'] }]);
    refuse(leg, 'one', 'released');
    await clock.advance(10 * CLAIM_RETRY_MS);
    assert.deepEqual(sent, []);
    announcer.addLeg(newLeg(), 'gw-2');
    assert.deepEqual(sent.splice(0), [{ full: true, set: ['two'] }]);
    // The same list again, as of a file in which something else changed.
    announcer.replaceAll([environment('one'), environment('two', { creator: 'u1' })]);
    assert.deepEqual([...new Set(sent.splice(0).flatMap(({ set }) => set))], ['two']);

    announcer.set(environment('one'));
    assert.deepEqual([...new Set(sent.splice(0).flatMap(({ set }) => set))], ['one']);
    announcer.addLeg(newLeg(), 'gw-3');
    assert.deepEqual(sent.splice(0), [{ full: true, set: ['one', 'two'] }]);
    refuse(leg, 'one', 'released');
    announcer.replaceAll([environment('one', { authNonce: 1 }), environment('two', { creator: 'u1' })]);
    assert.deepEqual([...new Set(sent.flatMap(({ set }) => set))], ['one'], 'changed, which is anew');
    announcer.close();
  });
});
