/** When a runner measures its gateways again by itself: time is the test's, and so is whether there is a leg. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GatewaySelection } from '../../tunnel-client/src/gateway-selection.ts';
import { createGatewaySessions } from '../../tunnel-client/src/gateway-sessions.ts';
import { type GatewayUrl, parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import type { Running } from '../../tunnel-client/src/runner.ts';
import type { SupervisedLeg } from '../../tunnel-client/src/supervised-legs.ts';
import { advanceInSteps, createManualClock, settle } from '../support/manual-clock.ts';

const MINUTE_MS = 60_000;
/** The longest interval at which the sessions look at anything. */
const STEP_MS = 10_000;
const US = parseGatewayUrl('https://api.us.example');
const EU = parseGatewayUrl('https://api.eu.example');

/** A world with two gateways, of which `EU` is chosen first. */
const start = (reselectAfterMs: number | undefined) => {
  const clock = createManualClock();
  /** Gateways where a leg comes up. */
  const alive = new Set<GatewayUrl>();
  const closing = new AbortController();
  let chosen = EU;
  let asked = 0;
  const selection: GatewaySelection = {
    current: () => chosen,
    measurements: () => [],
    choose: () => Promise.resolve(chosen),
    reselect: () => {
      asked += 1;
      chosen = US;
      return Promise.resolve(US);
    },
    keep: (url) => {
      chosen = url;
      return Promise.resolve();
    },
  };
  const run = (url: GatewayUrl): Running =>
    ({
      supervisor: {
        legs: () =>
          alive.has(url) ? [{ state: 'up', leg: { send() {}, close: () => Promise.resolve() } } as never] : [],
        stop() {},
      },
      enrolment: {
        run: ({ signal }: { signal: AbortSignal }) =>
          new Promise((_, reject) => {
            signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
          }),
      },
      quic: { close() {} },
      bytes: () => ({ bytesSent: 0, bytesReceived: 0 }),
    }) as unknown as Running;
  const problems: Error[] = [];
  const sessions = createGatewaySessions(
    { clock, log: silentLogger, selection, start: run, report: (error) => problems.push(error) },
    { reselectAfterMs },
  );
  const ended = sessions.run({ signal: closing.signal }).catch(() => undefined);
  return {
    ...{ clock, alive, sessions, problems },
    asked: () => asked,
    chosen: () => chosen,
    legs: (): readonly SupervisedLeg[] => sessions.legs(),
    async close() {
      closing.abort();
      await ended;
    },
  };
};

test('after ten minutes without a leg, and not before, the gateways are measured again, and the runner moves', async () => {
  const world = start(10 * MINUTE_MS);
  world.alive.add(EU).add(US);
  await advanceInSteps(world.clock, 60 * MINUTE_MS, STEP_MS);
  assert.equal(world.asked(), 0, 'there was a leg all along');

  world.alive.delete(EU);
  await advanceInSteps(world.clock, 9 * MINUTE_MS, STEP_MS);
  world.alive.add(EU);
  await advanceInSteps(world.clock, STEP_MS, STEP_MS);
  world.alive.delete(EU);
  await advanceInSteps(world.clock, 9 * MINUTE_MS, STEP_MS);
  assert.equal(world.asked(), 0, 'it was back for a moment: the ten minutes began anew');

  await advanceInSteps(world.clock, MINUTE_MS + STEP_MS, STEP_MS);
  assert.equal(world.asked(), 1);
  await settle();
  assert.equal(world.chosen(), US);
  assert.equal(world.legs().length, 1);
  await advanceInSteps(world.clock, 60 * MINUTE_MS, STEP_MS);
  assert.equal(world.asked(), 1);
  assert.deepEqual(world.problems, []);
  await world.close();
});

test('a runner that gets no leg at the gateway it moved to goes back, says so, and tries again ten minutes later', async () => {
  const world = start(10 * MINUTE_MS);
  await advanceInSteps(world.clock, 10 * MINUTE_MS + STEP_MS, STEP_MS);
  assert.equal(world.asked(), 1);
  await advanceInSteps(world.clock, MINUTE_MS, STEP_MS);
  assert.match(world.problems[0]?.message ?? '', /no leg came up at https:\/\/api\.us\.example within 60 s/);
  assert.equal(world.chosen(), EU);
  await advanceInSteps(world.clock, 9 * MINUTE_MS, STEP_MS);
  assert.equal(world.asked(), 1);
  await advanceInSteps(world.clock, 2 * MINUTE_MS, STEP_MS);
  assert.equal(world.asked(), 2);
  await world.close();
});

test('without the setting nothing is measured again, however long there is no leg', async () => {
  const world = start(undefined);
  await advanceInSteps(world.clock, 24 * 60 * MINUTE_MS, 10 * MINUTE_MS);
  assert.equal(world.asked(), 0);
  assert.equal(world.chosen(), EU);
  await world.close();
});
