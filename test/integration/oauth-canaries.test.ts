/**
 * What a login carries is secret: the code, the state, the form, the tokens of logs. This test plants words that occur
 * nowhere else, lets every step go wrong that can, and then looks for the words in everything that gateway and tunnel
 * client say and keep.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { globSync, readFileSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { systemClock } from '../../shared/src/clock.ts';
import { createSigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { issueToken } from '../../gateway/src/access/tokens.ts';
import type { Logger } from '../../tunnel-client/src/client.ts';
import { DOMAIN, startTestGateway, type Answer, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, until, type TestRunner } from '../support/runner.ts';

const CODE = 'canaryCode7f3a9e';
const STATE = 'canaryState51bd04';
const BODY = 'canaryBody8c22f6';
const ANSWER = 'canaryAnswer06ae7d';
const SECRETS = [CODE, STATE, BODY, ANSWER];
const QUERY = `?code=${CODE}&state=${STATE}`;

/** Limits under which silence is noticed soon, ms. */
const QUICK = { responseHeaderTimeoutMs: 500, callbackWaitMs: 300, callbackBodyTimeoutMs: 300 };

/** A service that does what the name of the SCM says, once it has the head of a request. */
const startService = async (t: TestContext, onLost: () => void) => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    let head = '';
    socket.on('data', (chunk: Buffer) => {
      head += chunk.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      const what = /\/oauth\/([a-z-]+)\//.exec(head)?.[1] ?? '';
      const answer = (text: string): void => void socket.end(text, 'latin1');
      if (what === 'ok') {
        answer(`HTTP/1.1 302 Found\r\nLocation: /in?${ANSWER}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      } else if (what === 'hang-up') socket.destroy();
      else if (what === 'garbage') answer(`${ANSWER} ${head}`);
      else if (what === 'broken') answer(`HTTP/1.1 200 OK\r\nContent-Length: x${ANSWER}\r\n\r\n${ANSWER}`);
      else if (what === 'huge') answer(`HTTP/1.1 302 Found\r\nLocation: /${ANSWER.repeat(4_000)}\r\n\r\n`);
      else if (what === 'half') {
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n${ANSWER}`);
        setImmediate(() => socket.resetAndDestroy());
      } else if (what === 'lost') onLost();
      else if (what === 'error') answer(`HTTP/1.1 500 No\r\nContent-Length: ${ANSWER.length}\r\n\r\n${ANSWER}`);
      // `silent` says nothing.
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { server, port: (server.address() as AddressInfo).port };
};

const keepClientLog = () => {
  const lines: string[] = [];
  const keep = (...args: unknown[]): void => {
    lines.push(
      JSON.stringify(args, (_key, value: unknown) =>
        value instanceof Error ? { ...value, message: value.message, stack: value.stack, cause: value.cause } : value,
      ),
    );
  };
  const log: Logger = { debug: keep, info: keep, warn: keep, error: keep };
  return { log, lines };
};

interface Scene {
  readonly gateway: TestGateway;
  readonly runner: TestRunner;
  readonly clientLines: string[];
  readonly service: Awaited<ReturnType<typeof startService>>;
  readonly ask: (path: string, options?: Parameters<TestGateway['request']>[2], runnerId?: string) => Promise<Answer>;
}

const startScene = async (t: TestContext): Promise<Scene> => {
  const gateway = await startTestGateway({
    limits: QUICK,
    config: {
      listeners: {
        https: [{ host: '127.0.0.1', port: 0 }],
        quic: [{ host: '127.0.0.1', port: 0 }],
        http: [{ host: '127.0.0.1', port: 0 }],
        internal: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      },
    },
  });
  t.after(() => gateway.close());
  const { log, lines } = keepClientLog();
  const lost = Promise.withResolvers<void>();
  const service = await startService(t, lost.resolve);
  const stateDir = await mkdtemp(join(tmpdir(), 'canary-'));
  t.after(() => rm(stateDir, { recursive: true, force: true }));
  const runner = await startTestRunner(gateway, {
    stateDir,
    logger: log,
    oauth: { target: `http://127.0.0.1:${service.port}` },
  });
  t.after(() => runner.close());
  void lost.promise.then(() => runner.close());
  const { id } = runner;
  return {
    gateway,
    runner,
    clientLines: lines,
    service,
    ask: (path, options, runnerId = id) => gateway.request(`${runnerId}.${DOMAIN}`, path, options),
  };
};

const callback = (scm: string): string => `/oauth/${scm}/callback${QUERY}`;
const html = { headers: { accept: 'text/html', 'sec-fetch-mode': 'navigate' } };
const post = (payload: string, type = 'application/x-www-form-urlencoded') => ({
  method: 'POST',
  headers: { 'content-type': type },
  payload,
});
const FORM = `code=${CODE}&state=${STATE}&id_token=${BODY}`;

/** What the gateway itself answers, in each of its forms, must not repeat anything of the request. */
const assertClean = ({ headers, body }: Answer, what: string): void => {
  const text = JSON.stringify(headers) + body;
  for (const secret of SECRETS) assert.ok(!text.includes(secret), `${what}: ${secret} is in the answer`);
};

/** Everything that both programs said, show and keep. */
const everything = async ({ gateway, runner, clientLines }: Scene): Promise<[name: string, text: string][]> => {
  const files = [gateway.stateDir, runner.stateDir].flatMap((directory) =>
    globSync('**/*', { cwd: directory }).map((name) => join(directory, name)),
  );
  return [
    ['the log of the gateway', gateway.lines.map((line) => JSON.stringify(line)).join('\n')],
    ['the metrics of the gateway', await (await gateway.internal('/metrics')).text()],
    ['the status of the gateway', await (await gateway.internal('/status')).text()],
    ['the log of the tunnel client', clientLines.join('\n')],
    ['the status of the tunnel client', JSON.stringify(runner.client.status())],
    ...files
      .filter((path) => statSync(path).isFile())
      .map((path): [string, string] => [path, readFileSync(path, 'latin1')]),
  ];
};

const assertNowhere = async (scene: Scene, secrets: readonly string[]): Promise<void> => {
  for (const [name, text] of await everything(scene)) {
    for (const secret of secrets) {
      const at = text.indexOf(secret);
      assert.ok(at < 0, `${secret} is in ${name}: ${text.slice(Math.max(0, at - 200), at + 100)}`);
    }
  }
};

/** Bytes over TLS as no HTTP client sends them; what comes back until the end. */
const raw = async ({ gateway, runner }: Scene, bytes: string): Promise<string> => {
  const socket = connectTls({
    host: '127.0.0.1',
    port: gateway.httpsPort,
    servername: `${runner.id}.${DOMAIN}`,
    rejectUnauthorized: false,
  });
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  socket.write(bytes.replaceAll('HOST', `${runner.id}.${DOMAIN}:${gateway.httpsPort}`));
  await once(socket, 'close');
  return text;
};

test('nothing of a login is in any log, metric, page or file, whatever goes wrong', async (t) => {
  const scene = await startScene(t);
  const { ask, gateway } = scene;

  // The words arrive where they belong: otherwise nothing below would prove anything.
  const done = await ask(callback('ok'));
  assert.equal(done.headers.location, `/in?${ANSWER}`);
  assert.equal((await ask('/oauth/ok/callback', post(FORM))).status, 302);

  const codes = new Set<unknown>();
  const fails = async (what: string, path: string, options?: Parameters<typeof ask>[1], runnerId?: string) => {
    for (const form of [undefined, html, { headers: { 'user-agent': 'curl/8' } }]) {
      const answer = await ask(
        path,
        { ...form, ...options, headers: { ...form?.headers, ...options?.headers } },
        runnerId,
      );
      assert.ok(answer.headers['gateway-error'], what);
      codes.add(answer.headers['gateway-error']);
      assertClean(answer, what);
    }
  };
  await fails('another method', callback('ok'), { method: 'DELETE' });
  await fails('another path', `/oauth/ok/callbacks${QUERY}`);
  await fails('not a form', '/oauth/ok/callback', post(`{"code":"${BODY}"}`, 'application/json'));
  await fails('a large form', '/oauth/ok/callback', post(FORM + BODY.repeat(10_000)));
  await fails('an unknown runner', callback('ok'), undefined, 'nobody');
  await fails('a service that hangs up', callback('hang-up'));
  await fails('a service that hangs up on a form', '/oauth/hang-up/callback', post(FORM));
  await fails('an answer that is not HTTP', callback('garbage'));
  await fails('an answer with broken framing', callback('broken'));
  await fails('an answer with a huge head', callback('huge'));
  await fails('a silent service', callback('silent'));
  assert.equal((await ask(callback('error'))).status, 500);
  await assert.rejects(ask(callback('half')), { code: 'ECONNRESET' });

  // Requests that are refused before anybody looks at their path.
  const head = `GET ${callback('ok')} HTTP/1.1\r\nHost: HOST\r\n`;
  for (const bytes of [
    `${head}Host: other\r\n\r\n`,
    `${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`,
    `${head}Expect: ${BODY}\r\n\r\n`,
    `${head}X: ${'x'.repeat(70_000)}\r\n\r\n`,
    `GET ${callback('ok')} HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n`,
    `GET ${callback('ok')} NONSENSE\r\n\r\n`,
    `GET /oauth/ok/callback${QUERY}&${'x'.repeat(70_000)} HTTP/1.1\r\nHost: HOST\r\n\r\n`,
    `POST /oauth/ok/callback HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\nConnection: close\r\n\r\n${FORM}`,
  ]) {
    const text = await raw(scene, bytes);
    assert.match(text, /^HTTP\/1\.1 4\d\d /);
    for (const secret of SECRETS) assert.ok(!text.includes(secret), text);
  }

  // Plain HTTP is sent on to https, code and all: the browser has it anyway.
  const plain = gateway.gateway.addresses.http[0]?.port ?? 0;
  const [redirected] = (await once(
    httpRequest({
      host: '127.0.0.1',
      port: plain,
      path: callback('ok'),
      headers: { host: `${scene.runner.id}.${DOMAIN}:${plain}`, connection: 'close' },
    }).end(),
    'response',
  )) as [IncomingMessage];
  redirected.resume();
  assert.equal(redirected.statusCode, 308);
  assert.equal(redirected.headers['cache-control'], 'no-store');

  // A runner without a service, one whose service is gone, one that goes in the middle, one that is away.
  const unconfigured = await startTestRunner(gateway, { name: 'unconfigured' });
  await fails('no service', callback('ok'), undefined, unconfigured.id);
  await unconfigured.close();
  scene.service.server.close();
  await fails('a service that is gone', callback('ok'));
  scene.service.server.listen(scene.service.port, '127.0.0.1');
  await once(scene.service.server, 'listening');
  const lost = await ask(callback('lost'), html);
  assertClean(lost, 'a runner that goes in the middle');
  codes.add(lost.headers['gateway-error']);
  await until(() => gateway.gateway.registry.legs().length === 0);
  await fails('a runner that is away', callback('ok'));
  await fails('a runner that is away, with a form', '/oauth/ok/callback', post(FORM));

  assert.deepEqual(
    [...codes].sort(),
    [
      'body_too_large',
      'login_interrupted',
      'login_method_not_allowed',
      'login_not_configured',
      'login_runner_offline',
      'login_service_unreachable',
      'not_found',
      'unsupported_media_type',
      'upstream_invalid',
      'upstream_timeout',
    ],
    'not every failure came about',
  );
  // The log has all these requests, by their path alone.
  assert.ok(gateway.lines.filter((line) => line['path'] === '/oauth/hang-up/callback').length >= 6);
  await assertNowhere(scene, SECRETS);
});

test('a token of logs is in no log, metric, page or file', async (t) => {
  const scene = await startScene(t);
  const { gateway, runner } = scene;
  await runner.announce({ id: 'demo', ports: [] });
  const keys = createSigningKeys({ directory: gateway.gateway.directory, clock: systemClock });
  const issue = async (environmentId: string, scope: 'logs' | 'ops') =>
    (await issueToken(keys, { scope, environmentId }, { clock: systemClock })).token;
  const good = await issue('demo', 'logs');
  const tokens = [good, await issue('demo', 'ops'), await issue('other', 'logs'), `${good.slice(0, -8)}AAAAAAAA`];
  const host = `22999--demo.${DOMAIN}`;
  const statuses = new Set<number>();
  for (const token of tokens) {
    for (const [path, options] of [
      ['/logs', { headers: { authorization: `Bearer ${token}` } }],
      [`/logs?token=${token}`, {}],
      ['/other', { headers: { authorization: `Bearer ${token}`, accept: 'text/html' } }],
      ['/logs', { headers: { cookie: `__Host-gitpod_logs=${token}`, 'sec-fetch-site': 'same-origin' } }],
      ['/logs', { headers: { cookie: `__Host-gitpod_logs=${token}`, ...html.headers, 'sec-fetch-site': 'none' } }],
      [
        '/_gitpod/logs-session',
        {
          method: 'POST',
          headers: {
            'content-type': 'application/json',
            'sec-fetch-site': 'same-origin',
            origin: `https://${host}:${gateway.httpsPort}`,
          },
          payload: JSON.stringify({ token }),
        },
      ],
    ] as const) {
      const answer = await gateway.request(host, path, options);
      statuses.add(answer.status);
      // The cookie is the token; it goes to the browser that has shown it, and nowhere else.
      const { 'set-cookie': _, ...headers } = answer.headers;
      assert.ok(!(JSON.stringify(headers) + answer.body).includes(token), `${path}: the token is in the answer`);
    }
  }
  // Good ones reach the (missing) log server; others are refused.
  for (const status of [401, 403, 502])
    assert.ok(statuses.has(status), `no ${status} among ${[...statuses].join(', ')}`);
  await assertNowhere(
    scene,
    tokens.map((token) => token.split('.')[2] ?? ''),
  );
});
