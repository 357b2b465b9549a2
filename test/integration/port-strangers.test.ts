/** What a stranger learns of environments: nothing, where there is a sign-in. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Agent } from 'node:https';
import { after, before, describe, test } from 'node:test';
import { portHost, startTestGateway, type Answer, type TestGateway } from '../support/gateway.ts';
import {
  createCredentials,
  SILENT_SIGN_IN,
  startWatchfulUpstream,
  type WatchfulUpstream,
} from '../support/port-access.ts';
import { startTestRunner, type TestRunner } from '../support/runner.ts';

/** Of one length, so that pages with them in are. */
const name = (): string => `env-${randomBytes(4).toString('hex')}`;
const SECTIONS = ['private', 'not exposed', 'offline', 'offline, not exposed', 'unknown'] as const;
/** Requests to each, interleaved. */
const TIMED_REQUESTS = 500;
/** By how much the medians of two may differ, ms. */
const MAX_DIFFERENCE_MS = 2;

describe('strangers', { timeout: 300_000 }, () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: WatchfulUpstream;
  let hosts: Record<(typeof SECTIONS)[number], { host: string; id: string }>;

  before(async () => {
    gateway = await startTestGateway({ config: { signIn: SILENT_SIGN_IN } });
    runner = await startTestRunner(gateway);
    upstream = await startWatchfulUpstream();
    const { port } = upstream;
    const [online, offline, nowhere] = [name(), name(), name()];
    await runner.announce({ id: online, creator: 'ada', ports: [{ port }] });
    const gone = await startTestRunner(gateway);
    await gone.announce({ id: offline, creator: 'ada', ports: [{ port }] });
    await gone.close();
    // Five digits, as free ports have.
    const other = port === 65_535 ? 65_534 : port + 1;
    hosts = {
      private: { host: portHost(online, port), id: online },
      'not exposed': { host: portHost(online, other), id: online },
      offline: { host: portHost(offline, port), id: offline },
      'offline, not exposed': { host: portHost(offline, other), id: offline },
      unknown: { host: portHost(nowhere, port), id: nowhere },
    };
  });
  after(async () => {
    await upstream.close();
    await runner.close();
    await gateway.close();
  });

  /** What a stranger sees, without what was asked for itself and what is random in every answer. */
  const essence = ({ status, headers, body }: Answer, { host, id }: { host: string; id: string }): string => {
    const [port = ''] = host.split('--');
    const text = JSON.stringify([status, { ...headers, date: 'DATE', 'x-request-id': 'REQUEST' }, body]);
    const requestId = String(headers['x-request-id']);
    const states = /gitpod_port_state=([\w-]+)/.exec(text)?.[1];
    const hash = /[?&]state=([\w-]+)/.exec(text)?.[1];
    return [requestId, states, hash, id, port]
      .reduce<string>((rest, part) => (part === undefined ? rest : rest.replaceAll(part, '#')), text)
      .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g, 'TIME');
  };

  const KINDS: [string, (host: string) => Promise<Answer>][] = [
    ['a navigation', (host) => gateway.request(host, '/a?b', { headers: { accept: 'text/html' } })],
    [
      'a navigation of a browser',
      (host) =>
        gateway.request(host, '/', {
          headers: { 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' },
        }),
    ],
    [
      'a frame',
      (host) =>
        gateway.request(host, '/', {
          headers: { 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' },
        }),
    ],
    ['a fetch', (host) => gateway.request(host, '/', { headers: { accept: '*/*', 'sec-fetch-mode': 'cors' } })],
    ['curl', (host) => gateway.request(host, '/', { headers: { 'user-agent': 'curl/8.5.0' } })],
    ['a webhook', (host) => gateway.request(host, '/hook', { method: 'POST', payload: '{}' })],
    ['HEAD', (host) => gateway.request(host, '/', { method: 'HEAD' })],
    [
      'a preflight of the environment',
      (host) =>
        gateway.request(host, '/', {
          method: 'OPTIONS',
          headers: { origin: `https://${host}:${gateway.httpsPort}`, 'access-control-request-method': 'PUT' },
        }),
    ],
    [
      'a preflight of somebody',
      (host) =>
        gateway.request(host, '/', {
          method: 'OPTIONS',
          headers: { origin: 'https://evil.test', 'access-control-request-method': 'PUT' },
        }),
    ],
    [
      'a WebSocket',
      (host) =>
        gateway.request(host, '/', {
          headers: {
            connection: 'Upgrade',
            upgrade: 'websocket',
            'sec-websocket-version': '13',
            'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
          },
        }),
    ],
    ['an invalid token', (host) => gateway.request(host, '/', { headers: { 'x-gitpod-port-token': 'x.y.z' } })],
    [
      'a session that is none',
      (host) => gateway.request(host, '/', { headers: { cookie: '__Host-gitpod_port_auth=x.y.z' } }),
    ],
  ];
  for (const [kind, ask] of KINDS) {
    test(`${kind}: the same, whatever is there`, async () => {
      const seen = new Map<string, string[]>();
      for (const section of SECTIONS) {
        const target = hosts[section];
        const told = essence(await ask(target.host), target);
        seen.set(told, [...(seen.get(told) ?? []), section]);
      }
      assert.equal(seen.size, 1, [...seen].map(([told, sections]) => `${sections.join(', ')}:\n${told}`).join('\n\n'));
      const [told = ''] = seen.keys();
      assert.match(told, /^\[(?:401|302|204),/);
      assert.equal(upstream.seen.length, 0);
    });
  }

  test('somebody who may not open it learns as little from a token of their own', async () => {
    const credentials = createCredentials(gateway.gateway.directory);
    const seen = new Set<string>();
    for (const section of SECTIONS) {
      const { host, id } = hosts[section];
      const own = await credentials.token({ environmentId: id, port: Number(host.split('--')[0]), user: 'eve' });
      seen.add(essence(await gateway.request(host, '/', { headers: { 'x-gitpod-port-token': own } }), hosts[section]));
    }
    assert.equal(seen.size, 1, [...seen].join('\n\n'));
  });

  test('who may open it is told what is wrong', async () => {
    const credentials = createCredentials(gateway.gateway.directory);
    const told = [];
    for (const section of SECTIONS) {
      const { host, id } = hosts[section];
      const own = await credentials.token({ environmentId: id, port: Number(host.split('--')[0]), user: 'ada' });
      const answer = await gateway.request(host, '/', { headers: { 'x-gitpod-port-token': own } });
      told.push(answer.headers['gateway-error'] ?? answer.status);
    }
    assert.deepEqual(told, [200, 'port_not_exposed', 'runner_offline', 'runner_offline', 'token_forbidden']);
    upstream.seen.splice(0);
  });

  test('the time it takes says as little', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const durations = new Map<string, number[]>(SECTIONS.map((section) => [section, []]));
    const timed = async (section: (typeof SECTIONS)[number]): Promise<void> => {
      const { host } = hosts[section];
      const start = performance.now();
      await gateway.request(host, '/', { agent, servername: 'gateway.localhost', headers: { accept: '*/*' } });
      durations.get(section)?.push(performance.now() - start);
    };
    for (const section of SECTIONS) await timed(section);
    for (const list of durations.values()) list.splice(0);
    for (let round = 0; round < TIMED_REQUESTS; round++) for (const section of SECTIONS) await timed(section);
    agent.destroy();
    const medians = SECTIONS.map((section) => durations.get(section)!.sort((a, b) => a - b)[TIMED_REQUESTS / 2]!);
    const difference = Math.max(...medians) - Math.min(...medians);
    assert.ok(
      difference < MAX_DIFFERENCE_MS,
      `${SECTIONS.join(', ')}: ${medians.map((ms) => ms.toFixed(2)).join(', ')}`,
    );
  });
});

describe('without a sign-in', { timeout: 60_000 }, () => {
  test('a private port opens with a token, and says so; everything else is what it is', async (t) => {
    const gateway = await startTestGateway();
    t.after(() => gateway.close());
    const runner = await startTestRunner(gateway);
    t.after(() => runner.close());
    const upstream = await startWatchfulUpstream();
    t.after(() => upstream.close());
    const { port } = upstream;
    const id = name();
    await runner.announce({ id, creator: 'ada', ports: [{ port }] });
    const page = await gateway.request(portHost(id, port), '/', { headers: { accept: 'text/html' } });
    assert.equal(page.status, 401);
    assert.ok(page.body.includes(`gateway token create --scope port --environment ${id} --port ${port}`), page.body);
    const told = async (host: string, headers = {}): Promise<unknown> => {
      const answer = await gateway.request(host, '/', { headers });
      return answer.headers['gateway-error'] ?? answer.status;
    };
    assert.equal(await told(portHost(id, port)), 'port_token_required');
    assert.equal(await told(portHost(id, 4000)), 'port_not_exposed');
    assert.equal(await told(portHost(name(), port)), 'unknown_environment');
    const credentials = createCredentials(gateway.gateway.directory);
    const bearer = async (user?: string): Promise<{ authorization: string }> => ({
      authorization: `Bearer ${await credentials.token({ environmentId: id, port, ...(user ? { user } : {}) })}`,
    });
    assert.equal(await told(portHost(id, port), await bearer()), 200);
    assert.equal(await told(portHost(id, port), await bearer('ada')), 200);
    assert.equal(await told(portHost(id, port), await bearer('eve')), 'token_forbidden');
    // Nobody gives out sessions here.
    const cookie = await credentials.cookie({ environmentId: id, port, user: 'ada' });
    assert.equal(await told(portHost(id, port), { cookie }), 'port_token_required');
  });
});
