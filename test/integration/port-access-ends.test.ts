/** What is under way is cut when it is no longer allowed; policy, blocks, the page before a port that is open to everyone. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { after, before, beforeEach, describe, test } from 'node:test';
import { createRevocations } from '../../gateway/src/access/revocations.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { systemClock } from '../../shared/src/clock.ts';
import type { EnvironmentInput } from '../../tunnel-client/src/client.ts';
import { portHost, startTestGateway, uniqueName, type TestGateway } from '../support/gateway.ts';
import {
  createCredentials,
  openWebSocket,
  SILENT_SIGN_IN,
  startWatchfulUpstream,
  type Credentials,
  type WatchfulUpstream,
} from '../support/port-access.ts';
import { startTestRunner, until, type TestRunner } from '../support/runner.ts';
import { join } from 'node:path';

/** What is no longer allowed is cut within this, ms. */
const CUT_MS = 10_000;

/** A WebSocket and an event stream, and whether they still are. */
interface Lasting {
  isOpen(): boolean;
  /** Rejects unless all of it is cut, in time. */
  cut(): Promise<void>;
  end(): void;
}

describe('what is open on a port', { timeout: 240_000 }, () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: WatchfulUpstream;
  let credentials: Credentials;
  let id: string;
  let environment: EnvironmentInput & { id: string };

  before(async () => {
    gateway = await startTestGateway({ config: { signIn: SILENT_SIGN_IN } });
    runner = await startTestRunner(gateway, { organization: 'acme' });
    upstream = await startWatchfulUpstream();
    credentials = createCredentials(gateway.gateway.directory);
  });
  after(async () => {
    await upstream.close();
    await runner.close();
    await gateway.close();
  });
  /** Announces it anew, and waits until the gateway goes by it. */
  const change = async (changed: EnvironmentInput): Promise<void> => {
    runner.client.environments.set(changed);
    await until(async () => {
      const route = await gateway.gateway.registry.route(id);
      if (route.kind !== 'online') return false;
      const { authNonce, ports } = route.environment;
      const shape = ({ port, admission }: { port: number; admission?: string | undefined }): unknown => [
        port,
        admission ?? 'creator_only',
      ];
      return (
        authNonce === changed.authNonce &&
        JSON.stringify(ports.map(shape)) === JSON.stringify((changed.ports ?? []).map(shape))
      );
    });
  };
  beforeEach(async () => {
    id = uniqueName('demo');
    environment = {
      id,
      creator: 'ada',
      authNonce: 1,
      ports: [{ port: upstream.port, admission: 'organization' }],
    };
    await runner.announce(environment);
  });

  const session = (over: object = {}): Promise<string> =>
    credentials.cookie({
      environmentId: id,
      port: upstream.port,
      user: 'bob',
      organizations: ['acme'],
      authNonce: 1,
      ...over,
    });
  const withToken = async (user?: string): Promise<Record<string, string>> => ({
    'x-gitpod-port-token': await credentials.token({
      environmentId: id,
      port: upstream.port,
      ...(user === undefined ? {} : { user }),
    }),
  });

  const open = async (headers: Record<string, string>): Promise<Lasting> => {
    const host = portHost(id, upstream.port);
    const origin = `https://${host}:${gateway.httpsPort}`;
    const { socket } = await openWebSocket(gateway.httpsPort, host, { headers: { ...headers, origin } });
    const events = httpsRequest({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      path: '/events',
      agent: false,
      rejectUnauthorized: false,
      headers: { host: `${host}:${gateway.httpsPort}`, ...headers },
    });
    events.on('error', () => undefined);
    events.end();
    const [response] = (await once(events, 'response')) as [IncomingMessage];
    assert.equal(response.statusCode, 200);
    let eventsOpen = true;
    let wasCut = false;
    response.on('data', () => undefined);
    response.on('error', () => {
      wasCut = true;
    });
    response.once('close', () => {
      eventsOpen = false;
    });
    return {
      isOpen: () => eventsOpen && socket.readyState === socket.OPEN,
      async cut() {
        await until(() => !eventsOpen && socket.readyState === socket.CLOSED, CUT_MS);
        assert.ok(wasCut, 'an event stream that is cut does not look as if it had come to its end');
      },
      end() {
        socket.terminate();
        events.destroy();
      },
    };
  };
  /** Everything that was opened is gone at the application too. */
  const noneLeft = (): Promise<void> => until(() => upstream.open() === 0);

  test('is cut when authNonce is raised, and lasts where it did not depend on it', async () => {
    const bySession = await open({ cookie: await session() });
    const byToken = await open(await withToken());
    await change({ ...environment, authNonce: 2 });
    await bySession.cut();
    assert.ok(byToken.isOpen());
    const renewed = await open({ cookie: await session({ authNonce: 2 }) });
    await change({ ...environment, authNonce: 2, ports: [...environment.ports!, { port: 4000 }] });
    assert.ok(renewed.isOpen() && byToken.isOpen());
    byToken.end();
    renewed.end();
    await noneLeft();
  });

  test('is cut when the admission is narrowed', async () => {
    const bob = await open({ cookie: await session() });
    const ada = await open({ cookie: await session({ user: 'ada', organizations: [] }) });
    await change({ ...environment, ports: [{ port: upstream.port, admission: 'creator_only' }] });
    await bob.cut();
    assert.ok(ada.isOpen());
    ada.end();
    await noneLeft();
  });

  test('is cut when a port that was open to everyone no longer is, also what has not been answered', async () => {
    await change({ ...environment, ports: [{ port: upstream.port, admission: 'everyone' }] });
    const anybody = await open({});
    const waiting = gateway.request(portHost(id, upstream.port), '/silent', { headers: { accept: '*/*' } });
    await until(() => upstream.seen.some(({ url }) => url === '/silent'));
    const ada = await open({ cookie: await session({ user: 'ada' }) });
    await change({ ...environment, ports: [{ port: upstream.port }] });
    await anybody.cut();
    const answer = await waiting;
    assert.deepEqual([answer.status, answer.headers['gateway-error']], [403, 'access_ended']);
    // It was let in as anybody was.
    await ada.cut();
    await noneLeft();
  });

  test('is cut when the port is no longer exposed, and when an operator releases the name', async () => {
    const one = await open(await withToken());
    await change({ ...environment, ports: [] });
    await one.cut();
    await change(environment);
    const two = await open({ cookie: await session() });
    const released = runner.verdict(id);
    await gateway.gateway.directory.releaseEnvironment(id);
    assert.equal((await released).code, 'released');
    await two.cut();
    await noneLeft();
  });

  test('is cut when the environment is given to another runner', async (t) => {
    const next = await startTestRunner(gateway, { organization: 'acme' });
    t.after(() => next.close());
    const lasting = await open(await withToken());
    await gateway.gateway.directory.moveEnvironment(id, next.id);
    await lasting.cut();
    await noneLeft();
  });

  test('is cut when the session, or all of a user, is revoked', async (t) => {
    // Another process on the same directory, as the command line is.
    const directory = await openEmbeddedDirectory(
      { clock: systemClock },
      { path: join(gateway.stateDir, 'directory.sqlite'), issuer: 'unused' },
    );
    t.after(() => directory.close());
    const revocations = await createRevocations({ directory, clock: systemClock, log: gateway.log });
    t.after(() => revocations.close());
    const one = await open({ cookie: await session({ sessionId: 'session-1' }) });
    const two = await open({ cookie: await session({ sessionId: 'session-2' }) });
    const token = await open(await withToken('ada'));
    await revocations.revokeSession('session-1');
    await one.cut();
    assert.ok(two.isOpen() && token.isOpen());
    await revocations.revokeUser('bob');
    await two.cut();
    assert.ok(token.isOpen());
    await revocations.revokeUser('ada');
    await token.cut();
    await noneLeft();
  });

  test('is cut when the environment or its organization is blocked, and nothing is served until it is not', async () => {
    const { directory } = gateway.gateway;
    const host = portHost(id, upstream.port);
    const told = async (headers: Record<string, string>): Promise<unknown> => {
      const answer = await gateway.request(host, '/', { headers: { accept: '*/*', ...headers } });
      return answer.headers['gateway-error'] ?? answer.status;
    };
    for (const of of [
      { kind: 'environment', subject: id },
      { kind: 'organization', subject: 'acme' },
    ] as const) {
      const token = await withToken();
      const lasting = await open(token);
      await directory.block(of);
      await lasting.cut();
      assert.equal(await told(token), 'environment_blocked');
      assert.equal(await told({}), 'sign_in_required', 'a stranger learns nothing of it');
      await directory.unblock(of);
      await until(async () => (await told(token)) === 200);
    }
    await noneLeft();
  });
});

describe('the policy of an organization', { timeout: 60_000 }, () => {
  test('is told to the runner, and what it announces is served as allowed', async (t) => {
    const policy = {
      portSharing: true,
      highestAdmission: 'organization',
      allowInspectedTls: true,
      limits: {},
    } as const;
    const gateway = await startTestGateway({
      config: { signIn: SILENT_SIGN_IN, organizations: { acme: policy, closed: { ...policy, portSharing: false } } },
    });
    t.after(() => gateway.close());
    const upstream = await startWatchfulUpstream();
    t.after(() => upstream.close());
    const { port } = upstream;
    const credentials = createCredentials(gateway.gateway.directory);
    for (const [organization, admission] of [
      ['acme', 'organization'],
      ['closed', 'creator_only'],
    ] as const) {
      const runner = await startTestRunner(gateway, { organization });
      t.after(() => runner.close());
      const id = uniqueName('demo');
      const verdict = await runner.announce({
        id,
        creator: 'ada',
        ports: [{ port, admission: 'everyone' }, { port: 4000 }],
      });
      assert.equal(verdict.accepted, true);
      assert.equal(verdict.code, 'admission_narrowed');
      assert.equal(
        verdict.message,
        `the policy of the organization ${organization} serves port ${port} as ${admission} instead of everyone`,
      );
      const served = runner.client.status().environments.find((known) => known.id === id);
      assert.equal(served?.code, 'admission_narrowed');
      assert.equal(served.message, verdict.message);
      const status = async (headers: Record<string, string>): Promise<number> =>
        (await gateway.request(portHost(id, port), '/', { headers: { accept: '*/*', ...headers } })).status;
      assert.equal(await status({}), 401);
      const member = { environmentId: id, port, user: 'bob', organizations: [organization] };
      const expected = admission === 'organization' ? 200 : 401;
      assert.equal(await status({ cookie: await credentials.cookie(member) }), expected);
      const quiet = await runner.announce({ id, creator: 'ada', ports: [{ port, admission: 'creator_only' }] });
      assert.deepEqual([quiet.accepted, quiet.code], [true, undefined]);
    }
  });
});

describe('ports that are open to everyone', { timeout: 60_000 }, () => {
  test('show whose they are before they show themselves, where that is wanted', async (t) => {
    const gateway = await startTestGateway({ config: { everyonePorts: { interstitial: true, noindex: true } } });
    t.after(() => gateway.close());
    const runner = await startTestRunner(gateway, { organization: 'acme' });
    t.after(() => runner.close());
    const upstream = await startWatchfulUpstream();
    t.after(() => upstream.close());
    const { port } = upstream;
    const id = uniqueName('demo');
    await runner.announce({ id, creator: '<ada@acme.example>', ports: [{ port, admission: 'everyone' }] });
    const host = portHost(id, port);
    const origin = `https://${host}:${gateway.httpsPort}`;
    const html = { accept: 'text/html' };

    const page = await gateway.request(host, '/a/b?c=%2F', { headers: html });
    assert.deepEqual([page.status, upstream.seen.length], [200, 0]);
    assert.match(page.body, /&#60;ada@acme\.example&#62;/);
    assert.match(page.body, /acme/);
    assert.equal(page.headers['x-robots-tag'], 'noindex');
    const action = /action="([^"]+)"/.exec(page.body)?.[1] ?? '';
    const go = (headers: Record<string, string>, method = 'POST', path = action) =>
      gateway.request(host, path, { method, headers });
    assert.equal((await go({ origin: 'https://evil.test' })).headers['gateway-error'], 'cross_origin');
    assert.equal((await go({})).headers['gateway-error'], 'cross_origin');
    assert.equal((await go({ origin }, 'GET')).headers['gateway-error'], 'method_not_allowed');
    const gone = await go({ origin });
    assert.deepEqual([gone.status, gone.headers.location], [303, '/a/b?c=%2F']);
    const elsewhere = await go({ origin }, 'POST', '/_gitpod/continue?to=%2F%2Fevil.test');
    assert.equal(elsewhere.headers.location, '/');
    const [set = ''] = gone.headers['set-cookie'] ?? [];
    assert.match(set, /^__Host-gitpod_port_seen=[\w-]{22}; .*Path=\/; Secure; HttpOnly; SameSite=Lax$/);
    assert.equal(upstream.seen.length, 0, 'the gateway’s own paths never reach the application');

    const cookie = set.split(';', 1)[0]!;
    const served = await gateway.request(host, '/a/b?c=%2F', { headers: { ...html, cookie } });
    assert.deepEqual([served.status, served.body, served.headers['x-robots-tag']], [200, 'application', 'noindex']);
    assert.equal(upstream.seen[0]?.headers.cookie, undefined);
    const program = await gateway.request(host, '/', { headers: { accept: '*/*' } });
    assert.equal(program.body, 'application');

    // Somebody else's now: it is shown anew.
    runner.client.environments.set({ id, creator: 'eve', ports: [{ port, admission: 'everyone' }] });
    await until(async () => {
      const { body } = await gateway.request(host, '/', { headers: { ...html, cookie } });
      return /<dd>eve<\/dd>/.test(body);
    });
  });

  test('are shown without a word by default', async (t) => {
    const gateway = await startTestGateway();
    t.after(() => gateway.close());
    const runner = await startTestRunner(gateway);
    t.after(() => runner.close());
    const upstream = await startWatchfulUpstream();
    t.after(() => upstream.close());
    const id = uniqueName('demo');
    await runner.announce({ id, ports: [{ port: upstream.port, admission: 'everyone' }] });
    const page = await gateway.request(portHost(id, upstream.port), '/', { headers: { accept: 'text/html' } });
    assert.deepEqual([page.body, page.headers['x-robots-tag']], ['application', undefined]);
    const own = await gateway.request(portHost(id, upstream.port), '/_gitpod/continue', { method: 'POST' });
    assert.deepEqual([own.status, upstream.seen.length], [404, 1]);
  });
});
