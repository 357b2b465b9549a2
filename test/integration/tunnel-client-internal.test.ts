/** The tunnel client's internal listener: who may ask, from where, and what it does. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request, type RequestOptions } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import type { InternalAddress } from '../../shared/src/transport/internal-address.ts';
import { connectRunner, type RunnerClient } from '../../tunnel-client/src/client.ts';
import { type InternalListener, listenInternal } from '../../tunnel-client/src/internal-listener.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, type TestRunner, until } from '../support/runner.ts';

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}
const send = async (options: RequestOptions & { payload?: string }): Promise<Answer> => {
  const { payload, ...rest } = options;
  const outgoing = request({ agent: false, setHost: false, ...rest });
  // The listener may answer, and close, before it has read all of it.
  outgoing.on('error', () => undefined);
  outgoing.end(payload);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  let body = '';
  for await (const chunk of response) body += String(chunk);
  return { status: response.statusCode ?? 0, headers: response.headers, body };
};

const TOKEN = 'A'.repeat(43);
let directory: string;
const opened: { close(): Promise<unknown> }[] = [];
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tunnel-client-internal-'));
});
after(() => rm(directory, { recursive: true, force: true }));
afterEach(async () => {
  for (const entry of opened.splice(0).reverse()) await entry.close();
});

/** A client that never gets anywhere: what the listener says does not depend on it. */
const idleClient = (): RunnerClient => {
  const client = connectRunner({
    gateway: 'https://api.nowhere.localhost:1',
    runnerId: 'idle',
    stateDir: join(directory, 'idle'),
  });
  opened.push(client);
  return client;
};
const listen = async (
  client: RunnerClient,
  address: InternalAddress = { kind: 'tcp', host: '127.0.0.1', port: 0 },
): Promise<InternalListener> => {
  const listener = await listenInternal({ client, token: TOKEN, log: silentLogger }, address);
  opened.push(listener);
  return listener;
};
const authorization = `Bearer ${TOKEN}`;

describe('internal listener of the tunnel client: who may ask', () => {
  const start = async () => {
    const client = idleClient();
    const { port = 0 } = await listen(client);
    const host = `127.0.0.1:${port}`;
    const ask = (path: string, headers: Record<string, string>, options: RequestOptions & { payload?: string } = {}) =>
      send({ host: '127.0.0.1', port, path, headers, ...options });
    return { client, host, port, ask };
  };

  it('answers health and metrics to all, and the rest to who has the token', async () => {
    const { host, port, ask } = await start();
    assert.equal((await ask('/livez', { host })).status, 200);
    assert.deepEqual(
      [(await ask('/readyz', { host })).status, (await ask('/readyz', { host })).body],
      [503, 'joining\n'],
    );
    assert.match((await ask('/metrics', { host })).body, /^gitpod_tunnel_client_online 0$/m);
    for (const path of ['/status', '/environments', '/events', '/other']) {
      assert.equal((await ask(path, { host })).status, 401, path);
      for (const wrong of ['Bearer', `Bearer ${TOKEN}A`, `Bearer ${TOKEN.slice(1)}`, `Basic ${TOKEN}`, TOKEN]) {
        assert.equal((await ask(path, { host, authorization: wrong })).status, 401, wrong);
      }
    }
    assert.equal((await ask('/status', { host, authorization })).status, 200);
    assert.equal((await ask('/status', { host: `LOCALHOST:${port}`, authorization })).status, 200);
    assert.equal((await ask('/other', { host, authorization })).status, 404);
    assert.equal((await ask('/status', { host, authorization }, { method: 'POST' })).status, 405);
    assert.equal((await ask('/status', { host, authorization })).headers['cache-control'], 'no-store');
  });

  it('refuses a Host that is not its own, and a foreign Origin, whatever the path', async () => {
    const { host, port, ask } = await start();
    for (const path of ['/livez', '/metrics', '/status']) {
      for (const foreign of [
        'evil.test',
        `evil.test:${port}`,
        '127.0.0.1',
        `127.0.0.1:${port + 1}`,
        `127.0.0.2:${port}`,
        `3000--demo.gateway.localhost:${port}`,
        '',
      ]) {
        assert.equal((await ask(path, { host: foreign, authorization })).status, 403, `${foreign} ${path}`);
      }
      for (const origin of ['https://evil.test', 'null', `https://${host}`, `http://localhost:${port}`]) {
        assert.equal((await ask(path, { host, origin, authorization })).status, 403, `${origin} ${path}`);
      }
      assert.equal(
        (await ask(path, { host, origin: `http://${host}`, authorization })).status,
        path === '/readyz' ? 503 : 200,
      );
    }
  });

  it('refuses a request without a Host', async () => {
    const { port } = await start();
    const socket = connect(port, '127.0.0.1');
    socket.write('GET /status HTTP/1.0\r\n\r\n');
    const text = (await socket.toArray()).join('');
    assert.match(text, /^HTTP\/1\.1 40[03] /);
  });

  it('takes environments as JSON only, all or none, and not without end', async () => {
    const { client, host, ask } = await start();
    const put = (payload: string, type = 'application/json') =>
      ask(
        '/environments',
        { host, authorization, 'content-type': type, 'transfer-encoding': 'chunked' },
        { method: 'PUT', payload },
      );
    const good = await put('{"environments":[{"id":"a","ports":[{"port":3000}]},{"id":"b"}]}');
    assert.equal(good.status, 200);
    const { environments } = JSON.parse(good.body) as { environments: { id: string; state: string }[] };
    assert.deepEqual(
      environments.map(({ id, state }) => [id, state]),
      [
        ['a', 'pending'],
        ['b', 'pending'],
      ],
    );
    const bad = await put('{"environments":[{"id":"c"},{"id":"D","ports":[{"port":80}]}]}');
    assert.equal(bad.status, 400);
    assert.match(bad.body, /environments\[1\]\.id/);
    const program = await put('{"environments":[{"id":"c"},{"id":"d","logs":{"command":["id"]}}]}');
    assert.equal(program.status, 400);
    assert.match(program.body, /environments\[1\]\.logs\.command/);
    assert.match(bad.body, /environments\[1\]\.ports\[0\]\.port/);
    assert.equal((await put('{"environments":{}}')).status, 400);
    assert.equal((await put('{')).status, 400);
    assert.equal((await put('{"environments":[]}', 'text/plain')).status, 415);
    assert.equal((await put(' '.repeat((4 << 20) + 1))).status, 413);
    assert.deepEqual(
      client.environments.list().map(({ id }) => id),
      ['a', 'b'],
    );
    assert.equal(
      (
        await ask(
          '/environments',
          { host, 'content-type': 'application/json' },
          { method: 'PUT', payload: '{"environments":[]}' },
        )
      ).status,
      401,
    );
    assert.equal(client.environments.list().length, 2);
  });

  it('knows every address of the machine when it listens at all of them, and none of others', async () => {
    const { port = 0 } = await listen(idleClient(), { kind: 'tcp', host: '0.0.0.0', port: 0 });
    const ask = (host: string) => send({ host: '127.0.0.1', port, path: '/livez', headers: { host } });
    assert.equal((await ask(`127.0.0.1:${port}`)).status, 200);
    assert.equal((await ask(`evil.test:${port}`)).status, 403);
  });
});

describe('internal listener of the tunnel client: a Unix socket', () => {
  it('needs no token, but the permission of the file', async () => {
    const path = join(directory, 'internal.sock');
    await listen(idleClient(), { kind: 'unix', path });
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.equal((await send({ socketPath: path, path: '/status', headers: { host: 'localhost' } })).status, 200);
    assert.equal(
      (await send({ socketPath: path, path: '/status', headers: { host: 'localhost', origin: 'https://evil.test' } }))
        .status,
      403,
    );
  });

  it('takes over the socket of a process that was killed, and not of one that lives', async () => {
    const path = join(directory, 'taken.sock');
    const living = createServer().listen(path);
    await once(living, 'listening');
    const client = idleClient();
    await assert.rejects(listen(client, { kind: 'unix', path }), { code: 'EADDRINUSE' });
    living.close();
    await once(living, 'close');
    await writeFile(path, 'a file of somebody');
    await assert.rejects(listen(client, { kind: 'unix', path }), { code: 'EADDRINUSE' });
    await rm(path);
    const killed = spawn(process.execPath, [
      '-e',
      'require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, 9))',
      path,
    ]);
    await once(killed, 'exit');
    assert.equal((await stat(path)).isSocket(), true);
    await assert.rejects(listen(client, { kind: 'unix', path: join(directory, 'no', 'such') }), {
      code: /ENOENT|EACCES/,
    });
    await listen(client, { kind: 'unix', path });
    assert.equal((await send({ socketPath: path, path: '/livez', headers: { host: 'localhost' } })).status, 200);
  });
});

describe('internal listener of a connected client', () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let listener: InternalListener;
  before(async () => {
    gateway = await startTestGateway();
    runner = await startTestRunner(gateway);
    listener = await listenInternal(
      { client: runner.client, token: TOKEN, log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
  });
  after(async () => {
    await listener.close();
    await runner.close();
    await gateway.close();
  });

  it('announces what is put, tells the URLs, and follows what happens', async () => {
    const { port = 0 } = listener;
    const headers = { host: `127.0.0.1:${port}`, authorization, 'content-type': 'application/json' };
    const events = request({ host: '127.0.0.1', port, path: '/events', headers, agent: false }).end();
    const [stream] = (await once(events, 'response')) as [IncomingMessage];
    assert.equal(stream.headers['content-type'], 'text/event-stream');
    let text = '';
    stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    await until(() => /^event: status\ndata: \{"state":"online"/.test(text));

    const put = await send({
      host: '127.0.0.1',
      port,
      path: '/environments',
      method: 'PUT',
      headers,
      payload: '{"environments":[{"id":"put","ports":[{"port":3000,"admission":"everyone"}]}]}',
    });
    assert.equal(put.status, 200);
    const url = `https://3000--put.gateway.localhost:${gateway.httpsPort}/`;
    await until(() => text.includes(`event: environment\ndata: {"id":"put"`) && text.includes(url));
    const got = await send({ host: '127.0.0.1', port, path: '/environments', headers });
    const { environments } = JSON.parse(got.body) as {
      environments: { id: string; state: string; ports: { url: string }[] }[];
    };
    assert.deepEqual(
      environments.map(({ id, state, ports }) => [id, state, ports[0]?.url]),
      [['put', 'accepted', url]],
    );

    assert.equal((await send({ host: '127.0.0.1', port, path: '/readyz', headers })).status, 200);
    const metrics = (await send({ host: '127.0.0.1', port, path: '/metrics', headers })).body;
    for (const line of [
      'gitpod_tunnel_client_online 1',
      'gitpod_tunnel_client_legs{transport="quic"} 1',
      'gitpod_tunnel_client_environments{state="accepted"} 1',
    ]) {
      assert.ok(metrics.includes(`${line}\n`), `${line} is not in\n${metrics}`);
    }
    events.destroy();
  });
});
