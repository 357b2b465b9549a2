/** A configuration is read again while the gateway runs: what takes effect does so, and only that is said to. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { createClosers } from '../../gateway/src/closers.ts';
import type { GatewayConfig } from '../../gateway/src/config.ts';
import type { GatewayLimits } from '../../gateway/src/limits.ts';
import { createLiveConfig, RESTART_LIMITS } from '../../gateway/src/live-config.ts';
import { makeParts } from '../../gateway/src/parts.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { keepLog, portHost, startTestGateway, testConfig, uniqueName, type TestGateway } from '../support/gateway.ts';
import { startIdentityProvider } from '../support/identity-provider.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';
import { ACCOUNTS, createVisitor, startApplication, startSignInWorld } from '../support/sign-in-world.ts';

const TIMEOUT = { timeout: 60_000 };
const html = { accept: 'text/html' };

test('the limits that need a restart are those that are read when the parts are made', TIMEOUT, async (t) => {
  const config = testConfig(await temporaryDirectory(t));
  const live = createLiveConfig(config);
  const read = new Set<string>();
  const limits = new Proxy(live.limits, {
    get(target, name: keyof GatewayLimits) {
      read.add(name);
      return target[name];
    },
  });
  const { log } = keepLog();
  const closers = createClosers(log);
  t.after(() => closers.run());
  const bound = { https: [], http: [], quic: [], internal: undefined };
  await makeParts({ ...live, limits }, { log }, systemClock, bound, closers);
  assert.deepEqual([...read].sort(), [...RESTART_LIMITS].sort());
});

/** A gateway, and an application that answers when the test says so. */
const startWorld = async (t: TestContext, config: Partial<GatewayConfig> = {}) => {
  const gateway = await startTestGateway({ config });
  t.after(() => gateway.close());
  const base = testConfig(gateway.stateDir, { config });
  const held: ServerResponse[] = [];
  const upstream = await startUpstream((request: IncomingMessage, response) => {
    if (request.url === '/held') held.push(response);
    else response.end('served');
  });
  t.after(() => upstream.close());
  const announce = async (organization: string): Promise<string> => {
    const runner = await startTestRunner(gateway, { organization });
    t.after(() => runner.close());
    const id = uniqueName('demo');
    await runner.announce({ id, creator: 'ada', ports: [{ port: upstream.port, admission: 'everyone' }] });
    return portHost(id, upstream.port);
  };
  return {
    gateway,
    held,
    announce,
    reload: (over: Partial<GatewayConfig>) => gateway.gateway.reload({ ...base, ...over }),
    limitsWith: (over: Partial<GatewayLimits>): GatewayLimits => ({ ...base.limits, ...over }),
  };
};

/** A request that its application leaves without an answer; resolves when it is there, with the promise of its end. */
const hold = async (t: TestContext, gateway: TestGateway, host: string, held: readonly unknown[]) => {
  const count = held.length;
  const request = httpsRequest({
    host: '127.0.0.1',
    port: gateway.httpsPort,
    servername: host,
    path: '/held',
    agent: false,
    rejectUnauthorized: false,
    headers: { host: `${host}:${gateway.httpsPort}` },
  });
  const ended = new Promise<void>((resolve) => void request.on('close', resolve));
  request.on('error', () => undefined);
  request.end();
  t.after(() => request.destroy());
  await until(() => held.length > count);
  return { ended };
};

describe('what is read again', TIMEOUT, () => {
  test('limits hold for the next request; what is made once says that it needs a restart', async (t) => {
    const { gateway, held, announce, reload, limitsWith } = await startWorld(t);
    const host = await announce('acme');
    await hold(t, gateway, host, held);
    assert.equal((await gateway.request(host)).status, 200);
    const result = await reload({ limits: limitsWith({ requestsInFlightPerEnvironment: 1, headersTimeoutMs: 1 }) });
    assert.deepEqual(result, {
      applied: ['limits.requestsInFlightPerEnvironment 1'],
      needsRestart: ['limits.headersTimeoutMs'],
      faults: [],
    });
    assert.equal((await gateway.request(host)).status, 429);
    const again = await reload({ limits: limitsWith({ headersTimeoutMs: 1 }) });
    assert.deepEqual(again.needsRestart, ['limits.headersTimeoutMs'], 'it differs from what is in force still');
    assert.equal((await gateway.request(host)).status, 200);
  });

  test('limits of an organization are those of its environments together, and of no other', async (t) => {
    const { gateway, held, announce, reload } = await startWorld(t);
    const [one, two, other] = [await announce('acme'), await announce('acme'), await announce('navy')];
    const policy = { portSharing: true, highestAdmission: 'everyone', allowInspectedTls: true } as const;
    const { applied } = await reload({
      organizations: { acme: { ...policy, limits: { requestsInFlightPerOrganization: 1 } } },
    });
    assert.deepEqual(applied, ['organizations.acme']);
    const { ended } = await hold(t, gateway, one, held);
    assert.equal((await gateway.request(two)).status, 429);
    assert.equal((await gateway.request(other)).status, 200);
    held[0]!.end();
    await ended;
    await until(async () => (await gateway.request(two)).status === 200);
    await reload({ organizations: { acme: { ...policy, limits: { requestsInFlightPerEnvironment: 1 } } } });
    await hold(t, gateway, one, held);
    assert.deepEqual(
      [(await gateway.request(one)).status, (await gateway.request(two)).status, (await gateway.request(other)).status],
      [429, 200, 200],
    );
  });

  test('a narrower policy of an organization cuts what is open', async (t) => {
    const { gateway, held, announce, reload } = await startWorld(t);
    const [host, other] = [await announce('acme'), await announce('navy')];
    const { ended: cut } = await hold(t, gateway, host, held);
    const { ended: quiet } = await hold(t, gateway, other, held);
    let isQuietOpen = true;
    void quiet.then(() => (isQuietOpen = false));
    await reload({
      organizations: {
        acme: { portSharing: false, highestAdmission: 'everyone', allowInspectedTls: true, limits: {} },
      },
    });
    await cut;
    assert.equal(isQuietOpen, true);
    assert.equal((await gateway.request(host)).status, 401);
    assert.equal((await gateway.request(other)).status, 200);
  });

  test('pages of public ports, access log, names of the gateway', async (t) => {
    const { gateway, announce, reload } = await startWorld(t);
    const host = await announce('acme');
    const logged = () => gateway.lines.filter((line) => line.msg === 'request' && line['host'] === host).length;
    assert.equal((await gateway.request(host, '/', { headers: html })).body, 'served');
    await until(() => logged() === 1);
    const { applied } = await reload({
      accessLog: { enabled: false, sample: 1 },
      everyonePorts: { interstitial: true, noindex: true },
      name: 'Helsinki',
      logLevel: 'warn',
    });
    assert.deepEqual(applied.toSorted(), ['accessLog', 'everyonePorts', 'logLevel warn', 'name Helsinki']);
    assert.match((await gateway.request(host, '/', { headers: html })).body, /acme/);
    assert.equal((await gateway.request(host)).headers['x-robots-tag'], 'noindex');
    const list = JSON.parse((await gateway.request('api.gateway.localhost', '/v1/gateways')).body) as {
      gateways: { name?: string }[];
    };
    assert.equal(list.gateways[0]?.name, 'Helsinki');
    await reload({});
    assert.equal((await gateway.request(host, '/', { headers: html })).body, 'served');
    await until(() => logged() > 1);
    assert.equal(logged(), 2, 'what came while it was off was not logged');
  });

  test('what has to be bound or opened anew needs a restart', async (t) => {
    const { reload } = await startWorld(t);
    const { applied, needsRestart } = await reload({
      domains: ['other.example'],
      publicPort: 443,
      drainTimeoutMs: 1_000,
      signIn: undefined,
    });
    assert.deepEqual([applied, needsRestart.toSorted()], [['drainTimeout 1000'], ['domains', 'publicPort']]);
  });
});

test('another provider and another secret sign visitors in, and sessions go on', TIMEOUT, async (t) => {
  const world = await startSignInWorld(t);
  const application = await startApplication(t);
  const { port } = application;
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port, admission: 'creator_only' }] });
  const grace = createVisitor(world);
  assert.equal((await grace.signIn(world.origin('demo', port), 'grace')).at(-1)?.status, 200);

  const second = await startIdentityProvider({ accounts: ACCOUNTS });
  t.after(() => second.close());
  second.serve([`${world.apex}/auth/callback`]);
  const directory = await temporaryDirectory(t);
  const secretFile = join(directory, 'secret');
  await writeFile(secretFile, second.clientSecret);
  const signIn = {
    issuer: second.issuer,
    clientId: second.clientId,
    clientSecretFile: secretFile,
    scopes: ['openid', 'profile'],
    claims: { user: 'sub', name: 'name', organizations: 'groups' },
    switchPrompt: 'login' as const,
    ca: undefined,
  };
  const { gateway } = world.gateway;
  const config = testConfig(world.gateway.stateDir, { config: { signIn } });
  const missing = { ...signIn, clientSecretFile: join(directory, 'missing') };
  const refused = await gateway.reload({ ...config, signIn: missing });
  assert.deepEqual(refused.applied, []);
  assert.match(refused.faults.join(), /^signIn: .*missing/);
  const before = createVisitor(world);
  assert.equal((await before.signIn(world.origin('demo', port), 'grace')).at(-1)?.status, 200, 'the first one serves');

  const { applied, faults } = await gateway.reload(config);
  assert.deepEqual([applied, faults], [['signIn'], []]);
  assert.equal((await grace.get(world.origin('demo', port))).status, 200);
  const newcomer = createVisitor({ provider: second });
  const visits = await newcomer.signIn(world.origin('demo', port), 'grace');
  assert.equal(visits.at(-1)?.status, 200);
  assert.ok(visits.some(({ url }) => url.startsWith(second.issuer)));
  assert.ok(!visits.some(({ url }) => url.startsWith(world.provider.issuer)));
});
