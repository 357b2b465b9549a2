/** Which transport wins, and when each is tried: scripted dials, and a clock that the test moves. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { RefusedError, TransportError } from '../../shared/src/errors.ts';
import type { Transport } from '../../tunnel-client/src/transport.ts';
import { TRANSPORTS } from '../../tunnel-client/src/transport.ts';
import {
  createTransportRace,
  type DialledLeg,
  NoTransportError,
  RACE_LIMITS,
} from '../../tunnel-client/src/transport-race.ts';
import { type LegEnds, makeLegEnds } from '../support/leg-ends.ts';
import { rejection } from '../support/legs.ts';
import { advanceInSteps, createManualClock, settle } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

const GATEWAY = { id: 'gw', quic: ['gw.test:4242'] };

interface Dial {
  readonly transport: Transport;
  readonly at: number;
  readonly replaces: string | undefined;
  readonly signal: AbortSignal;
  connect(): Promise<LegEnds>;
  fail(error: Error): Promise<void>;
}

const ends: LegEnds[] = [];
afterEach(async () => {
  for (const each of ends.splice(0)) await each.close();
});

const start = (transports: readonly Transport[] = TRANSPORTS) => {
  const clock = createManualClock();
  const dials: Dial[] = [];
  const stop = new AbortController();
  const race = createTransportRace(
    {
      clock,
      random: () => 0.5,
      dial: (_gateway, transport, { signal, replaces }) =>
        new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
          dials.push({
            transport,
            at: clock.monotonic(),
            replaces,
            signal,
            async connect() {
              const made = await makeLegEnds('gw', transport);
              ends.push(made);
              resolve(made.runnerLeg);
              await settle();
              return made;
            },
            async fail(error) {
              reject(error);
              await settle();
            },
          });
        }),
    },
    { transports },
  );
  const result = race(GATEWAY, { signal: stop.signal, replaces: 'old-leg' });
  let settled: DialledLeg | Error | undefined;
  result.then(
    (dialled) => (settled = dialled),
    (error: Error) => (settled = error),
  );
  return {
    clock,
    dials,
    result,
    stop,
    settled: () => settled,
    times: () => dials.map(({ transport, at }) => [transport, at]),
    dial(transport: Transport): Dial {
      const found = dials.findLast((each) => each.transport === transport);
      if (!found) throw new Error(`${transport} was not dialled`);
      return found;
    },
  };
};

const noAnswer = (): TransportError => new TransportError('no answer');

describe('race of transports', () => {
  it('tries QUIC alone for 2.5 s, then WebTransport beside it, and WebSocket 2.5 s later', async () => {
    const world = start();
    await advanceInSteps(world.clock, 10_000, 250);
    assert.deepEqual(world.times(), [
      ['quic', 0],
      ['webtransport', RACE_LIMITS.headStartMs],
      ['websocket', 2 * RACE_LIMITS.headStartMs],
    ]);
    assert.ok(world.dials.every(({ replaces }) => replaces === 'old-leg'));
    world.stop.abort(new Error('enough'));
    assert.match(String(await rejection(world.result)), /enough/);
    assert.ok(world.dials.every(({ signal }) => signal.aborted));
  });

  it('takes QUIC when it answers in time, and tries nothing else', async () => {
    const world = start();
    await advanceInSteps(world.clock, 2_000, 250);
    const made = await world.dial('quic').connect();
    const { leg, reason } = await world.result;
    assert.deepEqual([leg, reason], [made.runnerLeg, 'first']);
    await advanceInSteps(world.clock, 20_000, 250);
    assert.equal(world.dials.length, 1);
  });

  it('takes WebTransport when QUIC says nothing, gives up the dials, and closes a leg that comes late', async () => {
    const world = start();
    await advanceInSteps(world.clock, 2_500, 250);
    await world.dial('webtransport').connect();
    assert.deepEqual((await world.result).reason, 'quic_silent');
    assert.equal(world.dial('quic').signal.aborted, true);
  });

  it('takes QUIC though WebTransport was tried too, when that is first; a leg that was too late is closed', async () => {
    const clock = createManualClock();
    const legs: LegEnds[] = [];
    const gates: (() => void)[] = [];
    // Dials that do not look at their signal: what they make comes when the race is over.
    const race = createTransportRace(
      {
        clock,
        random: () => 0.5,
        dial: async (_gateway, transport) => {
          const made = await makeLegEnds('gw', transport);
          legs.push(made);
          ends.push(made);
          await new Promise<void>((resolve) => gates.push(resolve));
          return made.runnerLeg;
        },
      },
      { transports: TRANSPORTS },
    );
    const result = race(GATEWAY, { signal: new AbortController().signal });
    await until(() => gates.length === 1);
    await advanceInSteps(clock, 2_500, 250);
    await until(() => gates.length === 2);
    gates[0]?.();
    assert.equal((await result).reason, 'first');
    gates[1]?.();
    await until(() => legs[1]?.runnerLeg.isOpen === false);
    const end = await legs[1]?.gatewayLeg.closed;
    assert.deepEqual([end?.code, end?.by], ['replaced', 'remote']);
    assert.equal(legs[0]?.runnerLeg.isOpen, true);
  });

  it('does not wait for the next one when one has failed, and dials QUIC again meanwhile', async () => {
    const world = start();
    await settle();
    await world.dial('quic').fail(noAnswer());
    await world.dial('webtransport').fail(new TransportError('no HTTP/2', { code: 'no_http2' }));
    assert.deepEqual(world.times(), [
      ['quic', 0],
      ['webtransport', 0],
      ['websocket', 0],
    ]);
    await advanceInSteps(world.clock, RACE_LIMITS.againMs, 250);
    assert.equal(world.dials.length, 4);
    await world.dial('quic').connect();
    assert.equal((await world.result).reason, 'first');
  });

  it('stays with QUIC for its head start where a gateway that is busy turned it away', async () => {
    const world = start();
    await settle();
    await world.dial('quic').fail(new TransportError('ended', { code: 'turned_away' }));
    await advanceInSteps(world.clock, RACE_LIMITS.againMs, 250);
    assert.deepEqual(world.times(), [
      ['quic', 0],
      ['quic', RACE_LIMITS.againMs],
    ]);
    await advanceInSteps(world.clock, RACE_LIMITS.headStartMs - RACE_LIMITS.againMs, 250);
    assert.deepEqual(world.times().at(-1), ['webtransport', RACE_LIMITS.headStartMs]);
    await world.dial('quic').connect();
    assert.equal((await world.result).reason, 'first');
  });

  it('takes the WebSocket at once where WebTransport cannot be', async () => {
    const world = start();
    await advanceInSteps(world.clock, 2_500, 250);
    await world.dial('webtransport').fail(new TransportError('no HTTP/2', { code: 'no_http2' }));
    await world.dial('websocket').connect();
    assert.equal((await world.result).reason, 'no_http2');
    assert.equal(world.clock.monotonic(), 2_500);
  });

  it('lets a WebSocket that is up first wait for WebTransport, which then wins', async () => {
    const world = start();
    await advanceInSteps(world.clock, 5_000, 250);
    const held = await world.dial('websocket').connect();
    await advanceInSteps(world.clock, RACE_LIMITS.lastResortMs - 250, 250);
    assert.equal(world.settled(), undefined);
    const made = await world.dial('webtransport').connect();
    const { leg, reason } = await world.result;
    assert.deepEqual([leg, reason], [made.runnerLeg, 'quic_silent']);
    await until(() => !held.runnerLeg.isOpen);
  });

  it('lets it wait no longer than that, and not when WebTransport fails', async () => {
    const patient = start();
    await advanceInSteps(patient.clock, 5_000, 250);
    await patient.dial('websocket').connect();
    await advanceInSteps(patient.clock, RACE_LIMITS.lastResortMs, 250);
    assert.equal((await patient.result).reason, 'webtransport_silent');

    const failing = start();
    await advanceInSteps(failing.clock, 5_000, 250);
    await failing.dial('websocket').connect();
    await failing.dial('webtransport').fail(noAnswer());
    assert.equal((await failing.result).reason, 'webtransport_failed');
  });

  it('says what each transport said when all have failed', async () => {
    const world = start();
    await settle();
    await world.dial('quic').fail(new TransportError('blocked'));
    await world.dial('webtransport').fail(new TransportError('cut off'));
    await world.dial('websocket').fail(new TransportError('not upgraded'));
    const error = await rejection(world.result);
    assert.ok(error instanceof NoTransportError);
    assert.match(error.message, /QUIC: blocked\. WebTransport: cut off\. WebSocket: not upgraded/);
    assert.deepEqual(Object.keys(error.errors), ['quic', 'webtransport', 'websocket']);
  });

  it('ends with a refusal that holds for every way, and goes on after one that does not', async () => {
    const revoked = start();
    await settle();
    await revoked.dial('quic').fail(new RefusedError('revoked', { by: 'remote' }));
    const error = await rejection(revoked.result);
    assert.ok(error instanceof RefusedError && error.code === 'revoked');
    assert.equal(revoked.dials.length, 1);

    // Who answers over UDP may be anybody; who intercepts TLS is not on the way of QUIC.
    const going = start();
    await settle();
    await going.dial('quic').fail(new RefusedError('membership_invalid', { by: 'local' }));
    await going.dial('webtransport').fail(new RefusedError('inspected_tls', { by: 'remote' }));
    assert.equal(going.settled(), undefined);
    await going.dial('websocket').fail(noAnswer());
    const refused = await rejection(going.result);
    assert.ok(refused instanceof RefusedError, 'a refusal says more than silence');
  });

  it('tries nothing but what is configured', async () => {
    const world = start(['websocket']);
    await advanceInSteps(world.clock, 10_000, 250);
    assert.deepEqual(world.times(), [['websocket', 0]]);
    await world.dial('websocket').connect();
    assert.equal((await world.result).reason, 'configured');
  });
});
