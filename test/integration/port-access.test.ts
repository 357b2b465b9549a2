/** Who may open a port: tokens, session cookies and strangers, through a real gateway and a real tunnel client. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as http2Connect } from 'node:http2';
import { after, before, beforeEach, describe, test } from 'node:test';
import { portHost, startTestGateway, uniqueName, type Answer, type TestGateway } from '../support/gateway.ts';
import {
  createCredentials,
  openWebSocket,
  SILENT_SIGN_IN,
  startWatchfulUpstream,
  type Credentials,
  type WatchfulUpstream,
} from '../support/port-access.ts';
import { startTestRunner, type TestRunner } from '../support/runner.ts';

const JSON_ONLY = { accept: 'application/json' };
const NAVIGATION = { 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
const errorCodeOf = (answer: Answer): unknown => answer.headers['gateway-error'];

describe('private ports', { timeout: 120_000 }, () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: WatchfulUpstream;
  let credentials: Credentials;
  let environmentId: string;
  let port: number;
  let host: string;
  let origin: string;

  before(async () => {
    gateway = await startTestGateway({ config: { signIn: SILENT_SIGN_IN } });
    runner = await startTestRunner(gateway, { organization: 'acme' });
    upstream = await startWatchfulUpstream();
    port = upstream.port;
    credentials = createCredentials(gateway.gateway.directory);
    environmentId = uniqueName('demo');
    host = portHost(environmentId, port);
    origin = `https://${host}:${gateway.httpsPort}`;
    await runner.announce({
      id: environmentId,
      creator: 'ada',
      ports: [{ port, admission: 'organization' }],
      authNonce: 3,
    });
  });
  after(async () => {
    await upstream.close();
    await runner.close();
    await gateway.close();
  });
  beforeEach(() => void upstream.seen.splice(0));

  const ask = (headers: Record<string, string>, method = 'GET', path = '/'): Promise<Answer> =>
    gateway.request(host, path, { method, headers: { ...JSON_ONLY, ...headers } });
  const token = (over: { user?: string } = {}): Promise<string> => credentials.token({ environmentId, port, ...over });
  const cookie = (over: object = {}): Promise<string> =>
    credentials.cookie({ environmentId, port, user: 'ada', authNonce: 3, ...over });

  const isServed = async (headers: Record<string, string>, method = 'GET'): Promise<boolean> => {
    const answer = await ask(headers, method);
    const reached = upstream.seen.splice(0).length;
    assert.equal(reached, answer.status === 200 ? 1 : 0, 'what is refused never reaches the application');
    return answer.status === 200;
  };

  test('a token opens its port, and the application never sees it', async () => {
    const own = await token();
    for (const headers of [
      { authorization: `Bearer ${own}` },
      { Authorization: `bearer ${own}` },
      { 'x-gitpod-port-token': own },
      { 'x-gitpod-port-token': own, authorization: 'Bearer the.applications.own' },
      { 'x-gitpod-port-token': own, authorization: 'Basic dXNlcjpwYXNz' },
      { authorization: `Bearer ${own}`, 'x-gitpod-port-token': own },
    ] as Record<string, string>[]) {
      const answer = await ask({ ...headers, cookie: 'theirs=1; __Host-gitpod_port_auth=x' }, 'POST');
      assert.deepEqual([answer.status, answer.body], [200, 'application']);
      const [seen] = upstream.seen.splice(0);
      assert.ok(!JSON.stringify(seen).includes(own), JSON.stringify(seen));
      assert.equal(seen?.headers['x-gitpod-port-token'], undefined);
      assert.equal(seen?.headers.cookie, 'theirs=1');
      const theirs = Object.entries(headers).find(
        ([name, value]) => /^authorization$/i.test(name) && !value.includes(own),
      );
      assert.equal(seen?.headers.authorization, theirs?.[1]);
    }
  });

  test('a token of the gateway is taken out where nobody asked for one', async () => {
    const open = uniqueName('open');
    await runner.announce({ id: open, ports: [{ port, admission: 'everyone' }] });
    const own = await token();
    const answer = await gateway.request(portHost(open, port), '/', {
      headers: { authorization: `Bearer ${own}`, 'x-gitpod-port-token': 'any', X_Gitpod_Port_Token: own },
    });
    assert.equal(answer.status, 200);
    assert.ok(!JSON.stringify(upstream.seen).includes(own));
    assert.equal(upstream.seen[0]?.headers.authorization, undefined);
  });

  test('a token that is none, of another port or environment, or of a user who may not, opens nothing', async () => {
    const own = await token();
    const [head = '', payload = ''] = own.split('.');
    const cases: [string, Record<string, string>, number, string][] = [
      ['a broken signature', { authorization: `Bearer ${head}.${payload}.AAAA` }, 401, 'token_invalid'],
      ['no signature', { authorization: `Bearer ${head}.${payload}.` }, 401, 'token_invalid'],
      ['another scheme', { authorization: `Basic ${own}` }, 401, 'token_invalid'],
      ['garbage', { 'x-gitpod-port-token': 'garbage' }, 401, 'token_invalid'],
      ['nothing', { 'x-gitpod-port-token': '' }, 401, 'token_invalid'],
      ['two tokens', { authorization: `Bearer ${own}`, 'x-gitpod-port-token': 'other' }, 401, 'token_invalid'],
      [
        'another port',
        { authorization: `Bearer ${await credentials.token({ environmentId, port: 4000 })}` },
        403,
        'token_forbidden',
      ],
      [
        'another environment',
        { authorization: `Bearer ${await credentials.token({ environmentId: 'other', port })}` },
        403,
        'token_forbidden',
      ],
      [
        'a log token',
        { 'x-gitpod-port-token': await credentials.token({ environmentId, scope: 'logs' }) },
        403,
        'token_forbidden',
      ],
      ['somebody else', { authorization: `Bearer ${await token({ user: 'eve' })}` }, 403, 'token_forbidden'],
    ];
    for (const [name, headers, status, code] of cases) {
      const answer = await ask(headers);
      assert.deepEqual([name, answer.status, errorCodeOf(answer)], [name, status, code]);
      assert.match(
        String(answer.headers['www-authenticate'] ?? ''),
        status === 401 ? /^Bearer realm="gateway"/ : /Bearer/,
      );
    }
    assert.deepEqual(upstream.seen, []);
    assert.equal(await isServed({ authorization: `Bearer ${await token({ user: 'ada' })}` }), true, 'its creator');
  });

  test('a program without a credential gets 401, what is wrong, and how to get in', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
      const answer = await ask({}, method);
      assert.equal(answer.status, 401);
      assert.equal(errorCodeOf(answer), 'sign_in_required');
      assert.equal(answer.headers['www-authenticate'], 'Bearer realm="gateway"');
      assert.equal(answer.headers['cache-control'], 'no-store');
      assert.equal(answer.headers.location, undefined);
      const { error } = JSON.parse(answer.body) as { error: { code: string; message: string } };
      assert.equal(error.code, 'sign_in_required');
      assert.ok(
        error.message.includes(`gateway token create --scope port --environment ${environmentId} --port ${port}`),
      );
    }
    const curl = await gateway.request(host, '/', { headers: { 'user-agent': 'curl/8.5.0', accept: '*/*' } });
    assert.equal(curl.status, 401);
    assert.match(curl.body, /gateway token create/);
    // A webhook with a secret of its own.
    assert.equal(await isServed({ authorization: 'Bearer webhook-secret' }, 'POST'), false);
  });

  test('the session of a visitor counts for requests of its own origin and of listed ones', async () => {
    const session = await cookie();
    const other = `https://8080--${environmentId}.gateway.localhost:${gateway.httpsPort}`;
    const evil = `https://${port}--evil.gateway.localhost:${gateway.httpsPort}`;
    const metadata = (site: string, mode: string, dest: string): Record<string, string> => ({
      'sec-fetch-site': site,
      'sec-fetch-mode': mode,
      'sec-fetch-dest': dest,
    });
    const cases: [expected: boolean, Record<string, string>, method?: string][] = [
      [true, NAVIGATION],
      [true, metadata('same-origin', 'cors', 'empty'), 'POST'],
      [true, metadata('same-site', 'navigate', 'document')],
      [true, { ...metadata('same-site', 'cors', 'empty'), origin: other }, 'PUT'],
      [true, { ...metadata('same-site', 'navigate', 'iframe'), referer: `${other}/page` }],
      [true, { origin }, 'POST'],
      [true, {}],
      [false, metadata('same-site', 'no-cors', 'script')],
      [false, metadata('same-site', 'no-cors', 'image')],
      [false, metadata('same-site', 'navigate', 'iframe')],
      [false, { ...metadata('same-site', 'navigate', 'iframe'), referer: `${evil}/` }],
      [false, { ...metadata('same-site', 'cors', 'empty'), origin: evil }],
      [false, { ...metadata('same-site', 'no-cors', 'empty'), origin: evil }, 'POST'],
      [false, { ...metadata('same-site', 'navigate', 'document'), origin: evil }, 'POST'],
      [false, { origin: evil }],
      [false, { origin: 'null' }],
      [false, {}, 'POST'],
    ];
    for (const [expected, headers, method] of cases) {
      const label = JSON.stringify([headers, method]);
      assert.equal(await isServed({ ...headers, cookie: session }, method), expected, label);
    }
    assert.equal(await isServed({ ...NAVIGATION, cookie: `a=1; ${session}; b=2` }), true);
  });

  test('a session opens its own port to its own user, as long as the announcement is the same', async () => {
    const served = async (over: object): Promise<boolean> => isServed({ ...NAVIGATION, cookie: await cookie(over) });
    assert.equal(await served({}), true);
    assert.equal(await served({ user: 'bob', organizations: ['acme'] }), true);
    assert.equal(await served({ user: 'bob', organizations: ['other'] }), false);
    assert.equal(await served({ environmentId: 'other' }), false);
    assert.equal(await served({ port: 4000 }), false);
    assert.equal(await served({ authNonce: 2 }), false);
    assert.equal(await served({ authNonce: 4 }), false);
    assert.equal(await served({ expiresAt: Date.now() - 60_000 }), false);
    const session = await cookie();
    const twice = await ask({ ...NAVIGATION, cookie: `${session}; ${session}` });
    assert.deepEqual([twice.status, errorCodeOf(twice)], [400, 'session_ambiguous']);
    assert.deepEqual(upstream.seen, []);
  });

  test('preflights are answered at the edge, and a refusal can be read by scripts that are listed', async () => {
    const other = `https://8080--${environmentId}.gateway.localhost:${gateway.httpsPort}`;
    const asked = { 'access-control-request-method': 'PUT', 'access-control-request-headers': 'x-one, content-type' };
    const preflight = await ask({ ...asked, origin: other }, 'OPTIONS');
    assert.equal(preflight.status, 204);
    assert.equal(preflight.headers['access-control-allow-origin'], other);
    assert.equal(preflight.headers['access-control-allow-credentials'], 'true');
    assert.equal(preflight.headers['access-control-allow-methods'], 'PUT');
    assert.equal(preflight.headers['access-control-allow-headers'], 'x-one, content-type');
    const refused = await ask({ origin: other });
    assert.deepEqual([refused.status, refused.headers['access-control-allow-origin']], [401, other]);
    assert.equal(refused.headers['access-control-allow-credentials'], 'true');
    for (const stranger of [
      'https://evil.test',
      `https://${port}--evil.gateway.localhost:${gateway.httpsPort}`,
      'null',
    ]) {
      const answers = [await ask({ ...asked, origin: stranger }, 'OPTIONS'), await ask({ origin: stranger })];
      for (const answer of answers) {
        assert.equal(answer.status, 401);
        assert.equal(answer.headers['access-control-allow-origin'], undefined);
      }
    }
    assert.deepEqual(upstream.seen, []);
    const served = await ask({ origin: other, cookie: await cookie() });
    assert.equal(served.status, 200);
    assert.equal(served.headers['access-control-allow-origin'], undefined, 'that is the application’s to say');
  });

  test('a WebSocket shows its token among its protocols', async () => {
    const own = await token();
    const open = (protocols: string[], headers: Record<string, string> = {}) =>
      openWebSocket(gateway.httpsPort, host, { protocols, headers });
    const opened = await open(['gitpod.port.v1', `gitpod.token.${own}`]);
    assert.equal(opened.protocol, 'gitpod.port.v1');
    opened.socket.close();
    await opened.closed;
    assert.equal(upstream.seen.splice(0)[0]?.headers['sec-websocket-protocol'], undefined);

    await assert.rejects(open(['gitpod.port.v1', 'gitpod.token.garbage']), /401/);
    await assert.rejects(open([]), /401/);
    const session = await cookie();
    await assert.rejects(open([], { cookie: session }), /401/, 'a session needs an Origin');
    await assert.rejects(open([], { cookie: session, origin: 'https://evil.test' }), /401/);
    assert.deepEqual(upstream.seen, []);
    const withSession = await open([], { cookie: session, origin });
    withSession.socket.terminate();
    await withSession.closed;
  });

  test('an application chooses its own protocol beside the token', async (t) => {
    const choosy = await startWatchfulUpstream({ protocol: 'chat.v2' });
    t.after(() => choosy.close());
    const id = uniqueName('choosy');
    await runner.announce({ id, ports: [{ port: choosy.port }] });
    const own = await credentials.token({ environmentId: id, port: choosy.port });
    const opened = await openWebSocket(gateway.httpsPort, portHost(id, choosy.port), {
      protocols: ['chat.v1', 'gitpod.port.v1', `gitpod.token.${own}`, 'chat.v2'],
    });
    assert.equal(opened.protocol, 'chat.v2');
    opened.socket.terminate();
    await opened.closed;
    assert.equal(choosy.seen[0]?.headers['sec-websocket-protocol'], 'chat.v1, chat.v2');
  });

  test('requests of one HTTP/2 connection are let in one by one, whatever the one before it showed', async (t) => {
    const second = uniqueName('second');
    await runner.announce({ id: second, creator: 'ada', ports: [{ port }] });
    const session = http2Connect(`https://127.0.0.1:${gateway.httpsPort}`, {
      servername: host,
      rejectUnauthorized: false,
    });
    t.after(() => session.close());
    session.on('error', () => undefined);
    const own = await token();
    const status = async (authority: string, headers: Record<string, string>): Promise<unknown> => {
      const stream = session.request({ ':authority': `${authority}:${gateway.httpsPort}`, accept: '*/*', ...headers });
      stream.resume().end();
      const [answer] = (await once(stream, 'response')) as [Record<string, unknown>];
      return answer[':status'];
    };
    const other = portHost(second, port);
    assert.equal(await status(host, { 'x-gitpod-port-token': own }), 200);
    assert.equal(await status(host, {}), 401);
    assert.equal(await status(other, {}), 401);
    assert.equal(await status(other, { 'x-gitpod-port-token': own }), 403);
    assert.equal(await status(other, { cookie: await cookie() }), 401);
    assert.equal(await status(host, { cookie: await cookie() }), 200);
    assert.equal(upstream.seen.length, 2);
    assert.ok(!JSON.stringify(upstream.seen).includes(own));
  });

  test('no credential stands in the log or in metrics', async () => {
    const canaries = [await token(), await token({ user: 'eve' }), await cookie(), `${await token()}x`];
    const sent = gateway.lines.length;
    for (const [index, canary] of canaries.entries()) {
      const value = canary.split('=').at(-1)!;
      await ask({ authorization: `Bearer ${value}`, cookie: canary }, 'GET', `/?n=${index}`);
      await ask({ 'x-gitpod-port-token': value, cookie: `${canary}; ${canary}` });
      await openWebSocket(gateway.httpsPort, host, { protocols: ['gitpod.port.v1', `gitpod.token.${value}`] })
        .then(({ socket }) => socket.terminate())
        .catch(() => undefined);
    }
    assert.ok(gateway.lines.length > sent);
    const told = JSON.stringify(gateway.lines) + (await (await gateway.internal('/metrics')).text());
    for (const canary of canaries) {
      const [, payload = ''] = canary.split('=').at(-1)!.split('.');
      assert.ok(!told.includes(payload), 'a token is in the log');
    }
    assert.ok(!JSON.stringify(upstream.seen).includes('gitpod.token.'));
  });
});

describe('origins that the configuration names', { timeout: 60_000 }, () => {
  test('share the session at a private port; those of the same creator only within one organization', async (t) => {
    const gateway = await startTestGateway({
      config: { signIn: SILENT_SIGN_IN, cors: ['same-creator', 'https://app.example'] },
    });
    t.after(() => gateway.close());
    const upstream = await startWatchfulUpstream();
    t.after(() => upstream.close());
    const { port } = upstream;
    const runners: Record<string, TestRunner> = {};
    for (const organization of ['acme', 'other']) {
      const runner = await startTestRunner(gateway, { organization });
      t.after(() => runner.close());
      runners[organization] = runner;
    }
    const announce = async (organization: string, creator: string): Promise<string> => {
      const id = uniqueName(organization);
      await runners[organization]!.announce({ id, creator, ports: [{ port }] });
      return id;
    };
    const mine = await announce('acme', 'ada');
    const originOf = (id: string): string => `https://${portHost(id, port)}:${gateway.httpsPort}`;
    const cookie = await createCredentials(gateway.gateway.directory).cookie({
      environmentId: mine,
      port,
      user: 'ada',
    });
    const ask = (origin: string, headers: Record<string, string> = {}, method = 'POST'): Promise<Answer> =>
      gateway.request(portHost(mine, port), '/', { method, headers: { origin, cookie, ...headers } });
    assert.equal((await ask('https://app.example')).status, 200);
    assert.equal((await ask(originOf(await announce('acme', 'ada')))).status, 200);
    const preflight = { 'access-control-request-method': 'POST' };
    for (const id of [await announce('acme', 'bob'), await announce('other', 'ada'), uniqueName('nowhere')]) {
      assert.equal((await ask(originOf(id))).status, 401, id);
      // What is said to a preflight says nothing of which environments there are, and whose.
      assert.equal((await ask(originOf(id), preflight, 'OPTIONS')).status, 204);
    }
    for (const origin of ['https://app.example.evil.test', 'http://app.example', 'https://app.example:444', 'null']) {
      assert.equal((await ask(origin)).status, 401, origin);
      assert.equal((await ask(origin, preflight, 'OPTIONS')).status, 401, origin);
    }
    assert.equal(upstream.seen.length, 2);
  });
});
