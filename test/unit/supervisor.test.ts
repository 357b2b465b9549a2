/** Legs are real (memory connections, real handshake); when a dial succeeds, and time, are the test's. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { LegClosedError, RefusedError, TransportError } from '../../shared/src/errors.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { PERSON_RETRY_MS } from '../../tunnel-client/src/enrolment.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createSupervisor, SUPERVISOR_LIMITS } from '../../tunnel-client/src/supervisor.ts';
import { type LegEnds, makeLegEnds } from '../support/leg-ends.ts';
import { never, target } from '../support/legs.ts';
import { advanceInSteps, createManualClock, settle } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

/** Divides every time of the supervisor. */
const STEP_MS = 250;

const gateways = (...ids: string[]): GatewayAddress[] => ids.map((id) => ({ id, quic: [`${id}.test:4242`] }));

interface Dial {
  readonly gateway: string;
  readonly at: number;
  readonly replaces: string | undefined;
  readonly signal: AbortSignal;
  connect(): Promise<LegEnds>;
  fail(error: Error): Promise<void>;
}

const supervisors: { stop(): void; pairs: LegEnds[] }[] = [];
afterEach(async () => {
  for (const { stop, pairs } of supervisors.splice(0)) {
    stop();
    for (const { runnerLeg, gatewayLeg } of pairs) {
      runnerLeg.abort('closed');
      gatewayLeg.abort('closed');
      await Promise.all([runnerLeg.closed, gatewayLeg.closed]);
    }
  }
});

const start = () => {
  const clock = createManualClock();
  const dials: Dial[] = [];
  const pairs: LegEnds[] = [];
  const events: string[] = [];
  const errors: number[] = [];
  let refusals = 0;
  let unreachable = 0;
  const drains = new Map<Leg, () => void>();
  const supervisor = createSupervisor({
    clock,
    random: () => 0.5,
    log: silentLogger,
    dial: (gateway, { signal, replaces }) =>
      new Promise((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
        dials.push({
          gateway: gateway.id,
          at: clock.monotonic(),
          replaces,
          signal,
          async connect() {
            const pair = await makeLegEnds(gateway.id);
            pairs.push(pair);
            resolve({ leg: pair.runnerLeg, reason: 'first' });
            await settle();
            return pair;
          },
          async fail(error) {
            reject(error);
            await settle();
          },
        });
      }),
    transports: ['quic'],
    attach: (leg, onDrain) => {
      leg.attach({ onStream: (stream) => stream.accept() });
      drains.set(leg, onDrain);
    },
    onUp: () => void events.push('up'),
    onState: ({ state }) => void events.push(state),
    onDown: (_leg, { code }) => events.push(`down ${code}`),
    onError: (_error, retryInMs) => errors.push(retryInMs),
    onMembershipRefused: () => (refusals += 1),
    onUnreachable: () => (unreachable += 1),
  });
  supervisors.push({ stop: () => supervisor.stop(), pairs });
  return {
    clock,
    dials,
    events,
    errors,
    supervisor,
    drains,
    refusals: () => refusals,
    unreachable: () => unreachable,
    async dial(index: number): Promise<Dial> {
      await until(() => dials.length > index);
      return dials[index] as Dial;
    },
  };
};

/** Time passes while the leg is heard all along. */
const passHeard = async (world: ReturnType<typeof start>, pairs: readonly LegEnds[], ms: number): Promise<void> => {
  for (let passed = 0; passed < ms; passed += 250) {
    for (const pair of pairs) pair.hear();
    await advanceInSteps(world.clock, 250, STEP_MS);
  }
};

describe('supervisor', () => {
  it('opens legs to at most four gateways, 1 s apart', async () => {
    const world = start();
    const startedAt = world.clock.monotonic();
    world.supervisor.setGateways(gateways('a', 'b', 'c', 'd', 'e', 'f'));
    await advanceInSteps(world.clock, 10_000, STEP_MS);
    assert.deepEqual(
      world.dials.map(({ at }) => at - startedAt),
      [0, 1_000, 2_000, 3_000],
    );
    assert.equal(new Set(world.dials.map(({ gateway }) => gateway)).size, 4);
  });

  it('pauses between attempts with a growing bound, and keeps to what the gateway asks', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    for (let index = 0; index < 6; index++) {
      await (await world.dial(index)).fail(new TransportError('no answer'));
      await advanceInSteps(world.clock, 3_000, STEP_MS);
    }
    // Half of the bound, as `random` is 0.5.
    assert.deepEqual(world.errors, [250, 500, 1_000, 2_000, 2_500, 2_500]);
    assert.equal(world.unreachable(), 1);
    await (await world.dial(6)).fail(new RefusedError('limit', { by: 'remote', retryAfterMs: 7_000 }));
    assert.ok((world.errors.at(-1) ?? 0) >= 7_000);
  });

  it('does not hammer where a person has to act, and tries at once when something has changed', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    await (await world.dial(0)).fail(new RefusedError('revoked', { by: 'remote' }));
    assert.deepEqual(world.errors, [PERSON_RETRY_MS]);
    assert.equal(world.refusals(), 1, 'the membership is asked for again');
    await advanceInSteps(world.clock, PERSON_RETRY_MS - 1, STEP_MS);
    assert.equal(world.dials.length, 1);
    world.supervisor.retryNow();
    await world.dial(1);
  });

  it('dials again when a leg is lost', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const pair = await (await world.dial(0)).connect();
    pair.gatewayLeg.abort('lost');
    await pair.runnerLeg.closed;
    await advanceInSteps(world.clock, 500, STEP_MS);
    const again = await world.dial(1);
    assert.equal(again.replaces, undefined);
    await again.connect();
    assert.deepEqual(world.events, ['up', 'down lost', 'up']);
  });

  it('calls a leg suspect after 2.5 s of silence, and replaces it by what answers', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const first = await (await world.dial(0)).connect();
    await passHeard(world, [first], 10_000);
    assert.deepEqual(world.events, ['up']);
    await advanceInSteps(world.clock, SUPERVISOR_LIMITS.silenceMs - 250, STEP_MS);
    assert.deepEqual(world.events, ['up']);
    await advanceInSteps(world.clock, 500, STEP_MS);
    assert.deepEqual(world.events, ['up', 'suspect']);
    const replacement = await world.dial(1);
    assert.equal(replacement.replaces, first.runnerLeg.id);
    const second = await replacement.connect();
    assert.deepEqual(world.events, ['up', 'suspect', 'up', 'left']);
    await passHeard(world, [second], 3_000);
    assert.equal(first.runnerLeg.isOpen, false, 'without streams it ends after the grace');
    assert.equal(second.runnerLeg.isOpen, true);
    await until(() => world.supervisor.legs().length === 1);
  });

  it('gives the replacement up when the leg is heard again first', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const pair = await (await world.dial(0)).connect();
    await advanceInSteps(world.clock, 3_000, STEP_MS);
    const replacement = await world.dial(1);
    await passHeard(world, [pair], 500);
    assert.equal(replacement.signal.aborted, true);
    assert.deepEqual(world.events, ['up', 'suspect', 'up']);
    await passHeard(world, [pair], 10_000);
    assert.equal(world.dials.length, 2);
    await advanceInSteps(world.clock, 3_000, STEP_MS);
    await world.dial(2);
  });

  it('does not call a gateway silent when it did not look itself', async () => {
    const clock = createManualClock();
    // Timers come late: an event loop that was blocked for 10 s.
    const late = { ...clock, timer: (ms: number, callback: () => void) => clock.timer(ms + 10_000, callback) };
    const events: string[] = [];
    const pair = await makeLegEnds('a');
    const supervisor = createSupervisor({
      clock: late,
      random: () => 0.5,
      log: silentLogger,
      transports: ['quic'],
      dial: () => Promise.resolve({ leg: pair.runnerLeg, reason: 'first' }),
      attach: (leg) => leg.attach({}),
      onUp: () => undefined,
      onState: ({ state }) => void events.push(state),
      onDown: () => undefined,
      onError: () => undefined,
      onMembershipRefused: () => undefined,
      onUnreachable: () => undefined,
    });
    supervisors.push({ stop: () => supervisor.stop(), pairs: [pair] });
    supervisor.setGateways(gateways('a'));
    await advanceInSteps(clock, 60_000, STEP_MS);
    assert.equal(supervisor.legs().length, 1);
    assert.deepEqual(events, []);
  });

  it('connects a replacement before it leaves a leg that drains; the old leg stays as long as its streams', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const first = await (await world.dial(0)).connect();
    const stream = first.gatewayLeg.openStream(target(), { signal: never });
    await stream.connected;
    world.drains.get(first.runnerLeg)?.();
    const replacement = await world.dial(1);
    assert.equal(first.runnerLeg.isOpen, true);
    await replacement.fail(new RefusedError('draining', { by: 'remote' }));
    await passHeard(world, [first], 1_000);
    const second = await (await world.dial(2)).connect();
    assert.deepEqual(world.events, ['up', 'drained', 'up', 'left']);
    await passHeard(world, [first, second], 60_000);
    assert.equal(first.runnerLeg.isOpen, true, 'a stream is still open');
    stream.destroy();
    await until(() => first.runnerLeg.stats().openStreams === 0);
    await passHeard(world, [first, second], 500);
    await first.runnerLeg.closed;
    assert.equal(second.runnerLeg.isOpen, true);
  });

  it('keeps two left legs as long as they like; the oldest of more has an hour', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const pairs: LegEnds[] = [];
    for (let index = 0; index < 4; index++) {
      const pair = await (await world.dial(index)).connect();
      pairs.push(pair);
      await pair.gatewayLeg.openStream(target(), { signal: never }).connected;
      if (index < 3) world.drains.get(pair.runnerLeg)?.();
    }
    const open = (): boolean[] => pairs.map(({ runnerLeg }) => runnerLeg.isOpen);
    await passHeard(world, pairs, 60_000);
    assert.deepEqual(open(), [true, true, true, true]);
    await advanceInSteps(world.clock, SUPERVISOR_LIMITS.leftDeadlineMs - 61_000, 60_000);
    assert.equal(pairs[0]?.runnerLeg.isOpen, true);
    await advanceInSteps(world.clock, 2_000, STEP_MS);
    assert.deepEqual(open().slice(0, 3), [false, true, true]);
  });

  it('follows the list of gateways: new ones are dialled, those that left are not dialled again', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const a = await (await world.dial(0)).connect();
    world.supervisor.setGateways(gateways('b'));
    await advanceInSteps(world.clock, 1_000, STEP_MS);
    assert.equal((await world.dial(1)).gateway, 'b');
    assert.equal(a.runnerLeg.isOpen, true, 'a leg that works is kept');
    world.supervisor.setGateways([]);
    assert.equal(world.supervisor.legs().length, 1, 'an empty list says nothing');
  });

  it('makes no leg any more once it is stopped', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    const dial = await world.dial(0);
    world.supervisor.stop();
    assert.equal(dial.signal.aborted, true);
    world.supervisor.setGateways(gateways('b'));
    await advanceInSteps(world.clock, 60_000, STEP_MS);
    assert.equal(world.dials.length, 1);
  });

  it('takes any error for a failed attempt', async () => {
    const world = start();
    world.supervisor.setGateways(gateways('a'));
    await (await world.dial(0)).fail(new LegClosedError('handshake_timeout', 'local'));
    await advanceInSteps(world.clock, 1_000, STEP_MS);
    await world.dial(1);
  });
});
