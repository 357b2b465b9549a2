/** How the client comes back to a better transport, while UDP comes and goes: real legs, scripted dials, the test's clock. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { PATH_REPORT_MS } from '../../shared/src/protocol/path-report.ts';
import { BETTER_LIMITS } from '../../tunnel-client/src/better-transport.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createSupervisor } from '../../tunnel-client/src/supervisor.ts';
import { type Transport, TRANSPORTS } from '../../tunnel-client/src/transport.ts';
import { createTransportRace } from '../../tunnel-client/src/transport-race.ts';
import { type LegEnds, makeLegEnds } from '../support/leg-ends.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

const STEP_MS = 250;
/** Turns of the event loop that a handshake of two legs takes at most. */
const HANDSHAKE_TURNS = 60;
const MINUTE_MS = 60_000;

interface Made extends LegEnds {
  readonly transport: Transport;
  readonly gatewayPackets: { sent: number; lost: number };
}

const worlds: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

const start = () => {
  const clock = createManualClock();
  const made: Made[] = [];
  const works: Record<Transport, boolean> = { quic: true, webtransport: true, websocket: true };
  /** Share of the packets that QUIC loses, what each transport then carries, and its packets in a second. */
  const path = { loss: 0, rttMs: 100, packetsPerSecond: 100, gatewayLoss: 0 };
  const goodput: Record<Transport, number> = { quic: 100, webtransport: 100, websocket: 100 };
  const measured: string[] = [];
  const ups: {
    readonly at: number;
    readonly transport: string;
    readonly reason: string;
    readonly isForced: boolean;
  }[] = [];
  let lastUp: Leg | undefined;
  let handshakes = 0;
  const race = createTransportRace(
    {
      clock,
      random: () => 0.5,
      async dial(_gateway, transport, { signal }) {
        if (!works[transport]) {
          if (transport !== 'quic') throw new TransportError('refused');
          // UDP that is dropped says nothing for 5 s.
          return new Promise((_, reject) => {
            const cancel = clock.timer(5_000, () => reject(new TransportError('no answer')));
            signal.addEventListener('abort', () => (cancel(), reject(signal.reason as Error)), { once: true });
          });
        }
        handshakes += 1;
        const ends = await makeLegEnds('gw', transport);
        handshakes -= 1;
        if (transport === 'quic') ends.path.packets = { sent: 0, lost: 0 };
        made.push({ ...ends, transport, gatewayPackets: { sent: 0, lost: 0 } });
        return ends.runnerLeg;
      },
    },
    { transports: TRANSPORTS },
  );
  const supervisor = createSupervisor({
    clock,
    random: () => 0,
    log: silentLogger,
    transports: TRANSPORTS,
    dial: race,
    measure: (leg) => {
      measured.push(leg.transport);
      return Promise.resolve(goodput[leg.transport as Transport]);
    },
    attach: (leg) => leg.attach({}),
    onUp({ leg, reason }) {
      // Whoever served before is dead.
      const isForced = lastUp?.isOpen === false;
      ups.push({ at: clock.monotonic(), transport: leg.transport, reason, isForced });
      lastUp = leg;
    },
    onState: () => undefined,
    onDown: () => undefined,
    onError: () => undefined,
    onMembershipRefused: () => undefined,
    onUnreachable: () => undefined,
  });
  const serving = () =>
    supervisor.legs().find(({ state }) => state === 'up' || state === 'suspect' || state === 'drained');
  worlds.push({
    async close() {
      supervisor.stop();
      await until(() => handshakes === 0);
      for (const each of made) await each.close();
    },
  });
  /** Time passes; what works is heard, and QUIC legs end 5 s after UDP is gone. */
  let silentMs = 0;
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      silentMs = works.quic ? 0 : silentMs + STEP_MS;
      for (const each of made) {
        if (each.path.packets) {
          each.path.rttMs = path.rttMs;
          const sent = (path.packetsPerSecond * STEP_MS) / 1_000;
          each.path.packets.sent += sent;
          each.path.packets.lost += path.loss * sent;
          each.gatewayPackets.sent += sent;
          each.gatewayPackets.lost += path.gatewayLoss * sent;
          if (passed % PATH_REPORT_MS === 0 && each.gatewayLeg.isOpen) {
            const { sent: all, lost } = each.gatewayPackets;
            each.gatewayLeg.send({ type: 'path', sent: Math.round(all), lost: Math.round(lost) });
          }
        }
        if (works[each.transport]) each.hear();
        else if (each.transport === 'quic' && silentMs >= 5_000) each.runnerLeg.abort('lost');
      }
      await clock.advance(STEP_MS);
      while (handshakes > 0) await settle(1);
      await settle(HANDSHAKE_TURNS / 10);
    }
  };
  return { clock, supervisor, works, path, goodput, measured, ups, made, serving, pass };
};

describe('a better transport', () => {
  it('is moved to when it has answered and stayed for 10 s; the other leg is left', async () => {
    const world = start();
    world.works.quic = false;
    world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
    await world.pass(4_000);
    assert.deepEqual(
      world.ups.map(({ transport, reason }) => [transport, reason]),
      [['webtransport', 'quic_silent']],
    );
    const upAt = world.ups[0]?.at ?? 0;
    world.works.quic = true;
    await world.pass(BETTER_LIMITS.firstLookMs);
    assert.deepEqual(
      world.supervisor.legs().map(({ leg, state }) => [leg.transport, state]),
      [
        ['webtransport', 'up'],
        ['quic', 'standby'],
      ],
    );
    await world.pass(BETTER_LIMITS.trialMs + 1_000);
    assert.deepEqual(world.ups.map(({ transport, reason }) => [transport, reason])[1], ['quic', 'better']);
    const movedAfterMs = (world.ups[1]?.at ?? 0) - upAt;
    assert.ok(movedAfterMs >= BETTER_LIMITS.firstLookMs + BETTER_LIMITS.trialMs, `${movedAfterMs} ms`);
    await world.pass(5_000);
    assert.deepEqual(
      world.supervisor.legs().map(({ leg, state }) => [leg.transport, state]),
      [['quic', 'up']],
    );
  });

  it('is not moved to when it is gone again within these 10 s, and is looked for half as often', async () => {
    const world = start();
    world.works.quic = false;
    world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
    await world.pass(4_000);
    world.works.quic = true;
    await world.pass(BETTER_LIMITS.firstLookMs + 2_000);
    assert.equal(world.supervisor.legs().length, 2);
    world.works.quic = false;
    await world.pass(20_000);
    assert.equal(world.ups.length, 1);
    assert.equal(world.supervisor.legs().length, 1);
    world.works.quic = true;
    const quicLegs = (): number => world.made.filter(({ transport }) => transport === 'quic').length;
    const before = quicLegs();
    await world.pass(BETTER_LIMITS.firstLookMs);
    assert.equal(quicLegs(), before);
    await world.pass(BETTER_LIMITS.firstLookMs);
    assert.equal(quicLegs(), before + 1);
  });

  it('is WebTransport too, where there was a WebSocket only', async () => {
    const world = start();
    Object.assign(world.works, { quic: false, webtransport: false });
    world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
    await world.pass(4_000);
    assert.equal(world.serving()?.leg.transport, 'websocket');
    world.works.webtransport = true;
    await world.pass(BETTER_LIMITS.firstLookMs + BETTER_LIMITS.trialMs + 10_000);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    assert.equal(world.serving()?.reason, 'better');
  });

  for (const periodMs of [7_000, 30_000, 75_000, 100_000, 300_000]) {
    it(`does not flap when UDP comes and goes every ${periodMs / 1_000} s`, async () => {
      const world = start();
      world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
      await world.pass(1_000);
      let withoutMs = 0;
      const end = 60 * MINUTE_MS;
      for (let passed = 0; passed < end; passed += periodMs) {
        world.works.quic = !world.works.quic;
        for (let inPeriod = 0; inPeriod < periodMs; inPeriod += 1_000) {
          await world.pass(1_000);
          const served = world.serving()?.leg;
          const isServed = served !== undefined && world.works[served.transport as Transport];
          withoutMs = isServed ? 0 : withoutMs + 1_000;
          assert.ok(withoutMs <= 10_000, `no leg that works for ${withoutMs} ms`);
        }
      }
      const switches = world.ups
        .filter(({ transport }, index) => transport !== world.ups[index - 1]?.transport)
        .slice(1);
      assert.ok(switches.length <= end / MINUTE_MS, `${switches.length} switches within an hour`);
      // Never two within a minute by choice: a move is only ever followed by the loss of what was moved to.
      const moves = switches.filter(({ reason }) => reason === 'better').map(({ at }) => at);
      moves.slice(1).forEach((at, index) => {
        assert.ok(at - (moves[index] ?? 0) >= BETTER_LIMITS.movesApartMs, `moves ${at - (moves[index] ?? 0)} ms apart`);
      });
      // Nor otherwise, as long as the leg that serves is alive.
      switches.slice(1).forEach(({ at, isForced }, index) => {
        const apartMs = at - (switches[index]?.at ?? 0);
        assert.ok(apartMs >= BETTER_LIMITS.changesApartMs || isForced, `changes ${apartMs} ms apart by choice`);
      });
      // In any three minutes at most three.
      switches.slice(3).forEach(({ at }, index) => assert.ok(at - (switches[index]?.at ?? 0) >= 2 * MINUTE_MS));
    });
  }
});

const startOnQuic = async () => {
  const world = start();
  world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
  await world.pass(1_000);
  assert.equal(world.serving()?.leg.transport, 'quic');
  return world;
};

describe('one change of transport a minute', () => {
  /** Back on QUIC by choice, a moment ago. */
  const startAfterMove = async () => {
    const world = start();
    world.works.quic = false;
    world.supervisor.setGateways([{ id: 'gw', quic: ['gw.test:1'] }]);
    await world.pass(4_000);
    world.works.quic = true;
    while (world.serving()?.leg.transport !== 'quic') await world.pass(1_000);
    return world;
  };

  it('leaves a leg that is silent, and not dead, for none of another transport', async () => {
    const world = await startOnQuic();
    world.works.quic = false;
    await world.pass(10_000);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    const changedAt = world.ups.at(-1)?.at ?? 0;
    world.works.quic = true;
    while (world.clock.monotonic() - changedAt < BETTER_LIMITS.changesApartMs - 10_000) {
      world.works.webtransport = false;
      await world.pass(4_000);
      assert.deepEqual([world.serving()?.leg.transport, world.serving()?.state], ['webtransport', 'suspect']);
      world.works.webtransport = true;
      await world.pass(1_000);
    }
    assert.deepEqual([world.serving()?.leg.transport, world.serving()?.state], ['webtransport', 'up']);
    assert.equal(world.ups.length, 2);
    // The minute is over.
    await world.pass(10_000);
    world.works.webtransport = false;
    await world.pass(4_000);
    assert.equal(world.serving()?.leg.transport, 'quic');
  });

  it('leaves one that is dead at once, with ten seconds without one at most', async () => {
    const world = await startAfterMove();
    world.works.quic = false;
    await world.pass(10_000);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    assert.deepEqual(
      world.ups.map(({ transport, isForced }) => [transport, isForced]),
      [
        ['webtransport', false],
        ['quic', false],
        ['webtransport', true],
      ],
    );
  });

  it('holds for a lossy path too, when the leg before was dead', async () => {
    const world = await startOnQuic();
    world.works.quic = false;
    await world.pass(10_000);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    // WebTransport goes, and QUIC is all there is.
    Object.assign(world.works, { quic: true, webtransport: false });
    world.made.find(({ transport }) => transport === 'webtransport')?.runnerLeg.abort('lost');
    await world.pass(5_000);
    assert.equal(world.serving()?.leg.transport, 'quic');
    Object.assign(world.goodput, { quic: 10, webtransport: 100 });
    world.works.webtransport = true;
    world.path.loss = 0.01;
    await world.pass(3 * MINUTE_MS);
    const [, , onQuic, around] = world.ups;
    assert.deepEqual([onQuic?.transport, around?.transport], ['quic', 'webtransport']);
    const apartMs = (around?.at ?? 0) - (onQuic?.at ?? 0);
    assert.ok(apartMs >= BETTER_LIMITS.changesApartMs, `${apartMs} ms`);
  });
});

describe('a path that loses packets', () => {
  it('is left for WebTransport, after 30 s, where that carries more; the leg says why', async () => {
    const world = await startOnQuic();
    Object.assign(world.goodput, { quic: 100, webtransport: 150 });
    world.path.loss = 0.002;
    await world.pass(29_000);
    assert.deepEqual(world.measured, []);
    await world.pass(5_000);
    assert.deepEqual(
      world.ups.map(({ transport, reason }) => [transport, reason]),
      [
        ['quic', 'first'],
        ['webtransport', 'lossy'],
      ],
    );
    await world.pass(5_000);
    assert.deepEqual(
      world.supervisor.legs().map(({ leg, state }) => [leg.transport, state]),
      [['webtransport', 'up']],
    );
  });

  it('is left too when it is the gateway that loses packets, which it tells', async () => {
    const world = await startOnQuic();
    Object.assign(world.goodput, { quic: 100, webtransport: 150 });
    world.path.gatewayLoss = 0.05;
    await world.pass(29_000);
    assert.deepEqual(world.measured, []);
    await world.pass(20_000);
    assert.deepEqual(world.ups.map(({ transport, reason }) => [transport, reason])[1], ['webtransport', 'lossy']);
  });

  for (const [what, change] of [
    ['loses less', { loss: 0.0004, gatewayLoss: 0.0004 }],
    ['is short', { loss: 0.05, gatewayLoss: 0.05, rttMs: 20 }],
    ['is at rest', { loss: 0.05, gatewayLoss: 0.05, packetsPerSecond: 1 }],
  ] as const) {
    it(`is not one that ${what}`, async () => {
      const world = await startOnQuic();
      Object.assign(world.goodput, { quic: 1, webtransport: 100 });
      Object.assign(world.path, change);
      await world.pass(2 * MINUTE_MS);
      assert.deepEqual(world.measured, []);
    });
  }

  it('is not left where WebTransport carries little more, and is measured ever less often', async () => {
    const world = await startOnQuic();
    Object.assign(world.goodput, { quic: 100, webtransport: 149 });
    world.path.loss = 0.01;
    await world.pass(40_000);
    const once = world.measured.length;
    assert.equal(once, 2 * BETTER_LIMITS.transfers);
    assert.deepEqual(
      world.supervisor.legs().map(({ leg, state }) => [leg.transport, state]),
      [['quic', 'up']],
    );
    await world.pass(BETTER_LIMITS.firstLookMs + 30_000);
    assert.equal(world.measured.length, 2 * once);
    await world.pass(BETTER_LIMITS.firstLookMs + 30_000);
    assert.equal(world.measured.length, 2 * once);
    await world.pass(BETTER_LIMITS.firstLookMs);
    assert.equal(world.measured.length, 3 * once);
    assert.equal(world.ups.length, 1);
  });

  it('is gone back to by QUIC when that carries as much again, and not before', async () => {
    const world = await startOnQuic();
    Object.assign(world.goodput, { quic: 10, webtransport: 100 });
    world.path.loss = 0.01;
    await world.pass(40_000);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    world.goodput.quic = 89;
    await world.pass(4 * MINUTE_MS);
    assert.equal(world.serving()?.leg.transport, 'webtransport');
    world.goodput.quic = 90;
    world.path.loss = 0;
    await world.pass(12 * MINUTE_MS);
    assert.deepEqual(
      world.ups.map(({ transport, reason }) => [transport, reason]),
      [
        ['quic', 'first'],
        ['webtransport', 'lossy'],
        ['quic', 'better'],
      ],
    );
    assert.equal(world.supervisor.legs().length, 1);
  });

  it('that comes and goes leads to one switch a minute at most', async () => {
    const world = await startOnQuic();
    for (let minute = 0; minute < 60; minute++) {
      const isLossy = minute % 2 === 0;
      world.path.loss = isLossy ? 0.01 : 0;
      Object.assign(world.goodput, { quic: isLossy ? 10 : 100, webtransport: 100 });
      await world.pass(MINUTE_MS);
    }
    const times = world.ups.slice(1).map(({ at }) => at);
    assert.ok(times.length >= 2, 'it never moved');
    times.slice(1).forEach((at, index) => assert.ok(at - (times[index] ?? 0) >= MINUTE_MS));
  });
});
