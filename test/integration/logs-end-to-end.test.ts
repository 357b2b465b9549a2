/** Logs over the whole way: a real gateway, a real runner, QUIC between them, and the built-in log server. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createSigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { issueToken, type TokenScope } from '../../gateway/src/access/tokens.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { DOMAIN, portHost, startTestGateway, type Answer, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, type TestRunner } from '../support/runner.ts';

/** What an official log client does with a 502: three more tries, a second apart. */
const RETRIES = 3;
const RETRY_PAUSE_MS = 1_000;

const HOST = portHost('demo', 22_999);

const tokenFor = async (gateway: TestGateway, scope: TokenScope = 'logs', environmentId = 'demo') => {
  const keys = createSigningKeys({ directory: gateway.gateway.directory, clock: systemClock });
  const { token } = await issueToken(keys, { scope, environmentId }, { clock: systemClock });
  return { authorization: `Bearer ${token}` };
};

const setUp = async (t: TestContext, log: string) => {
  const place = await mkdtemp(join(tmpdir(), 'logs-end-'));
  t.after(() => rm(place, { recursive: true, force: true }));
  const file = join(place, 'demo.log');
  await writeFile(file, log);
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const start = async (like?: TestRunner): Promise<TestRunner> => {
    // The state outlives each process of the runner.
    const runner = await startTestRunner(gateway, { stateDir: join(place, 'state'), ...(like ? { like } : {}) });
    t.after(() => runner.close({ drain: 0 }));
    const verdict = await runner.announce({ id: 'demo', logs: { file } });
    assert.ok(verdict.accepted, JSON.stringify(verdict));
    return runner;
  };
  return { gateway, file, start };
};

/** A follower of plain text; `closed` says whether the response ended, or was cut. */
const follow = async (gateway: TestGateway, path: string, headers: Record<string, string>) => {
  const request = httpsRequest({
    host: '127.0.0.1',
    port: gateway.httpsPort,
    servername: HOST,
    path,
    agent: false,
    rejectUnauthorized: false,
    headers: { host: `${HOST}:${gateway.httpsPort}`, ...headers },
  });
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  let text = '';
  let look = (): void => undefined;
  response.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    look();
  });
  response.on('error', () => undefined);
  const closed = once(response, 'close').then(() => (response.complete ? 'ended' : 'cut'));
  return {
    offset: Number(response.headers['log-offset']),
    text: () => text,
    closed,
    until: (part: string) =>
      new Promise<void>((resolve) => {
        look = () => {
          if (text.includes(part)) resolve();
        };
        look();
      }),
    destroy: () => request.destroy(),
  };
};

test('a follower loses nothing and gets nothing twice when its runner is replaced by a newer process', async (t) => {
  const { gateway, file, start } = await setUp(t, 'one\ntwo\n');
  const headers = await tokenFor(gateway);
  let runner = await start();
  let read = '';
  let offset: number | undefined;
  for (let round = 0; round < 3; round++) {
    const log = await follow(gateway, offset === undefined ? '/logs' : `/logs?since=${offset}`, headers);
    offset ??= log.offset;
    await appendFile(file, `round ${round} äöü\nbehind ${round}\n`);
    await log.until(`behind ${round}\n`);
    const next = await start(runner);
    await runner.close({ drain: 2_000 });
    runner = next;
    assert.equal(await log.closed, 'ended');
    assert.ok(log.text().endsWith('\n'));
    read += log.text();
    offset += Buffer.byteLength(log.text());
  }
  await appendFile(file, 'last\n');
  const rest = await gateway.request(HOST, `/logs?follow=false&since=${offset}`, { headers });
  const rounds = [0, 1, 2].map((round) => `round ${round} äöü\nbehind ${round}\n`);
  assert.equal(read + rest.body, `one\ntwo\n${rounds.join('')}last\n`);
});

test('a client that tries a 502 again gets its log after a restart of the runner', async (t) => {
  const { gateway, start } = await setUp(t, 'one\n');
  const headers = await tokenFor(gateway);
  const runner = await start();
  assert.equal((await gateway.request(HOST, '/logs?follow=false', { headers })).body, 'one\n');
  await runner.close({ drain: 0 });

  const statuses: number[] = [];
  const client = async (): Promise<Answer> => {
    for (let tries = 0; ; tries++) {
      const answer = await gateway.request(HOST, '/logs?follow=false', { headers });
      statuses.push(answer.status);
      if (answer.status !== 502 || tries === RETRIES) return answer;
      if (tries === 0) void start(runner);
      await new Promise((resolve) => {
        setTimeout(resolve, RETRY_PAUSE_MS);
      });
    }
  };
  const answer = await client();
  assert.equal(answer.status, 200, statuses.join());
  assert.equal(answer.body, 'one\n');
  assert.equal(statuses[0], 502);
});

test('the log port is reached in no other way', async (t) => {
  const { gateway, start } = await setUp(t, 'words of the log\n');
  const runner = await start();
  const upstream = await startUpstream((_request, response) => void response.end('reached'));
  t.after(() => upstream.close());
  // A runner that announces the port as an ordinary one, open to everyone, is refused it.
  assert.throws(() => {
    runner.client.environments.set({ id: 'other', ports: [{ port: 22_999, admission: 'everyone' }] });
  });
  const verdict = await runner.announce({ id: 'other', ports: [{ port: upstream.port, admission: 'everyone' }] });
  assert.ok(verdict.accepted);
  const open = portHost('other', upstream.port);
  assert.equal((await gateway.request(open)).body, 'reached');
  for (const host of [HOST, portHost('other', 22_999), `22999s--demo.${DOMAIN}`]) {
    for (const path of ['/logs', '/']) {
      const { status, body } = await gateway.request(host, path);
      assert.ok(status === 401 || status === 404, `${host}${path}: ${status}`);
      assert.doesNotMatch(body, /words of the log|reached/);
    }
  }
  // A token for the one is none for the other, and none for ports.
  const headers = await tokenFor(gateway, 'logs', 'other');
  assert.equal((await gateway.request(HOST, '/logs', { headers })).status, 403);
});

test('tokens stand in no line of the log, and requests with the path alone', async (t) => {
  const { gateway, start } = await setUp(t, 'one\n');
  await start();
  const good = await tokenFor(gateway);
  await gateway.request(HOST, '/logs?follow=false&x=canary', { headers: good });
  await gateway.request(HOST, '/logs', { headers: { authorization: `${good.authorization}x` } });
  await gateway.request(HOST, '/logs', {
    headers: { cookie: `__Host-gitpod_logs=${good.authorization.slice(7)}`, 'sec-fetch-site': 'same-origin' },
    method: 'HEAD',
  });
  const line = await gateway.waitFor(({ msg, host, status }) => msg === 'request' && host === HOST && status === 200);
  assert.deepEqual([line['path'], line['environmentId'], line['port']], ['/logs', 'demo', 22_999]);
  await gateway.waitFor(({ msg, error }) => msg === 'request' && error === 'token_invalid');
  const metrics = await (await gateway.internal('/metrics')).text();
  for (const text of [JSON.stringify(gateway.lines), metrics]) {
    assert.doesNotMatch(text, /eyJ[\w-]{20}|canary/);
  }
});
