import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawChart } from '../bench/peers/chart.ts';
import { parseSession } from '../bench/peers/certificate.ts';
import { parseDownloads, parseH2load, parseWrk } from '../bench/peers/load.ts';
import { alignColumns, summarize, tableRows } from '../bench/peers/report.ts';
import { createRecord, type Measured, put } from '../bench/peers/rounds.ts';
import { addDerived, judgeTargets } from '../bench/peers/targets.ts';

const MEASURED: Measured = {
  'requests-h1': { 'nginx-nebula': [1_000, 1_100, 900], 'nginx-ssh': [100, 100, 100], 'gateway-quic': [600, 550, 540] },
  'latency-p99': { direct: [1, 1, 1], 'nginx-nebula': [2, 2, 3], 'gateway-quic': [4, 3.5, 9] },
  'idle-legs-1000-memory': { 'gateway-quic': [90] },
};

test('the summary has workloads, systems, medians, units and targets, and nothing else', () => {
  const measured = structuredClone(MEASURED);
  addDerived(measured);
  const { workloads, targets, ...rest } = summarize(measured);
  assert.deepEqual(rest, {});
  assert.deepEqual(workloads['requests-h1'], {
    'nginx-nebula': { median: 1_000, unit: 'requests/s' },
    'nginx-ssh': { median: 100, unit: 'requests/s' },
    'gateway-quic': { median: 550, unit: 'requests/s' },
  });
  assert.deepEqual(workloads['added-latency-p99']?.['gateway-quic'], { median: 3, unit: 'ms' });
  for (const target of targets) assert.deepEqual(Object.keys(target), ['name', 'target', 'reached', 'ok']);
});

test('targets are judged by ratios of the same rounds, and those that were not measured have no line', () => {
  const measured = structuredClone(MEASURED);
  addDerived(measured);
  const judged = Object.fromEntries(judgeTargets(measured).map(({ name, reached, ok }) => [name, [reached, ok]]));
  assert.deepEqual(judged, {
    'requests-h1: gateway-quic / nginx-nebula': [0.6, true],
    'requests-h1: gateway-quic / nginx-ssh': [5.5, true],
    'added-latency-p99: gateway-quic / nginx-nebula': [3, false],
    'idle-legs-1000-memory': [90, false],
  });
});

test('a tunnel that adds nothing leaves no room for one that adds something', () => {
  const measured: Measured = { 'added-latency-p99': { 'nginx-nebula': [-0.1], 'gateway-quic': [1] } };
  assert.equal(judgeTargets(measured)[0]?.ok, false);
});

test('the table has a column for each system and ratio, and aligned columns', () => {
  const rows = tableRows(MEASURED);
  assert.deepEqual(rows[0], [
    ...['', 'unit', 'no tunnel', 'nginx + Nebula', 'nginx + ssh -R', 'gateway, QUIC'],
    ...['QUIC / Nebula', 'QUIC / ssh'],
  ]);
  assert.equal(rows[1]?.[5], '550 ±5 %');
  assert.equal(rows[1]?.[6], '0.60 (0.50–0.60)');
  const lines = alignColumns(rows).split('\n');
  assert.equal(lines.length, rows.length);
  assert.equal(lines[1]?.indexOf('requests/s'), lines[0]?.indexOf('unit'));
});

test('a row without unit is a slip', () => {
  assert.throws(() => put(createRecord(), 'direct', 0, { nonsense: 1 }), /nonsense/);
});

test('the chart has a bar for each figure', () => {
  const svg = drawChart(MEASURED);
  assert.equal(svg.match(/<rect [^>]*><title>/g)?.length, 3 + 3 + 1);
  assert.ok(svg.startsWith('<svg ') && svg.includes('small requests, HTTP/1.1'));
});

test('wrk: the rate, unless an answer was wrong or a connection broke', () => {
  const text = 'Running 3s test\n  100 requests in 3.00s, 1MB read\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n';
  assert.equal(parseWrk(text), 12_345.67);
  assert.throws(() => parseWrk(`  Non-2xx or 3xx responses: 5\n${text}`), /5/);
  assert.throws(() => parseWrk(`  Socket errors: connect 0, read 1, write 0, timeout 0\n${text}`), /read 1/);
  assert.throws(() => parseWrk('unable to connect'));
});

test('h2load: the rate, unless an answer was wrong', () => {
  const text = (codes: string): string => `finished in 3.00s, 2000.50 req/s, 2MB/s\nstatus codes: ${codes}\n`;
  assert.equal(parseH2load(text('6001 2xx, 0 3xx, 0 4xx, 0 5xx')), 2_000.5);
  assert.throws(() => parseH2load(text('6001 2xx, 0 3xx, 0 4xx, 1 5xx')));
  assert.throws(() => parseH2load(text('0 2xx, 0 3xx, 0 4xx, 0 5xx')));
});

test('curl: bytes of all from the first one on, unless one failed', () => {
  const mib = 1 << 20;
  assert.equal(parseDownloads(`${100 * mib} 0.5 2.5 200\n${100 * mib} 0.6 2.4 200\n`), 100);
  assert.throws(() => parseDownloads(`${100 * mib} 0.5 2.5 502\n`));
  assert.throws(() => parseDownloads('0 0 0 200\n'));
});

test('openssl: what was negotiated', () => {
  const text = [
    'Peer signature type: ECDSA',
    'Server Temp Key: X25519, 253 bits',
    'New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384',
    'Server public key is 256 bit',
  ].join('\n');
  assert.equal(parseSession(text), 'TLSv1.3 TLS_AES_256_GCM_SHA384, X25519, 253 bits, 256 bit, ECDSA');
});
