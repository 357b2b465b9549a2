/** The internal listener: who may ask, from where, and that no environment gets anything out of it. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest, type RequestOptions } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import { listenInternal } from '../../gateway/src/observability/internal-listener.ts';
import {
  internalTokenPath,
  isAuthorized,
  loadOrCreateInternalToken,
  readInternalToken,
} from '../../shared/src/identity/internal-token.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner } from '../support/runner.ts';

interface Reply {
  readonly status: number;
  readonly body: string;
}
const ask = async (options: RequestOptions): Promise<Reply> => {
  const request = httpRequest({ agent: false, setHost: false, ...options }).end();
  const [response] = (await once(request, 'response')) as [import('node:http').IncomingMessage];
  let body = '';
  for await (const chunk of response) body += String(chunk);
  return { status: response.statusCode ?? 0, body };
};

describe('the internal listener', () => {
  let gateway: TestGateway;
  let port: number;
  let authorization: string;
  before(async () => {
    gateway = await startTestGateway();
    const { internal } = gateway.gateway.addresses;
    assert.ok(internal.kind === 'tcp');
    port = internal.port;
    authorization = `Bearer ${gateway.internalToken}`;
  });
  after(() => gateway.close());
  const get = (path: string, headers: Record<string, string>): Promise<Reply> =>
    ask({ host: '127.0.0.1', port, path, headers });

  it('answers health and metrics to anybody, and status to who has the token', async () => {
    const host = `127.0.0.1:${port}`;
    for (const path of ['/livez', '/readyz', '/metrics']) assert.equal((await get(path, { host })).status, 200, path);
    for (const path of [
      '/status',
      '/?x',
      '/anything',
      '/livez?x',
      '/livez/',
      '/dashboard/overview',
      '/dashboard/runner',
    ]) {
      assert.equal((await get(path, { host })).status, 401, path);
    }
    const status = await get('/status', { host, authorization });
    assert.equal(status.status, 200);
    const parsed = JSON.parse(status.body) as { gateway: { id: string }; legs: unknown[] };
    assert.deepEqual([parsed.gateway.id, parsed.legs], [gateway.gateway.id, []]);
    assert.equal((await get('/anything', { host, authorization })).status, 404);
  });

  it('refuses every wrong token', async () => {
    const host = `127.0.0.1:${port}`;
    const token = gateway.internalToken;
    for (const wrong of [
      '',
      'Bearer',
      'Bearer ',
      `Basic ${token}`,
      `Bearer ${token}x`,
      `Bearer ${token.slice(1)}`,
      token,
    ]) {
      assert.equal((await get('/status', { host, authorization: wrong })).status, 401, wrong);
    }
  });

  it('refuses a Host that is not its own, also for what is open', async () => {
    for (const host of [
      '',
      'evil.test',
      `evil.test:${port}`,
      '127.0.0.1',
      `127.0.0.1:${port + 1}`,
      `127.0.0.2:${port}`,
    ]) {
      for (const path of ['/livez', '/status']) {
        assert.equal((await get(path, { host, authorization })).status, 403, `${host} ${path}`);
      }
    }
    assert.equal((await get('/status', { host: `localhost:${port}`, authorization })).status, 200);
    assert.equal((await get('/status', { host: `LOCALHOST:${port}`, authorization })).status, 200);
  });

  it('refuses a foreign Origin', async () => {
    const host = `127.0.0.1:${port}`;
    for (const origin of ['https://evil.test', 'null', `https://127.0.0.1:${port}`, `http://evil.test:${port}`]) {
      assert.equal((await get('/status', { host, authorization, origin })).status, 403, origin);
    }
    assert.equal((await get('/status', { host, authorization, origin: `http://127.0.0.1:${port}` })).status, 200);
  });

  it('keeps its token where only its user can read it', async () => {
    const { mode } = await stat(join(gateway.stateDir, 'internal.token'));
    assert.equal(mode & 0o777, 0o600);
    assert.equal(Buffer.from(gateway.internalToken, 'base64url').length, 32);
  });

  it('is not reached by an environment that asks with what it knows, nor through the public listener', async () => {
    const runner = await startTestRunner(gateway);
    try {
      // An application that happens to listen where the runner announces it sees the path; the gateway does not.
      const application = createServer((request, response) => response.end(`application ${request.url}`));
      application.listen(0, '127.0.0.1');
      await once(application, 'listening');
      const { port: applicationPort } = application.address() as { port: number };
      await runner.announce({ id: 'demo', ports: [{ port: applicationPort, admission: 'everyone' }] });
      for (const path of ['/status', '/metrics', '/livez']) {
        const answer = await gateway.request(portHost('demo', applicationPort), path);
        assert.equal(answer.body, `application ${path}`);
      }
      for (const path of ['/status', '/metrics']) {
        assert.equal((await gateway.request('gateway.localhost', path)).status, 404, path);
        assert.equal((await gateway.request('api.gateway.localhost', path)).status, 404, path);
      }
      // An environment on the host's network reaches the port, and gets nothing without the token.
      const { status } = await get('/status', { host: `127.0.0.1:${port}`, authorization: 'Bearer guess' });
      assert.equal(status, 401);
      application.close();
      application.closeAllConnections();
      await once(application, 'close');
    } finally {
      await runner.close();
    }
  });
});

describe('a Unix socket', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'internal-test-'));
  });
  after(() => rm(directory, { recursive: true, force: true }));
  const deps = {
    token: 'secret',
    notReady: () => 'draining',
    metrics: { text: () => Promise.resolve(''), contentType: 'text/plain' },
    status: () => ({ fine: true }),
  };

  it('needs no token, is closed to others, and refuses web pages', async () => {
    const path = join(directory, 'a.sock');
    const listener = await listenInternal(deps, { kind: 'unix', path });
    try {
      assert.equal((await stat(path)).mode & 0o777, 0o600);
      assert.deepEqual(await ask({ socketPath: path, path: '/status', headers: { host: 'x' } }), {
        status: 200,
        body: '{"fine":true}',
      });
      assert.equal((await ask({ socketPath: path, path: '/readyz', headers: { host: 'x' } })).status, 503);
      const origin = { host: 'x', origin: 'http://x' };
      assert.equal((await ask({ socketPath: path, path: '/status', headers: origin })).status, 403);
      await assert.rejects(listenInternal(deps, { kind: 'unix', path }), { code: 'EADDRINUSE' });
    } finally {
      await listener.close();
    }
  });

  it('replaces what a killed process left, and nothing else', async () => {
    const path = join(directory, 'b.sock');
    const { spawn } = await import('node:child_process');
    const child = spawn(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    await once(child, 'exit');
    assert.ok((await stat(path)).isSocket());
    await (await listenInternal(deps, { kind: 'unix', path })).close();
    const file = join(directory, 'file');
    await writeFile(file, 'precious');
    await assert.rejects(listenInternal(deps, { kind: 'unix', path: file }), /not a socket/);
  });
});

describe('the internal token', () => {
  it('is made once, also by several at a time, and refused when it is broken', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'token-test-'));
    try {
      const stateDir = join(directory, 'state');
      const tokens = await Promise.all(Array.from({ length: 8 }, () => loadOrCreateInternalToken(stateDir)));
      assert.equal(new Set(tokens).size, 1);
      assert.equal(Buffer.from(tokens[0]!, 'base64url').length, 32);
      assert.equal((await stat(internalTokenPath(stateDir))).mode & 0o777, 0o600);
      assert.equal(await readInternalToken(stateDir), tokens[0]);
      assert.equal(isAuthorized(`Bearer ${tokens[0]}x`, tokens[0]!), false);
      assert.equal(isAuthorized(`Bearer ${tokens[0]}`, tokens[0]!), true);
      assert.equal(isAuthorized(undefined, tokens[0]!), false);
      await writeFile(internalTokenPath(stateDir), 'short\n');
      await assert.rejects(loadOrCreateInternalToken(stateDir), /is broken/);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});
