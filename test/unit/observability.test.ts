import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createReadStream, openSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { createAccessLog, isSampled, loggedPath, MAX_LOGGED_PATH } from '../../gateway/src/observability/access-log.ts';
import {
  createLogger,
  createLogSink,
  MAX_LOG_BUFFER_BYTES,
  SECRET_FIELDS,
} from '../../gateway/src/observability/log.ts';
import { createMetrics } from '../../gateway/src/observability/metrics.ts';

describe('the log', () => {
  it('redacts every secret field, three levels deep', () => {
    const lines: string[] = [];
    const log = createLogger({ destination: { write: (line: string) => void lines.push(line) } });
    for (const field of SECRET_FIELDS) {
      log.info({ [field]: 'canary', a: { [field]: 'canary', b: { [field]: 'canary' } } }, 'event');
    }
    assert.equal(lines.length, SECRET_FIELDS.length);
    assert.ok(!lines.join('').includes('canary'));
  });

  it('has the path of a request and nothing behind it', () => {
    assert.equal(loggedPath('/oauth/github/callback?code=1&state=2'), '/oauth/github/callback');
    assert.equal(loggedPath('/a#b?c'), '/a');
    assert.equal(loggedPath('*'), '*');
    assert.equal(loggedPath(`/${'x'.repeat(2_000)}`).length, MAX_LOGGED_PATH + 1);
  });
});

describe('the access log', () => {
  const exchange = (record: object, requestId = 'f'.repeat(32)) => ({
    requestId,
    host: '3000--demo.gateway.localhost',
    method: 'GET',
    target: '/page?token=canary',
    protocol: 'h2',
    clientAddress: '192.0.2.1',
    startedAt: 1_000,
    record: { bytesReceived: 3, bytesSent: 4, ...record },
  });
  const logWith = (options: { enabled: boolean; sample: number }) => {
    const lines: Record<string, unknown>[] = [];
    const log = createLogger({
      destination: { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
    });
    return { lines, write: createAccessLog(log, () => options) };
  };

  it('splits the time into edge, tunnel and upstream', () => {
    const { lines, write } = logWith({ enabled: true, sample: 1 });
    write(exchange({ edgeMs: 2, tunnelMs: 5, upstreamMs: 25, legId: 'leg', port: 3000 }), 200, 1_040);
    assert.ok(!JSON.stringify(lines).includes('canary'));
    const [line = {}] = lines;
    const { durationMs, edgeMs, tunnelMs, upstreamMs, path, clientAddress, legId, sample } = line;
    assert.deepEqual(
      { durationMs, edgeMs, tunnelMs, upstreamMs },
      { durationMs: 40, edgeMs: 2, tunnelMs: 3, upstreamMs: 20 },
    );
    assert.deepEqual([path, clientAddress, legId, sample], ['/page', '192.0.2.1', 'leg', undefined]);
  });

  it('of an answer of the gateway itself has the time at the edge alone', () => {
    const { lines, write } = logWith({ enabled: true, sample: 1 });
    write(exchange({}), 308, 1_007);
    assert.deepEqual(
      [lines[0]?.['edgeMs'], lines[0]?.['tunnelMs'], lines[0]?.['upstreamMs']],
      [7, undefined, undefined],
    );
  });

  it('may be sampled, which loses no failure', () => {
    const { lines, write } = logWith({ enabled: true, sample: 0.25 });
    for (let index = 0; index < 256; index++) {
      write(exchange({}, Buffer.from([index]).toString('hex').padEnd(32, '7')), 200, 1_001);
    }
    assert.equal(lines.length, 64);
    assert.ok(lines.every((line) => line['sample'] === 0.25));
    write(exchange({ errorCode: 'sign_in_required' }), 401, 1_001);
    write(exchange({}), 500, 1_001);
    assert.deepEqual(
      lines.slice(64).map(({ status, sample }) => [status, sample]),
      [
        [401, undefined],
        [500, undefined],
      ],
    );
    assert.ok(!isSampled('0'.repeat(32), 0) && isSampled('f'.repeat(32), 1));
  });

  it('can be switched off', () => {
    const { lines, write } = logWith({ enabled: false, sample: 1 });
    write(exchange({ errorCode: 'internal' }), 500, 1_001);
    assert.deepEqual(lines, []);
  });
});

it('lines of a log whose sink takes none are dropped and counted, nobody waits, and it goes on afterwards', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'log-sink-'));
  const path = join(directory, 'pipe');
  execFileSync('mkfifo', [path]);
  // Read and write: opening waits for nobody, and nobody reads.
  const sink = createLogSink(openSync(path, 'r+'));
  const log = createLogger({ destination: sink.destination });
  const text = 'x'.repeat(64 << 10);
  const count = (2 * MAX_LOG_BUFFER_BYTES) / text.length;
  for (let index = 0; index < count; index++) log.info({ index }, text);
  const dropped = sink.dropped();
  assert.ok(dropped > count / 3 && dropped < count, `${dropped} of ${count}`);

  const lines = createInterface({ input: createReadStream(path) })[Symbol.asyncIterator]();
  const read = async (): Promise<string> => String((await lines.next()).value);
  for (let index = 0; index < count - dropped; index++) assert.match(await read(), /x{65536}"}$/);
  log.info('taken again');
  assert.match(await read(), /taken again/);
  assert.equal(sink.dropped(), dropped);
  sink.discard();
  assert.equal((await lines.next()).done, true);
  await rm(directory, { recursive: true });
});

describe('metrics', () => {
  const snapshot = {
    legs: new Map([['quic', 2]]),
    openStreams: 3,
    bytesSent: 10,
    bytesReceived: 20,
    unauthenticated: 1,
    turnedAway: 4,
  };

  it('of two gateways in one process are apart', async () => {
    const [one, two] = [createMetrics({ tunnels: () => snapshot }), createMetrics({ tunnels: () => snapshot })];
    one.setUp(true);
    one.joined('ok');
    assert.match(await one.text(), /^gitpod_gateway_proxy_up 1$/m);
    assert.match(await two.text(), /^gitpod_gateway_proxy_up 0$/m);
    assert.ok(!(await two.text()).includes('joins_total{'));
  });

  it('count statuses that nobody knows by their class', async () => {
    const metrics = createMetrics({ tunnels: () => snapshot, droppedLogLines: () => 7 });
    for (let status = 200; status < 1_000; status++) {
      metrics.requestStarted();
      metrics.requestEnded({ protocol: 'h2', status, durationMs: 1, upstreamMs: 1, errorCode: undefined });
    }
    const text = await metrics.text();
    const labels = [...text.matchAll(/requests_total\{protocol="h2",status_code="(\w+)"\}/g)].map(([, code]) => code);
    assert.ok(labels.length < 80, `${labels.length} values`);
    for (const code of ['200', '404', '499', '2xx', '9xx']) assert.ok(labels.includes(code), code);
    assert.match(text, /^gitpod_gateway_proxy_http_requests_in_flight 0$/m);
    assert.match(text, /^gitpod_gateway_log_lines_dropped_total 7$/m);
  });

  it('have their names and labels, and counters that do not grow by being read', async () => {
    const metrics = createMetrics({ tunnels: () => snapshot });
    metrics.requestStarted();
    metrics.requestStarted();
    metrics.requestEnded({
      protocol: 'h2',
      status: 502,
      durationMs: 40,
      upstreamMs: undefined,
      errorCode: 'upstream_refused',
    });
    metrics.legClosed('revoked');
    metrics.echoed(3);
    await metrics.text();
    const text = await metrics.text();
    for (const line of [
      'proxy_http_requests_total{protocol="h2",status_code="502"} 1',
      'proxy_http_requests_in_flight 1',
      'proxy_http_request_duration_seconds_count{protocol="h2"} 1',
      'proxy_http_backend_failures_total{error_type="upstream_refused"} 1',
      'legs{transport="quic"} 2',
      'leg_rtt_seconds_count 1',
      'tunnel_streams_open 3',
      'tunnel_bytes_total{direction="sent"} 10',
      'tunnel_bytes_total{direction="received"} 20',
      'legs_closed_total{reason="revoked"} 1',
      'connections_turned_away_total 4',
    ]) {
      assert.ok(text.split('\n').includes(`gitpod_gateway_${line}`), line);
    }
  });
});
