/** Sharing an application, as the README says it: the commands alone, and what the running client can be asked. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { createServer, get as httpGet, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import { fetchOnce, portHost } from '../support/gateway.ts';
import { runProcess, startProcess, type StartedProcess } from '../support/processes.ts';
import { startGatewayProgram, temporaryDirectory, type GatewayProgram } from '../support/programs.ts';
import { until } from '../support/runner.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const GATEWAY = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT = join(ROOT, 'tunnel-client/src/main.ts');

const startApplication = async (t: TestContext, text: string): Promise<number> => {
  const server = createServer((_request, response) => response.end(text)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
};

const createRunner = async (
  gateway: GatewayProgram,
  directory: string,
  ...more: string[]
): Promise<[id: string, tokenFile: string]> => {
  const tokenFile = join(directory, 'exchange-token');
  const created = await gateway.command('runner', 'create', '--name', 'laptop', '--token-file', tokenFile, ...more);
  return [(created as { id: string }).id, tokenFile];
};

interface Client extends StartedProcess {
  readonly runnerId: string;
  readonly stateDir: string;
  /** To the internal listener, with its token unless `headers` say otherwise. */
  internal(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<{ status: number; body: string }>;
  internalPort(): Promise<number>;
}

const run = async (
  t: TestContext,
  gateway: GatewayProgram,
  args: readonly string[],
  org: readonly string[] = [],
): Promise<Client> => {
  const directory = await temporaryDirectory(t);
  const [runnerId, tokenFile] = await createRunner(gateway, directory, ...org);
  const stateDir = join(directory, 'state');
  const started = startProcess(t, process.execPath, [
    ...[TUNNEL_CLIENT, 'run', '--gateway', `https://api.gateway.localhost:${gateway.httpsPort}`],
    ...['--runner', runnerId, '--exchange-token-file', tokenFile, '--ca', gateway.certificate],
    ...['--state-dir', stateDir, '--internal', '127.0.0.1:0', '--log-format', 'human', ...args],
  ]);
  const internalPort = async (): Promise<number> =>
    Number((await started.waitForOutput(/internal 127\.0\.0\.1:(\d+)/))[1]);
  return {
    ...started,
    runnerId,
    stateDir,
    internalPort,
    async internal(method, path, body, headers) {
      const token = (await readFile(join(stateDir, 'internal.token'), 'utf8')).trim();
      const content = body === undefined ? undefined : JSON.stringify(body);
      const outgoing = httpRequest({
        host: '127.0.0.1',
        port: await internalPort(),
        method,
        path,
        agent: false,
        headers: { 'content-type': 'application/json', ...(headers ?? { authorization: `Bearer ${token}` }) },
      });
      outgoing.end(content);
      const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
      const chunks: Buffer[] = [];
      for await (const chunk of response) chunks.push(chunk as Buffer);
      return { status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() };
    },
  };
};

test(
  'with flags alone an application is shared, and only when it was said that everyone may open it',
  { timeout: 60_000 },
  async (t) => {
    const gateway = await startGatewayProgram(t);
    const port = await startApplication(t, 'my own app');
    const client = await run(t, gateway, [
      '--expose',
      String(port),
      '--admission',
      'everyone',
      '--environment',
      'mine',
    ]);
    const [, url] = await client.waitForOutput(/\+ (https:\/\/\S+) {2}→ {2}http:\/\/127\.0\.0\.1/);
    assert.equal(url, `https://${portHost('mine', port)}:${gateway.httpsPort}/`);
    const answer = await fetchOnce(gateway.httpsPort, new URL(url).hostname);
    assert.deepEqual([answer.status, answer.body], [200, 'my own app']);
    const environments = (await gateway.command('environment', 'list')) as { id: string }[];
    assert.deepEqual(
      environments.map(({ id }) => id),
      ['mine'],
    );

    const careful = await run(t, gateway, ['--expose', String(port), '--environment', 'careful']);
    await careful.waitForOutput(/Nobody can open careful:\d+ \(creator_only\).*--admission everyone/);
    await careful.waitForOutput(/https:\/\/\d+--careful\./);
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('careful', port))).status, 401);
  },
);

test('the internal listener is for who has its token, and for no environment', { timeout: 60_000 }, async (t) => {
  const gateway = await startGatewayProgram(t);
  const port = await startApplication(t, 'app');
  const client = await run(t, gateway, ['--expose', String(port), '--admission', 'everyone', '--environment', 'mine']);
  await client.waitForOutput(/https:\/\/\d+--mine\./);
  const internalPort = await client.internalPort();

  // URLs, status and events, with the token.
  const { body } = await client.internal('GET', '/environments');
  const { environments } = JSON.parse(body) as { environments: { state: string; ports: { url: string }[] }[] };
  assert.deepEqual(
    [environments[0]?.state, environments[0]?.ports[0]?.url],
    ['accepted', `https://${portHost('mine', port)}:${gateway.httpsPort}/`],
  );
  const token = (await readFile(join(client.stateDir, 'internal.token'), 'utf8')).trim();
  const host = `127.0.0.1:${internalPort}`;
  const refusals: [headers: Record<string, string>, status: number][] = [
    [{}, 401],
    [{ authorization: 'Bearer wrong' }, 401],
    [{ authorization: `Basic ${token}` }, 401],
    [{ authorization: `Bearer ${token}`, host: `evil.example:${internalPort}` }, 403],
    [{ authorization: `Bearer ${token}`, host: '127.0.0.1' }, 403],
    [{ authorization: `Bearer ${token}`, origin: 'https://evil.example' }, 403],
    [{ authorization: `Bearer ${token}`, origin: 'null' }, 403],
  ];
  for (const [headers, status] of refusals) {
    for (const [method, path] of [
      ['GET', '/status'],
      ['GET', '/events'],
      ['PUT', '/environments'],
    ] as const) {
      const answer = await client.internal(method, path, method === 'PUT' ? { environments: [] } : undefined, {
        host,
        ...headers,
      });
      assert.equal(answer.status, status, `${method} ${path} ${JSON.stringify(headers)}`);
    }
  }
  assert.equal((await fetchOnce(gateway.httpsPort, portHost('mine', port))).body, 'app');

  // No environment leads to it, however the machine is named.
  const own = Object.values(networkInterfaces()).flatMap((entries) => (entries ?? []).map(({ address }) => address));
  const hosts = [
    '127.0.0.1',
    '127.0.0.2',
    '127.1',
    '0x7f000001',
    '2130706433',
    '::1',
    '::ffff:127.0.0.1',
    'localhost',
    'LOCALHOST.',
    'a.localhost',
    ...own,
  ];
  let announced = 0;
  for (const [index, name] of hosts.entries()) {
    const id = `own-${index}`;
    const put = await client.internal('PUT', '/environments', {
      environments: [{ id, host: name, ports: [{ port: internalPort, admission: 'everyone' }] }],
    });
    if (put.status !== 200) continue;
    announced += 1;
    await until(async () => (await fetchOnce(gateway.httpsPort, portHost(id, internalPort), '/livez')).status !== 404);
    for (const label of [`${internalPort}`, `${internalPort}s`]) {
      const answer = await fetchOnce(gateway.httpsPort, `${label}--${id}.gateway.localhost`, '/metrics');
      assert.deepEqual([name, answer.status], [name, 502]);
      assert.ok(['upstream_forbidden', 'upstream_refused'].includes(String(answer.headers['gateway-error'])), name);
    }
  }
  assert.ok(announced >= 4);
});

test('events tell of legs and of environments that are taken away', { timeout: 60_000 }, async (t) => {
  const gateway = await startGatewayProgram(t);
  const port = await startApplication(t, 'app');
  const client = await run(
    t,
    gateway,
    ['--expose', String(port), '--admission', 'everyone', '--environment', 'moved'],
    ['--org', 'acme'],
  );
  await client.waitForOutput(/https:\/\/\d+--moved\./);
  const directory = await temporaryDirectory(t);
  const other = (
    (await gateway.command(
      'runner',
      'create',
      '--name',
      'other',
      '--org',
      'acme',
      '--token-file',
      join(directory, 'token'),
    )) as { id: string }
  ).id;
  const token = (await readFile(join(client.stateDir, 'internal.token'), 'utf8')).trim();
  const outgoing = httpGet({
    host: '127.0.0.1',
    port: await client.internalPort(),
    path: '/events',
    agent: false,
    headers: { authorization: `Bearer ${token}` },
  });
  const [events] = (await once(outgoing, 'response')) as [IncomingMessage];
  t.after(() => outgoing.destroy());
  let text = '';
  events.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  events.on('error', () => undefined);
  await until(() => /^event: status$/m.test(text));

  const moved = await gateway.command('environment', 'move', 'moved', '--to', other);
  assert.ok(moved);
  await until(() => /"id":"moved"[^\n]*"accepted":false[^\n]*"code":"claimed"/.test(text));
  await client.waitForOutput(/environment moved was refused/);
  // Of the other runner, which is not there: nobody's content.
  assert.equal((await fetchOnce(gateway.httpsPort, portHost('moved', port))).status, 503);

  await gateway.command('environment', 'release', 'moved');
  await until(async () => (await fetchOnce(gateway.httpsPort, portHost('moved', port))).status === 404);
  await gateway.command('runner', 'revoke', client.runnerId);
  await until(() => /^event: leg\ndata: [^\n]*"type":"down"[^\n]*"code":"revoked"/m.test(text));
});

test(
  'a changed file of environments takes effect without a reconnect, a broken one changes nothing',
  { timeout: 60_000 },
  async (t) => {
    const gateway = await startGatewayProgram(t);
    const [first, second] = [await startApplication(t, 'first'), await startApplication(t, 'second')];
    const file = join(await temporaryDirectory(t), 'client.yaml');
    const yaml = (port: number): string =>
      `environments:\n  - id: filed\n    ports:\n      - { port: ${port}, admission: everyone }\n`;
    await writeFile(file, yaml(first));
    const client = await run(t, gateway, ['--config', file]);
    await client.waitForOutput(new RegExp(`https://${first}--filed\\.`));
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('filed', first))).body, 'first');
    const legs = async (): Promise<string[]> =>
      (JSON.parse((await client.internal('GET', '/status')).body) as { legs: { id: string }[] }).legs.map(
        ({ id }) => id,
      );
    const before = await legs();
    assert.equal(before.length, 1);

    // As editors and orchestrators do it: another file takes its place.
    await writeFile(`${file}.new`, yaml(second));
    await rename(`${file}.new`, file);
    await client.waitForOutput(new RegExp(`https://${second}--filed\\.`));
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('filed', second))).body, 'second');
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('filed', first))).status, 404);

    await writeFile(file, 'environments: [');
    await client.waitForOutput(/is not usable; the environments stay as they are/);
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('filed', second))).body, 'second');
    assert.deepEqual(await legs(), before);
  },
);

describe('bad input', { timeout: 60_000 }, () => {
  const tunnelClient = async (t: TestContext, yaml: string, ...args: string[]) => {
    const directory = await temporaryDirectory(t);
    const file = join(directory, 'client.yaml');
    await writeFile(file, yaml);
    return runProcess(process.execPath, [TUNNEL_CLIENT, 'run', '--config', file, '--state-dir', directory, ...args]);
  };
  const good = 'gateway: https://api.gateway.example\nrunnerId: laptop\n';
  const cases: [what: string, yaml: string, says: RegExp][] = [
    ['broken YAML', 'gateway: [', /client\.yaml:1: .*must be sufficiently indented and end with a \]/],
    ['an unknown key', `${good}gatway: x\n`, /gatway.*gateway/],
    [
      'an unknown key of an environment',
      `${good}environments:\n  - id: a\n    prots: []\n`,
      /client\.yaml:5: environments\[0\]\.prots: unknown; did you mean ports\?/,
    ],
    [
      'a port twice',
      `${good}environments:\n  - id: a\n    ports: [{ port: 3000 }, { port: 3000 }]\n`,
      /environments\[0\]\.ports\[1\]\.port: port 3000 stands twice/,
    ],
    ['an environment twice', `${good}environments: [{ id: a }, { id: a }]\n`, /environment a stands twice/],
    [
      'a gateway URL over http',
      'gateway: http://gateway.example\nrunnerId: laptop\n',
      /did you mean https:\/\/api\.gateway\.example/,
    ],
    [
      'a gateway URL that is none',
      'gateway: gateway\nrunnerId: laptop\n',
      /is not the URL of a gateway.*https:\/\/api\./,
    ],
    [
      'a certificate that is not there',
      `${good}ca: missing.pem\n`,
      /ca: the file \S*missing\.pem cannot be read: .*no such file/,
    ],
  ];
  for (const [what, yaml, says] of cases) {
    it(`${what} ends the tunnel client with 2 and a sentence`, async (t) => {
      const { code, stdout, stderr } = await tunnelClient(t, yaml);
      assert.deepEqual([code, stdout], [2, '']);
      assert.match(stderr, says);
      assert.doesNotMatch(stderr, /\n\s+at /);
    });
  }

  it('a gateway that cannot be reached is tried on, and what was tried is said', async (t) => {
    const directory = await temporaryDirectory(t);
    const closed = createServer().listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const { port } = closed.address() as AddressInfo;
    closed.close();
    await once(closed, 'close');
    const client = startProcess(t, process.execPath, [
      ...[TUNNEL_CLIENT, 'run', '--gateway', `https://api.gateway.localhost:${port}`, '--runner', 'laptop'],
      ...['--state-dir', directory, '--internal', '127.0.0.1:0', '--log-format', 'json'],
    ]);
    const problem = new RegExp(
      `https://api\\.gateway\\.localhost:${port}/v1/runners/renew \\(tried [^)]*127\\.0\\.0\\.1:${port}`,
    );
    await client.waitForOutput(problem);
    await until(() => client.output().split('the tunnel client has a problem').length > 3);
    assert.equal(client.child.exitCode, null);
    assert.deepEqual(await client.stop(), { code: 0, signal: null });
  });

  it('a certificate that cannot be read, or belongs to another key, keeps the gateway from starting', async (t) => {
    const directory = await temporaryDirectory(t);
    const config = join(directory, 'gateway.yaml');
    const listeners = { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: '127.0.0.1:0' };
    await writeFile(join(directory, 'broken.pem'), '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
    for (const certificate of ['missing.pem', 'broken.pem']) {
      await writeFile(
        config,
        JSON.stringify({ listeners, stateDir: join(directory, 'state'), tls: { certificate, key: 'missing.key' } }),
      );
      const { code, stderr } = await runProcess(process.execPath, [GATEWAY, 'serve', '--config', config]);
      assert.notEqual(code, 0);
      assert.ok(
        stderr.includes(join(directory, certificate)) || stderr.includes(join(directory, 'missing.key')),
        stderr,
      );
      assert.doesNotMatch(stderr, /\n\s+at /);
    }
  });
});
