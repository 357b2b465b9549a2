/** How the tunnel client gets to its gateway, and what it says when it does not. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpsServer, Server as HttpsServer } from 'node:https';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import {
  connectRunner,
  type RunnerClient,
  type RunnerOptions,
  type RunnerProblem,
} from '../../tunnel-client/src/client.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, until } from '../support/runner.ts';

let directory: string;
const clients: RunnerClient[] = [];
const servers: Server[] = [];
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tunnel-client-enrolment-'));
});
after(() => rm(directory, { recursive: true, force: true }));
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
  for (const server of servers.splice(0)) {
    if (server instanceof HttpsServer) server.closeAllConnections();
    server.close();
    await once(server, 'close');
  }
});

const connect = (options: Partial<RunnerOptions> & { gateway: string }): RunnerClient => {
  const client = connectRunner({
    runnerId: 'runner-1',
    exchangeToken: 'gpx_canary',
    stateDir: join(directory, `state-${clients.length}`),
    ...options,
  });
  clients.push(client);
  return client;
};
const nextProblem = (client: RunnerClient): Promise<RunnerProblem> =>
  new Promise((resolve) => client.on('error', (_error, problem) => resolve(problem)));

const listen = async (server: Server): Promise<number> => {
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};

describe('a gateway that cannot be used', () => {
  it('is told with what was tried when nothing listens, and tried again', async () => {
    const port = await listen(createServer());
    const server = servers.pop();
    server?.close();
    const client = connect({ gateway: `https://api.gateway.localhost:${port}` });
    const problem = await nextProblem(client);
    for (const part of [
      `https://api.gateway.localhost:${port}/v1/runners/join`,
      `127.0.0.1:${port}`,
      `[::1]:${port}`,
      'ECONNREFUSED',
    ]) {
      assert.ok(problem.message.includes(part), `${part} is not in ${problem.message}`);
    }
    assert.ok(problem.retryInMs !== undefined && problem.retryInMs <= 500);
    await until(() => client.status().problems.length > 2);
    assert.equal(client.status().state, 'joining');
  });

  it('is told when the name does not exist', async () => {
    const problem = await nextProblem(connect({ gateway: 'https://api.no-such-name.invalid' }));
    assert.match(problem.message, /api\.no-such-name\.invalid/);
  });

  it('is told by its certificate, its protocol, and its answers', async () => {
    const made = await makeTestCertificate('api.gateway.localhost');
    const other = await makeTestCertificate('api.elsewhere.localhost');
    let answer: [number, string] = [404, '<html>'];
    const serve = (identity: { key: string; certificate: string }) =>
      listen(
        createHttpsServer({ key: identity.key, cert: identity.certificate }, (request, response) => {
          request.resume();
          response.writeHead(answer[0], { connection: 'close' }).end(answer[1]);
        }),
      );
    const port = await serve(made);
    const url = `https://api.gateway.localhost:${port}`;
    const says = async (options: Partial<RunnerOptions> & { gateway: string }, message: RegExp): Promise<void> => {
      const client = connect({ ...options, stateDir: join(directory, 'answers') });
      const problem = await nextProblem(client);
      assert.match(problem.message, message);
      assert.ok(!problem.message.includes('canary'), 'the token stands in no message');
      await client.close();
    };
    await says({ gateway: url }, /self-signed \(by [^)]+\); give it, or its root, with `ca`/);
    await says({ gateway: url, ca: other.certificate }, /with `ca`/);
    await says(
      { gateway: `https://api.gateway.localhost:${await serve(other)}`, ca: other.certificate },
      /for another name \(DNS:api.elsewhere.localhost\); check the URL/,
    );
    await says(
      {
        gateway: `https://api.gateway.localhost:${await listen(
          createServer((socket) =>
            socket
              .on('error', () => undefined)
              .resume()
              .end('HTTP/1.1 400 Bad Request\r\n\r\n'),
          ),
        )}`,
      },
      /does not speak TLS/,
    );
    await says(
      { gateway: url, ca: made.certificate },
      /answered 404 with something that is not the gateway's API; check the URL/,
    );
    answer = [200, '{"hello":"world"}'];
    await says({ gateway: url, ca: made.certificate }, /not what the gateway's API gives/);
    answer = [200, 'x'.repeat((1 << 20) + 1)];
    await says({ gateway: url, ca: made.certificate }, /too large/);
    answer = [403, '{"error":{"code":"revoked","message":"ask for a new token"}}'];
    await says({ gateway: url, ca: made.certificate }, /revoked: ask for a new token/);
    answer = [503, '{"error":{"code":"something_new","message":"later"}}'];
    await says({ gateway: url, ca: made.certificate }, /503 something_new: later/);
  });

  it('is told at once where the options cannot be right', () => {
    const stateDir = join(directory, 'never');
    assert.throws(
      () => connectRunner({ gateway: 'https://gateway.localhost', runnerId: 'a', stateDir }),
      /did you mean/,
    );
    assert.throws(
      () => connectRunner({ gateway: 'https://api.gateway.localhost', runnerId: 'A!', stateDir }),
      /id of a runner/,
    );
    assert.throws(
      () =>
        connectRunner({
          gateway: 'https://api.gateway.localhost',
          runnerId: 'a',
          stateDir,
          environments: [{ id: 'a' }, { id: 'a' }],
        }),
      /stands twice/,
    );
  });
});

describe('the state of a runner', () => {
  let gateway: TestGateway;
  before(async () => {
    gateway = await startTestGateway();
  });
  after(() => gateway.close());

  it('is for its owner alone, and enough to come back without the token', async () => {
    const runner = await startTestRunner(gateway);
    const expiresAt = runner.client.status().membershipExpiresAt;
    for (const name of ['membership.json', 'runner-key.json']) {
      assert.equal((await stat(join(runner.stateDir, name))).mode & 0o777, 0o600, name);
    }
    assert.doesNotMatch(await readFile(join(runner.stateDir, 'membership.json'), 'utf8'), /gpx_/);
    await runner.client.close();
    const joins = (): number => gateway.lines.filter(({ msg }) => /runner (joined|renewed)/.test(msg)).length;
    const before = joins();
    const again = connect({
      gateway: gateway.url,
      ca: gateway.ca,
      runnerId: runner.id,
      stateDir: runner.stateDir,
      exchangeToken: '',
    });
    await again.ready();
    assert.equal(again.status().membershipExpiresAt, expiresAt);
    assert.equal(joins(), before, 'the stored membership is used');
    await again.close();

    // Without the stored membership the key alone is enough; a broken file counts as none.
    await writeFile(join(runner.stateDir, 'membership.json'), '{"version":1');
    const third = connectRunner({
      gateway: gateway.url,
      ca: gateway.ca,
      runnerId: runner.id,
      stateDir: runner.stateDir,
    });
    clients.push(third);
    await third.ready();
    assert.equal(joins(), before + 1);
    await third.close();
    await runner.close();
  });

  it('with a broken key ends the client with a sentence, and leaves the key alone', async () => {
    const stateDir = join(directory, 'broken-key');
    const runner = await startTestRunner(gateway, { stateDir });
    await runner.close();
    const path = join(stateDir, 'runner-key.json');
    await writeFile(path, 'not a key');
    const client = connect({ gateway: gateway.url, ca: gateway.ca, runnerId: runner.id, stateDir });
    const problem = await nextProblem(client);
    assert.match(problem.message, /runner-key\.json is broken/);
    await assert.rejects(client.ready(), /closed/);
    assert.equal(await readFile(path, 'utf8'), 'not a key');
  });
});

describe('announcements', () => {
  it('of many large environments are cut into parts, changed, and withdrawn', async () => {
    const gateway = await startTestGateway();
    const name = 'n'.repeat(256);
    const environments = Array.from({ length: 60 }, (_, index) => ({
      id: `big-${index}`,
      ports: Array.from({ length: 100 }, (_port, offset) => ({
        port: 3_000 + offset,
        admission: 'everyone' as const,
        name,
      })),
    }));
    // 60 × 100 × about 330 bytes: eight parts of 256 KiB.
    const runner = await startTestRunner(gateway, { environments });
    const { client } = runner;
    const accepted = (): number => client.status().environments.filter(({ state }) => state === 'accepted').length;
    await until(() => accepted() === 60);
    const [leg] = client.status().legs;
    client.environments.replaceAll(environments.slice(0, 10));
    await until(async () => (await gateway.gateway.registry.route('big-59')).kind !== 'online');
    assert.equal((await gateway.gateway.registry.route('big-0')).kind, 'online');
    client.environments.delete('big-0');
    await until(async () => (await gateway.gateway.registry.route('big-0')).kind !== 'online');
    assert.equal(client.status().legs[0]?.id, leg?.id);
    assert.throws(() => client.environments.set({ id: 'Bad' }), /lower-case/);
    assert.throws(() => client.environments.set({ id: 'bad', host: '169.254.169.254' }), /never connected to/);
    assert.equal(client.environments.list().length, 9);
    await runner.close();
    await gateway.close();
  });
});

describe('closing', () => {
  it('works at any time and twice, and ends what waits', async () => {
    const client = connect({ gateway: 'https://api.gateway.localhost:1' });
    const waiting = assert.rejects(client.ready(), /closed/);
    await assert.rejects(client.ready({ signal: AbortSignal.abort(new Error('enough')) }), /enough/);
    const states: string[] = [];
    client.on('state', (state) => states.push(state));
    await Promise.all([client.close({ drain: true }), client.close()]);
    await waiting;
    assert.deepEqual(states, ['closed']);
    assert.equal(client.status().state, 'closed');
  });
});
