import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { DEAD_PATH_DEADLINE_MS } from '../../gateway/src/tunnels/dead-path.ts';
import { ECHO_INTERVAL_MS, ECHO_TIMEOUT_MS } from '../../shared/src/protocol/data-path.ts';
import { INSTANCE_MEMORY_MS } from '../../gateway/src/tunnels/instances.ts';
import { advanceInSteps, createManualClock, settle, type ManualClock } from '../support/manual-clock.ts';
import { environment, startTunnels, type Tunnels } from '../support/tunnels.ts';
import { until } from '../support/runner.ts';

/** Until two echoes in a row were missed, ms; the first one is sent at half an interval. */
const TWO_MISSES_MS = ECHO_INTERVAL_MS * 1.5 + ECHO_TIMEOUT_MS + 1;

describe('data path', () => {
  let clock: ManualClock;
  let tunnels: Tunnels;
  beforeEach(async () => {
    clock = createManualClock();
    tunnels = await startTunnels({ clock });
  });
  afterEach(() => tunnels.close());
  const advance = (ms: number): Promise<void> => advanceInSteps(clock, ms);
  const states = (): string[] => tunnels.registry.legs().map(({ state }) => state);

  it('leaves a leg alone that answers its echoes', async () => {
    const { leg, messages } = await (await tunnels.enrol()).dial();
    for (let echo = 0; echo < 6; echo++) {
      await advance(ECHO_INTERVAL_MS);
      await settle(20);
    }
    assert.deepEqual([leg.isOpen, messages.length, states()], [true, 0, ['up']]);
    assert.equal(leg.stats().openStreams, 0);
  });

  it('forgives one miss', async () => {
    // Nothing of this leg is read until it attaches.
    const { leg } = await (await tunnels.enrol()).dial({ attach: false });
    await advance(ECHO_INTERVAL_MS * 0.5 + ECHO_TIMEOUT_MS + 1);
    leg.attach({});
    await advance(ECHO_INTERVAL_MS * 3);
    assert.deepEqual(states(), ['up']);
  });

  it('asks for a replacement after two misses, gives the leg no new streams, and closes it at the deadline', async () => {
    const runner = await tunnels.enrol();
    const alive = await runner.dial();
    await alive.announce(1, [environment('demo')]);
    await alive.leg.close('closed');
    await until(() => tunnels.registry.legs().length === 0);
    const { leg } = await runner.dial({ attach: false });
    assert.equal((await tunnels.registry.route('demo')).kind, 'online');
    await advance(TWO_MISSES_MS);
    assert.deepEqual(states(), ['dead_path']);
    assert.equal((await tunnels.registry.route('demo')).kind, 'offline');
    await advance(DEAD_PATH_DEADLINE_MS);
    const got: string[] = [];
    leg.attach({ onMessage: (message) => got.push(message.type === 'drain' ? message.reason : message.type) });
    assert.equal((await leg.closed).code, 'data_path');
    assert.deepEqual(got, ['data_path']);
  });

  it('closes the dead leg when its replacement is up', async () => {
    const runner = await tunnels.enrol();
    const dead = await runner.dial({ attach: false });
    await advance(TWO_MISSES_MS);
    assert.deepEqual(states(), ['dead_path']);
    const fresh = await runner.dial({ replaces: dead.leg.id });
    dead.leg.attach({});
    assert.equal((await dead.leg.closed).code, 'data_path');
    assert.equal(fresh.leg.isOpen, true);
  });

  it('closes a dead leg at once when the instance has another', async () => {
    const runner = await tunnels.enrol();
    const dead = await runner.dial({ attach: false });
    const fine = await runner.dial();
    await advance(TWO_MISSES_MS);
    dead.leg.attach({});
    assert.equal((await dead.leg.closed).code, 'data_path');
    assert.equal(fine.leg.isOpen, true);
  });

  it('forgets the announcements of an instance that stays away; the directory still answers', async () => {
    const runner = await tunnels.enrol();
    const { announce, leg } = await runner.dial();
    await announce(1, [environment('demo')]);
    await leg.close('closed');
    await until(() => tunnels.registry.legs().length === 0);
    assert.equal(tunnels.registry.environments().length, 1);
    void clock.advance(INSTANCE_MEMORY_MS + 1);
    assert.equal(tunnels.registry.environments().length, 0);
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'offline' && route.environment?.id === 'demo');
  });
});
