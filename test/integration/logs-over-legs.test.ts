/** Logs over the whole way: readers of a real gateway, while legs, instances of the runner and the gateway come and go. */
import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { createSigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { issueToken } from '../../gateway/src/access/tokens.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { type LogReader, parseEvents, readLog } from '../support/logs.ts';
import { startTestRunner, type TestRunner, until } from '../support/runner.ts';

const EVENTS = { accept: 'text/event-stream' };
const numbered = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, index) => `line ${from + index}, ä\n`).join('');

let directory: string;
let file: string;
let gateway: TestGateway;
let token: string;
const runners: TestRunner[] = [];
const responses: IncomingMessage[] = [];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'logs-test-'));
  file = join(directory, 'env.log');
  writeFileSync(file, numbered(0, 100));
  gateway = await startTestGateway();
  const keys = createSigningKeys({ directory: gateway.gateway.directory, clock: systemClock });
  ({ token } = await issueToken(keys, { scope: 'logs', environmentId: 'demo' }, { clock: systemClock }));
});

afterEach(async () => {
  for (const response of responses.splice(0)) response.destroy();
  for (const runner of runners.splice(0).reverse()) await runner.close();
  await gateway.close();
  rmSync(directory, { recursive: true, force: true });
});

const startRunner = async (like?: TestRunner): Promise<TestRunner> => {
  const runner = await startTestRunner(gateway, { ...(like ? { like } : {}) });
  runners.push(runner);
  const verdict = await runner.announce({ id: 'demo', logs: { file } });
  assert.equal(verdict.accepted, true);
  return runner;
};

const read = (query = '', headers: Record<string, string> = {}): Promise<LogReader> =>
  new Promise((resolve, reject) => {
    const host = portHost('demo', LOG_PORT);
    const outgoing = request({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      agent: false,
      rejectUnauthorized: false,
      path: `/logs${query}`,
      headers: { host: `${host}:${gateway.httpsPort}`, authorization: `Bearer ${token}`, ...headers },
    });
    outgoing.once('error', reject);
    outgoing.once('response', (response) => {
      responses.push(response);
      resolve(readLog(response));
    });
    outgoing.end();
  });
const nextOffset = (reader: LogReader): number => reader.offset + reader.body().length;
const lastId = (reader: LogReader): string => parseEvents(reader.text()).at(-1)?.id ?? '';
const dataOf = (...readers: LogReader[]): string =>
  readers.flatMap((reader) => parseEvents(reader.text()).map(({ data }) => `${data}\n`)).join('');

/** A text and an event reader that have come to the end of what there is. */
const startReaders = async (): Promise<{ text: LogReader; events: LogReader }> => {
  const [text, events] = [await read(), await read('', EVENTS)];
  assert.equal(text.status, 200);
  assert.equal(text.offset, 0);
  for (const reader of [text, events]) await reader.contains('line 99, ä');
  return { text, events };
};

/** The same two, gone on from where they ended, hold the whole file and nothing twice. */
const goOn = async ({ text, events }: { text: LogReader; events: LogReader }): Promise<void> => {
  const [before, eventsBefore] = [await text.ended, await events.ended];
  assert.match(before, /\n$/, 'it ends at the end of a line');
  assert.match(eventsBefore, /\n\n$/);
  appendFileSync(file, 'the end\n');
  const since = nextOffset(text);
  const rest = await read(`?since=${since}`);
  assert.equal(rest.offset, since);
  await rest.contains('the end\n');
  assert.equal(before + rest.text(), readFileSync(file, 'utf8'));
  const eventRest = await read('', { ...EVENTS, 'last-event-id': lastId(events) });
  await eventRest.contains('the end');
  assert.equal(dataOf(events, eventRest), readFileSync(file, 'utf8'));
};

const gatewayLeg = async (): Promise<Leg> => {
  const route = await gateway.gateway.registry.route('demo');
  assert.ok(route.kind === 'online');
  return route.legs[0] as Leg;
};

describe('a log over a real gateway and runner', () => {
  it('is announced as built in, and follows', async () => {
    const runner = await startRunner();
    assert.equal(runner.client.status().environments[0]?.logs, 'builtin');
    assert.equal(runner.client.environments.list()[0]?.logs, 'builtin');
    const { text } = await startReaders();
    appendFileSync(file, 'more\n');
    await text.contains('more\n');
  });

  it('goes on when the leg is replaced', async () => {
    const runner = await startRunner();
    const readers = await startReaders();
    const old = await gatewayLeg();
    old.send({ type: 'drain', reason: 'data_path' });
    appendFileSync(file, `${numbered(100, 150)}half a`);
    await Promise.all([readers.text.ended, readers.events.ended]);
    assert.ok(old.isOpen, 'they end before the leg does');
    await goOn(readers);
    assert.notEqual((await gatewayLeg()).id, old.id);
    assert.equal(runner.client.status().state, 'online');
  });

  it('goes on at another instance of the runner, while the first one drains', async () => {
    const first = await startRunner();
    const readers = await startReaders();
    // An update: both run for a while, and the first one is asked to end.
    await startRunner(first);
    appendFileSync(file, numbered(100, 150));
    const startedAt = performance.now();
    const closed = first.client.close({ drain: 60_000 });
    await goOn(readers);
    await closed;
    assert.ok(performance.now() - startedAt < 30_000, 'nobody who follows holds up the end of an instance');
  });

  it('goes on after a restart of the runner', async () => {
    const first = await startRunner();
    const readers = await startReaders();
    await first.client.close({ drain: true });
    appendFileSync(file, numbered(100, 150));
    await startRunner(first);
    await goOn(readers);
  });

  it('ends at once, at the end of a line, when the gateway drains', async () => {
    await startRunner();
    const { text, events } = await startReaders();
    appendFileSync(file, `${numbered(100, 150)}half a`);
    const startedAt = performance.now();
    await gateway.close({ drainTimeoutMs: 60_000 });
    assert.ok(performance.now() - startedAt < 30_000, 'who follows a log does not hold up the gateway');
    assert.match(await text.ended, /\n$/);
    assert.match(await events.ended, /\n\n$/);
    const whole = numbered(0, 150);
    assert.ok(whole.startsWith(text.text()));
    assert.ok(whole.startsWith(dataOf(events)));
    assert.equal(Number(lastId(events)), Buffer.byteLength(dataOf(events)));
  });

  it('ends with the environment, and begins again with it', async () => {
    const runner = await startRunner();
    const { text } = await startReaders();
    runner.client.environments.delete('demo');
    assert.equal(await text.ended, numbered(0, 100));
    await runner.announce({ id: 'demo', logs: { command: ['sh', '-c', 'echo by command'] } });
    await until(async () => (await gatewayLeg().catch(() => undefined)) !== undefined);
    const reader = await read();
    assert.equal(await reader.ended, 'by command\n');
  });

  it('by a command does not hold up the end of the client', async () => {
    const runner = await startRunner();
    await runner.announce({ id: 'other', logs: { command: ['sh', '-c', 'echo $$; sleep 600'] } });
    const keys = createSigningKeys({ directory: gateway.gateway.directory, clock: systemClock });
    ({ token } = await issueToken(keys, { scope: 'logs', environmentId: 'other' }, { clock: systemClock }));
    const answer = await gateway.request(portHost('other', LOG_PORT), '/logs?follow=false&tail=0', {
      headers: { authorization: `Bearer ${token}` },
    });
    assert.equal(answer.status, 200);
    const startedAt = performance.now();
    await runner.client.close();
    assert.ok(performance.now() - startedAt < 5_000);
  });
});
