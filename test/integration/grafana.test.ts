// needs: promtool
/** The Grafana dashboard: every query names metrics and labels that a gateway under traffic has, and Prometheus parses it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { once } from 'node:events';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';
import { findProgram } from '../support/system-packages.ts';

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly type: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}
interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] };
}
const { panels, templating } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../../deploy/grafana/gateway.json'), 'utf8'),
) as Dashboard;
const targets = panels.flatMap(({ title, targets: own = [] }) => own.map((target) => ({ title, ...target })));

/** Labels that Prometheus adds to what it scrapes. */
const TARGET_LABELS = ['job', 'instance'];

/** Labels of each series name, `_bucket` and the like as names of their own. */
const seriesOf = (text: string): Map<string, Set<string>> => {
  const found = new Map<string, Set<string>>();
  for (const [, name = '', pairs = ''] of text.matchAll(/^([a-z_]\w*)(?:\{(.*)\})? \S+$/gm)) {
    const labels = found.get(name) ?? new Set(TARGET_LABELS);
    for (const [, label = ''] of pairs.matchAll(/(\w+)="/g)) labels.add(label);
    found.set(name, labels);
  }
  return found;
};

/** What has to have happened for every metric to have series. */
const makeTraffic = async (gateway: TestGateway): Promise<void> => {
  const upstream = await startUpstream((_request, response) => response.end('hello'));
  const runner = await startTestRunner(gateway);
  await runner.announce({
    id: 'grafana-env',
    host: '127.0.0.1',
    creator: 'somebody',
    ports: [{ port: upstream.port, protocol: 'http', admission: 'everyone' }],
  });
  const host = portHost('grafana-env', upstream.port);
  assert.equal((await gateway.request(host)).status, 200);
  await until(async () => /leg_rtt_seconds_count [1-9]/.test(await (await gateway.internal('/metrics')).text()));
  await upstream.close();
  assert.equal((await gateway.request(host)).status, 502);
  const socket = connect({ host: '127.0.0.1', port: gateway.httpsPort, rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  socket.on('error', () => undefined);
  socket.end('no request\r\n\r\n');
  await once(socket.resume(), 'close');
  await runner.close();
};

test('every query names metrics and labels that there are', async () => {
  const gateway = await startTestGateway();
  try {
    await makeTraffic(gateway);
    let series = new Map<string, Set<string>>();
    await until(async () => {
      series = seriesOf(await (await gateway.internal('/metrics')).text());
      return series.has('gitpod_gateway_legs_closed_total') && series.has('gitpod_gateway_proxy_refused_total');
    });
    // A gauge of legs has no series when there are none; its label is that of the runner's.
    series.set('gitpod_gateway_legs', new Set([...TARGET_LABELS, 'transport']));
    const queries = [
      ...targets.map(({ expr, legendFormat }) => ({ expr, legendFormat })),
      ...templating.list.flatMap(({ definition }) =>
        definition === undefined ? [] : [{ expr: definition, legendFormat: '' }],
      ),
    ];
    assert.ok(queries.length > 20);
    for (const { expr, legendFormat } of queries) {
      const names = [...expr.matchAll(/\b(?:gitpod_gateway|process|nodejs)_\w+/g)].map(([name]) => name);
      assert.ok(names.length > 0, expr);
      const labels = new Set<string>();
      for (const name of names) {
        assert.ok(series.has(name), `${name} is no metric of the gateway: ${expr}`);
        for (const label of series.get(name) ?? []) labels.add(label);
      }
      const used = [
        ...[...expr.matchAll(/by \(([^)]*)\)/g)].flatMap(([, list = '']) => list.split(/, */)),
        ...[...expr.matchAll(/(\w+)=~?"/g)].map(([, label = '']) => label),
        ...[...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label = '']) => label),
      ];
      for (const label of used) assert.ok(labels.has(label), `${label} is no label of ${names.join(', ')}: ${expr}`);
    }
  } finally {
    await gateway.close();
  }
});

test('Prometheus parses every query', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'grafana-test-'));
  try {
    const rules = targets.map(({ expr }, index) => ({
      record: `grafana_query_${index}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$(?:job|instance)/g, '.*'),
    }));
    const path = join(directory, 'queries.json');
    // JSON is YAML.
    await writeFile(path, JSON.stringify({ groups: [{ name: 'grafana', rules }] }));
    const promtool = findProgram('promtool');
    assert.ok(promtool);
    const { status, stdout, stderr } = spawnSync(promtool, ['check', 'rules', path], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout, new RegExp(`SUCCESS: ${targets.length} rules found`));
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('panels have ids of their own, lie within the grid and do not overlap', () => {
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Map<string, string>();
  for (const { title, gridPos } of panels) {
    assert.ok(gridPos.x >= 0 && gridPos.x + gridPos.w <= 24, title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        assert.equal(taken.get(`${x},${y}`), undefined, `${title} lies over another panel`);
        taken.set(`${x},${y}`, title);
      }
    }
  }
});
