import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { createKey } from '../../shared/src/identity/keys.ts';
import { environment, startTunnels, type RunnerLeg, type Tunnels } from '../support/tunnels.ts';
import { until } from '../support/runner.ts';

const legsOf = async (tunnels: Tunnels, id: string): Promise<string[]> => {
  const route = await tunnels.registry.route(id);
  return route.kind === 'online' ? route.legs.map((leg) => leg.id) : [];
};
const ended = async ({ leg }: RunnerLeg): Promise<string> => (await leg.closed).code;

describe('legs', () => {
  let tunnels: Tunnels;
  beforeEach(async () => {
    tunnels = await startTunnels();
  });
  afterEach(() => tunnels.close());

  it('keeps what is last known when the last leg is gone, and routes again with the next one', async () => {
    const runner = await tunnels.enrol();
    const first = await runner.dial();
    await first.announce(1, [environment('demo')]);
    await first.leg.close('closed');
    await until(() => tunnels.registry.legs().length === 0);
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'offline');
    assert.deepEqual(
      route.environment?.ports.map(({ port }) => port),
      [3_000],
    );
    const second = await runner.dial();
    assert.deepEqual(await legsOf(tunnels, 'demo'), [second.leg.id]);
    // A new process starts from nothing: the old one's announcements are not its own.
    await second.leg.close('closed');
    await until(() => tunnels.registry.legs().length === 0);
    await runner.dial({ instance: 'instance-2' });
    assert.deepEqual(await legsOf(tunnels, 'demo'), []);
  });

  it('prefers the instance that started latest, and leaves one that drains', async () => {
    const runner = await tunnels.enrol();
    const old = await runner.dial({ instance: 'old', startedAt: 1 });
    await old.announce(1, [environment('both'), environment('only-old')]);
    const young = await runner.dial({ instance: 'young', startedAt: 2 });
    await young.announce(1, [environment('both')]);
    assert.deepEqual(await legsOf(tunnels, 'both'), [young.leg.id, old.leg.id]);
    old.leg.send({ type: 'drain', reason: 'shutdown', deadlineMs: 30_000 });
    await until(() => tunnels.registry.legs().some(({ state }) => state === 'draining'));
    assert.deepEqual(await legsOf(tunnels, 'both'), [young.leg.id]);
    // Nobody else announces it, so it is served until the end.
    assert.deepEqual(await legsOf(tunnels, 'only-old'), [old.leg.id]);
    await young.leg.close('closed');
    await until(() => tunnels.registry.legs().length === 1);
    assert.deepEqual(await legsOf(tunnels, 'both'), [old.leg.id]);
  });

  it('opens nothing on a leg on standby, and leaves the one that it replaces when it serves', async () => {
    const runner = await tunnels.enrol();
    const old = await runner.dial();
    await old.announce(1, [environment('demo')]);
    const next = await runner.dial({ standby: true, replaces: old.leg.id });
    const state = (id: string): string | undefined => tunnels.registry.legs().find(({ legId }) => legId === id)?.state;
    assert.deepEqual([state(old.leg.id), state(next.leg.id)], ['up', 'standby']);
    // An announcement on it counts: it is the instance's.
    await next.announce(2, [environment('demo'), environment('more')]);
    assert.deepEqual(await legsOf(tunnels, 'more'), [old.leg.id]);
    assert.deepEqual(
      tunnels.registry.runnerLegs(runner.id).map(({ id }) => id),
      [old.leg.id],
    );
    next.leg.send({ type: 'activate' });
    await until(() => state(next.leg.id) === 'up');
    assert.equal(state(old.leg.id), 'left');
    assert.deepEqual(await legsOf(tunnels, 'demo'), [next.leg.id]);
    // Said twice, and by one that serves already, it means nothing.
    next.leg.send({ type: 'activate' });
    await next.announce(3, [environment('demo')]);
    assert.equal(state(next.leg.id), 'up');
  });

  it('has no way to a runner whose only leg is on standby', async () => {
    const runner = await tunnels.enrol();
    const only = await runner.dial({ standby: true });
    await only.announce(1, [environment('demo')]);
    assert.equal((await tunnels.registry.route('demo')).kind, 'offline');
    await only.leg.close('closed');
  });

  it('releases a deleted environment only when no other instance announces it', async () => {
    const runner = await tunnels.enrol();
    const old = await runner.dial({ instance: 'old', startedAt: 1 });
    const young = await runner.dial({ instance: 'young', startedAt: 2 });
    await old.announce(1, [environment('demo')]);
    await young.announce(1, [environment('demo')]);
    await old.announce(2, [], { full: false, delete: ['demo'] });
    assert.equal((await tunnels.directory.environment('demo'))?.releasedAt, undefined);
    assert.deepEqual(await legsOf(tunnels, 'demo'), [young.leg.id]);
    await young.announce(2, []);
    assert.notEqual((await tunnels.directory.environment('demo'))?.releasedAt, undefined);
  });

  it('gives a replaced leg no new streams, and believes only the same instance', async () => {
    const runner = await tunnels.enrol();
    const first = await runner.dial();
    await first.announce(1, [environment('demo')]);
    const second = await runner.dial({ replaces: first.leg.id });
    assert.deepEqual(await legsOf(tunnels, 'demo'), [second.leg.id]);
    const stranger = await tunnels.enrol();
    await (await stranger.dial({ replaces: second.leg.id })).announce(1, []);
    assert.deepEqual(await legsOf(tunnels, 'demo'), [second.leg.id]);
    // While there is no other, a leg that was left is better than none.
    await second.leg.close('closed');
    await until(() => tunnels.registry.legs().length === 2);
    assert.deepEqual(await legsOf(tunnels, 'demo'), [first.leg.id]);
  });

  it('cuts the legs of a revoked runner with the reason, and its routes', async () => {
    const runner = await tunnels.enrol();
    const leg = await runner.dial();
    await leg.announce(1, [environment('demo')]);
    const other = await (await tunnels.enrol()).dial();
    await tunnels.directory.revokeRunner(runner.id);
    assert.equal(await ended(leg), 'revoked');
    assert.deepEqual(await legsOf(tunnels, 'demo'), []);
    await assert.rejects(runner.dial(), { name: 'RefusedError', code: 'revoked', by: 'remote' });
    assert.equal(other.leg.isOpen, true);
  });

  it('cuts the legs of a key that was replaced, and refuses it from then on', async () => {
    const runner = await tunnels.enrol();
    const old = await runner.dial();
    const { exchangeToken } = await tunnels.directory.createExchangeToken(runner.id);
    const key = createKey();
    await tunnels.directory.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
    assert.equal(await ended(old), 'key_mismatch');
    await assert.rejects(runner.dial(), { name: 'RefusedError', code: 'key_mismatch' });
    const refused = await tunnels.waitFor((line) => line.msg === 'leg refused');
    assert.deepEqual([refused.level, refused['runnerId'], refused['code']], ['warn', runner.id, 'key_mismatch']);
    assert.match(String(refused['keyFingerprint']), /^SHA256:/);
    assert.equal((await runner.dial({ key })).leg.isOpen, true);
  });

  it('refuses a runner id with another key, and leaves the live leg alone', async () => {
    const runner = await tunnels.enrol();
    const live = await runner.dial();
    await live.announce(1, [environment('demo')]);
    await assert.rejects(runner.dial({ key: createKey() }), { name: 'RefusedError', code: 'key_mismatch' });
    assert.deepEqual(await legsOf(tunnels, 'demo'), [live.leg.id]);
    const line = await tunnels.waitFor((each) => each.msg === 'leg refused');
    assert.match(String(line['reason']), /the key SHA256:\S+ is not the one on record: on record is SHA256:/);
  });

  it('refuses legs beyond the limit of a runner', async () => {
    const small = await startTunnels({ limits: { legsPerRunner: 2 } });
    try {
      const runner = await small.enrol();
      await runner.dial();
      await runner.dial();
      await assert.rejects(runner.dial(), { name: 'RefusedError', code: 'limit' });
      assert.equal((await (await small.enrol()).dial()).leg.isOpen, true);
    } finally {
      await small.close();
    }
  });

  it('tells its legs when it drains, and refuses new ones', async () => {
    const runner = await tunnels.enrol();
    const { messages, leg } = await runner.dial();
    tunnels.registry.drain(7_000);
    await until(() => messages.length === 1);
    assert.deepEqual(messages[0], { type: 'drain', reason: 'shutdown', deadlineMs: 7_000 });
    assert.equal(leg.isOpen, true);
    await assert.rejects(runner.dial(), { name: 'RefusedError', code: 'draining' });
    await tunnels.registry.close();
    assert.equal((await leg.closed).code, 'draining');
  });
});
