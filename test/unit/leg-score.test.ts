/** How a client tells its legs apart: by echoes through their lanes. Legs are real, time is the test's. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { ECHO_INTERVAL_MS, ECHO_MISSES, ECHO_TIMEOUT_MS } from '../../shared/src/protocol/data-path.ts';
import { FIRST_ECHO_MS, healthiestOf, scoreOf } from '../../tunnel-client/src/leg-score.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createLegs, type LegState } from '../../tunnel-client/src/supervised-legs.ts';
import { SUPERVISOR_LIMITS } from '../../tunnel-client/src/supervisor.ts';
import { type LegEnds, makeLegEnds } from '../support/leg-ends.ts';
import { advanceInSteps, createManualClock, settle } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

const STEP_MS = 250;
/** Turns of the loop. */
const LANE_TURNS = 50;

const start = async (t: TestContext) => {
  const clock = createManualClock();
  const states: LegState[] = [];
  const legs = createLegs(
    {
      ...{ clock, log: silentLogger },
      attach: (leg) => leg.attach({}),
      onUp: () => undefined,
      onState: ({ state }) => void states.push(state),
      onDown: () => undefined,
    },
    SUPERVISOR_LIMITS,
  );
  const ends: LegEnds = await makeLegEnds('gw-1');
  t.after(() => ends.close());
  const managed = legs.adopt({ leg: ends.runnerLeg, reason: 'first' }, 'gw-1');
  legs.serve(managed);
  // The lane comes with the welcome, and a moment of real time later.
  await settle(LANE_TURNS);
  /** Time passes, and packets are acknowledged all along. */
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      ends.hear();
      await advanceInSteps(clock, STEP_MS, STEP_MS);
    }
  };
  return { clock, states, legs, ends, managed, pass };
};

test('a leg is scored soon after it serves, and no more once another one serves in its place', async (t) => {
  const { managed, legs, pass, ends } = await start(t);
  assert.equal(managed.echoMs, undefined);
  await pass(FIRST_ECHO_MS + STEP_MS);
  await until(() => managed.echoMs !== undefined);
  legs.leave(managed);
  const { bytesSent } = ends.runnerLeg.stats();
  assert.ok(bytesSent > 0);
  await pass(ECHO_INTERVAL_MS * 2);
  assert.equal(ends.runnerLeg.stats().bytesSent, bytesSent);
});

test('a gateway that acknowledges and does not answer makes its leg suspect; an answer makes it good again', async (t) => {
  const { managed, states, pass, ends } = await start(t);
  ends.hang();
  const secondMissMs = FIRST_ECHO_MS + (ECHO_MISSES - 1) * ECHO_INTERVAL_MS + ECHO_TIMEOUT_MS;
  await pass(secondMissMs - STEP_MS);
  assert.deepEqual([managed.state, states], ['up', []]);
  await pass(2 * STEP_MS);
  assert.deepEqual([managed.state, states], ['suspect', ['suspect']]);
  await pass(10_000);
  assert.deepEqual(states, ['suspect'], 'that packets come does not help');
  ends.wakeUp();
  await pass(ECHO_INTERVAL_MS + STEP_MS);
  await until(async () => {
    await pass(STEP_MS);
    return managed.state === 'up';
  });
  assert.deepEqual(states, ['suspect', 'up']);
});

test('the healthiest leg serves, is in no trouble if there is such a one, and answers soonest', () => {
  const leg = (state: LegState, echoMs?: number) => ({ state, echoMs });
  const [slow, fast, suspect, drained] = [leg('up', 80), leg('up', 20), leg('suspect', 1), leg('drained', 1)];
  const [left, standby, fresh] = [leg('left', 1), leg('standby', 1), leg('up')];
  assert.equal(healthiestOf([slow, suspect, fast, drained, left, standby, fresh]), fast);
  assert.equal(healthiestOf([fresh, suspect]), fresh, 'one that was not scored yet before one in trouble');
  assert.equal(healthiestOf([fresh, slow]), slow);
  assert.equal(healthiestOf([drained, suspect]), suspect);
  assert.equal(healthiestOf([left, drained]), drained);
  assert.equal(healthiestOf([left, standby]), undefined);
});

test('one late echo is forgotten after some', () => {
  let score = [10, 10, 500].reduce<number | undefined>(scoreOf, undefined) ?? NaN;
  assert.equal(score, 255);
  for (let echo = 0; echo < 5; echo++) score = scoreOf(score, 10);
  assert.ok(score < 20, `${score} ms`);
});
