/** Which legs carry what goes to a runner itself. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { until } from '../support/runner.ts';
import { startTunnels, type RunnerLeg, type Tunnels } from '../support/tunnels.ts';

const start = async (t: TestContext): Promise<Tunnels> => {
  const tunnels = await startTunnels();
  t.after(() => tunnels.close());
  return tunnels;
};
const idsOf = (legs: readonly { readonly leg: { readonly id: string } }[]): string[] => legs.map(({ leg }) => leg.id);

test('the instance that started latest comes first, one that drains after it, a leg that was left last', async (t) => {
  const { registry, enrol } = await start(t);
  const runner = await enrol();
  const order = (): string[] => registry.runnerLegs(runner.id).map(({ id }) => id);
  const is = (...legs: RunnerLeg[]): Promise<void> => until(() => order().join() === idsOf(legs).join());

  assert.deepEqual(order(), []);
  const newer = await runner.dial({ instance: 'newer', startedAt: 2 });
  const older = await runner.dial({ instance: 'older', startedAt: 1 });
  await is(newer, older);
  newer.leg.send({ type: 'drain', reason: 'shutdown', deadlineMs: 1_000 });
  await is(older, newer);
  const again = await runner.dial({ instance: 'older', startedAt: 1, replaces: older.leg.id });
  await is(again, newer, older);
  again.leg.abort('lost');
  await is(newer, older);
  newer.leg.abort('lost');
  older.leg.abort('lost');
  await is();
});

test('who watches a runner is told of its legs, and of no other runner’s, until it stops', async (t) => {
  const { registry, enrol } = await start(t);
  const [watched, other] = [await enrol('watched'), await enrol('other')];
  let told = 0;
  const stop = registry.watchRunner(watched.id, () => {
    told += 1;
    assert.equal(registry.runnerLegs(watched.id).length, told, 'the leg is there when it is told of');
  });
  await other.dial();
  assert.equal(told, 0);
  await watched.dial({ instance: 'a' });
  await until(() => told === 1);
  await watched.dial({ instance: 'b' });
  await until(() => told === 2);
  stop();
  stop();
  await watched.dial({ instance: 'c' });
  assert.equal(told, 2);
});
