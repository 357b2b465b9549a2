/** Who may join, who stays, and whose gateway it is: real clients and gateways, with a clock that can be moved on. */
import assert from 'node:assert/strict';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { connectRunner, type RunnerClient, type RunnerOptions } from '../../tunnel-client/src/client.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, until } from '../support/runner.ts';
import { httpApplication } from '../support/applications.ts';
import { during } from '../support/whole-way.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Timers from here on wait for {@link JumpingClock.jump}, ms: what waits shorter is a matter of network, not of time. */
const LONG_TIMER_MS = 30_000;

interface JumpingClock extends Clock {
  /** Moves the wall clock on, and lets every long timer look at it, as after the sleep of a machine. */
  jump(ms: number): void;
}

const createJumpingClock = (): JumpingClock => {
  let offset = 0;
  const long = new Set<() => void>();
  return {
    ...systemClock,
    now: () => Date.now() + offset,
    timer(delayMs, callback) {
      if (delayMs < LONG_TIMER_MS) return systemClock.timer(delayMs, callback);
      long.add(callback);
      return () => long.delete(callback);
    },
    jump(ms) {
      offset += ms;
      for (const callback of [...long]) {
        long.delete(callback);
        callback();
      }
    },
  };
};

const temporaryStateDir = async (t: TestContext): Promise<string> => {
  const stateDir = await mkdtemp(join(tmpdir(), 'runner-test-'));
  t.after(() => rm(stateDir, { recursive: true, force: true }));
  return stateDir;
};

/** A client as it is; nothing waits for it to be connected. */
const startClient = async (
  t: TestContext,
  gateway: TestGateway,
  options: Partial<RunnerOptions> & { readonly runnerId: string },
): Promise<RunnerClient> => {
  const stateDir = options.stateDir ?? (await temporaryStateDir(t));
  const client = connectRunner({ gateway: gateway.url, ca: gateway.ca, ...options, stateDir });
  t.after(() => client.close());
  return client;
};
const firstProblem = (client: RunnerClient): Promise<{ code: string | undefined; message: string }> =>
  new Promise((resolve) => {
    client.on('error', (_error, problem) => resolve(problem));
  });

describe('joining', { timeout: 60_000 }, () => {
  it('is refused with a reason that a person can act on', async (t) => {
    const clock = createJumpingClock();
    const gateway = await during(t, startTestGateway({ clock }));
    const { directory } = gateway.gateway;
    const create = (): ReturnType<typeof directory.createRunner> => directory.createRunner({ name: 'test' });
    const refused = async (
      options: Partial<RunnerOptions> & { readonly runnerId: string },
      code: string,
      says: RegExp,
    ): Promise<void> => {
      const client = await startClient(t, gateway, { clock, ...options });
      const problem = await firstProblem(client);
      assert.equal(problem.code, code);
      assert.match(problem.message, says);
      assert.equal(client.status().state, 'joining');
      assert.equal(client.status().problems[0]?.code, code);
      await client.close();
    };
    const [one, two, expired] = [await create(), await create(), await create()];
    await refused({ runnerId: one.runner.id, exchangeToken: 'gpx_wrong' }, 'token_invalid', /gateway runner token/);
    await refused({ runnerId: one.runner.id, exchangeToken: two.exchangeToken }, 'runner_mismatch', /another runner/);
    await refused({ runnerId: 'nobody', exchangeToken: 'gpx_wrong' }, 'runner_unknown', /No runner has this id/);
    await refused({ runnerId: one.runner.id }, 'key_mismatch', /never joined|gateway runner token/);

    // Twice: with the same key it is an answer that got lost, with another key it is somebody else.
    const first = await startClient(t, gateway, { clock, runnerId: two.runner.id, exchangeToken: two.exchangeToken });
    await first.ready();
    await refused({ runnerId: two.runner.id, exchangeToken: two.exchangeToken }, 'token_used', /another key/);
    assert.equal(first.status().state, 'online');

    clock.jump(DAY_MS + HOUR_MS);
    await refused(
      { runnerId: expired.runner.id, exchangeToken: expired.exchangeToken },
      'token_expired',
      /24 hours.*gateway runner token/,
    );
    // A new token makes good for it.
    const { exchangeToken } = await directory.createExchangeToken(expired.runner.id);
    const late = await startClient(t, gateway, { clock, runnerId: expired.runner.id, exchangeToken });
    await late.ready();

    await directory.revokeRunner(expired.runner.id);
    await until(() => late.status().state !== 'online');
    await until(() => late.status().problems.some(({ code }) => code === 'revoked'));
  });

  it('by several at once with one token: exactly one wins', async (t) => {
    const gateway = await during(t, startTestGateway());
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'wanted' });
    const clients = await Promise.all(
      Array.from({ length: 5 }, () => startClient(t, gateway, { runnerId: runner.id, exchangeToken })),
    );
    const outcomes = await Promise.all(
      clients.map((client) =>
        Promise.race([client.ready().then(() => 'online'), firstProblem(client).then(({ code }) => code)]),
      ),
    );
    assert.deepEqual(outcomes.sort(), ['online', ...Array<string>(4).fill('token_used')]);
    await until(() => gateway.gateway.registry.legs().length === 1);
  });

  it('works with a clock that is wrong by minutes', async (t) => {
    const gateway = await during(t, startTestGateway());
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'wrong clock' });
    const clock: Clock = { ...systemClock, now: () => Date.now() - 5 * 60_000 };
    const client = await startClient(t, gateway, { clock, runnerId: runner.id, exchangeToken });
    await client.ready();
    await gateway.waitFor((line) => line['code'] === 'clock_skew' && line['runnerId'] === runner.id);
  });
});

describe('a membership', { timeout: 60_000 }, () => {
  it('is renewed at half-life, and the leg stays', async (t) => {
    const clock = createJumpingClock();
    const gateway = await during(t, startTestGateway({ clock }));
    const application = await during(
      t,
      httpApplication((_request, response) => response.end('hello')),
    );
    const runner = await during(t, startTestRunner(gateway, { clock }));
    await runner.announce({ id: 'demo', ports: [{ port: application.port, admission: 'everyone' }] });
    const before = runner.client.status();
    const renewals = (): number =>
      gateway.lines.filter((line) => line.msg === 'a runner renewed its membership' && line['runnerId'] === runner.id)
        .length;
    clock.jump(10 * HOUR_MS);
    assert.equal((await gateway.request(portHost('demo', application.port))).status, 200);
    assert.equal(renewals(), 0);
    for (const count of [1, 2, 3]) {
      clock.jump(14 * HOUR_MS);
      await until(() => renewals() === count);
      await until(() => (runner.client.status().membershipExpiresAt ?? 0) > clock.now() + 20 * HOUR_MS);
      assert.equal((await gateway.request(portHost('demo', application.port))).status, 200);
    }
    const after = runner.client.status();
    assert.deepEqual(
      after.legs.map(({ id }) => id),
      before.legs.map(({ id }) => id),
    );
    assert.deepEqual(after.problems, []);
  });

  it('that expired long ago is renewed with the key alone', async (t) => {
    const clock = createJumpingClock();
    const gateway = await during(t, startTestGateway({ clock }));
    const application = await during(
      t,
      httpApplication((_request, response) => response.end('hello')),
    );
    const environments = [{ id: 'demo', ports: [{ port: application.port, admission: 'everyone' as const }] }];
    const runner = await during(t, startTestRunner(gateway, { clock, environments }));
    await runner.client.close();
    clock.jump(7 * DAY_MS);
    const again = await during(t, startTestRunner(gateway, { clock, environments, like: runner }));
    await until(async () => (await gateway.request(portHost('demo', application.port))).status === 200);
    assert.deepEqual(again.client.status().problems, []);
    // Asleep while it was running: the same.
    clock.jump(7 * DAY_MS);
    await until(() => (again.client.status().membershipExpiresAt ?? 0) > clock.now());
    assert.equal((await gateway.request(portHost('demo', application.port))).status, 200);
  });
});

/** One UDP address before several gateways. Who sends stays with the gateway it got, until that one is taken out. */
const startBalancer = async (): Promise<{
  readonly port: number;
  setGateways(ports: readonly number[]): void;
  close(): Promise<void>;
}> => {
  const front = createSocket('udp4');
  const flows = new Map<number, { readonly back: Socket; readonly gatewayPort: number }>();
  const backs = new Set<Socket>();
  let ports: readonly number[] = [];
  let next = 0;
  front.bind(0, '127.0.0.1');
  await once(front, 'listening');
  front.on('message', (bytes, from) => {
    let flow = flows.get(from.port);
    if (!flow || !ports.includes(flow.gatewayPort)) {
      const gatewayPort = ports[next++ % ports.length];
      if (gatewayPort === undefined) return;
      const back = createSocket('udp4');
      backs.add(back);
      back.on('message', (answer) => front.send(answer, from.port, from.address));
      flow = { back, gatewayPort };
      flows.set(from.port, flow);
    }
    flow.back.send(bytes, flow.gatewayPort, '127.0.0.1');
  });
  return {
    port: front.address().port,
    setGateways: (next) => (ports = next),
    async close() {
      await Promise.all([front, ...backs].map((socket) => new Promise<void>((done) => socket.close(() => done()))));
    },
  };
};

describe('two gateways with different keys behind one UDP address', { timeout: 60_000 }, () => {
  it('both work, and a runner moves from one to the other', async (t) => {
    const clock = createJumpingClock();
    const balancer = await during(t, startBalancer());
    const stateDir = await temporaryStateDir(t);
    const directory = await during(
      t,
      openEmbeddedDirectory({ clock }, { path: join(stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` }),
    );
    const config = { advertise: { quic: [`127.0.0.1:${balancer.port}`], tcp: [] } };
    const [left, right] = await Promise.all(
      [createKey(), createKey()].map((key) => during(t, startTestGateway({ directory, key, config, clock }))),
    );
    assert.ok(left && right);
    assert.notEqual(left.gateway.id, right.gateway.id);
    balancer.setGateways([left.quicPort, right.quicPort]);
    const application = await during(
      t,
      httpApplication((_request, response) => response.end('hello')),
    );
    const environment = (id: string) => ({
      id,
      ports: [{ port: application.port, admission: 'everyone' as const }],
    });
    // Both ask the API of the left one; the balancer gives them one gateway each.
    const first = await during(t, startTestRunner(left, { clock, environments: [environment('first')] }));
    const second = await during(t, startTestRunner(left, { clock, environments: [environment('second')] }));
    const at = (gateway: TestGateway, id: string) =>
      gateway.request(portHost(id, application.port)).then(({ status }) => status);
    await until(async () => (await at(left, 'first')) === 200);
    await until(async () => (await at(right, 'second')) === 200);
    const gatewaysOf = ({ client }: typeof first): string[] => [
      ...new Set(client.status().legs.map(({ gatewayId }) => gatewayId)),
    ];
    assert.deepEqual([gatewaysOf(first), gatewaysOf(second)], [[left.gateway.id], [right.gateway.id]]);
    assert.deepEqual([first.client.status().legs.length, second.client.status().legs.length], [1, 1]);

    // The left one names itself alone when it is asked again; a second leg to the right one is of no use.
    const duplicate = right.waitFor((line) => line.msg === 'leg down' && line['runnerId'] === second.id);
    clock.jump(14 * HOUR_MS);
    assert.equal((await duplicate)['code'], 'replaced');
    assert.deepEqual([first.client.status().legs.length, second.client.status().legs.length], [1, 1]);
    assert.equal(await at(right, 'second'), 200);

    balancer.setGateways([right.quicPort]);
    await left.gateway.close({ drainTimeoutMs: 0 });
    await until(async () => (await at(right, 'first')) === 200);
    assert.deepEqual(gatewaysOf(first), [right.gateway.id]);
    assert.equal(await at(right, 'second'), 200);
  });
});
