// needs: promtool
/** The alert rules through Prometheus' own tool: each fires when it should, and keeps quiet otherwise. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { readTables } from '../support/markdown.ts';

const ROOT = join(import.meta.dirname, '../..');
const RULES = join(ROOT, 'deploy/alerts/gitpod-gateway.rules.yaml');

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly runbook: string };
}
const rules = (parse(readFileSync(RULES, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
);

/** Series with their values, one a minute, in the notation of promtool: `0+60x90` is 0, 60, 120 … */
type Series = Readonly<Record<string, string>>;
interface Case {
  readonly fires: Series;
  readonly quiet: Series;
}

const requests = 'gitpod_gateway_proxy_http_requests_total{protocol="h2",status_code="200"}';
const failures = (type: string): string => `gitpod_gateway_proxy_http_backend_failures_total{error_type="${type}"}`;
const legs = 'gitpod_gateway_legs{transport="quic"}';
const packets = (what: string): string => `gitpod_tunnel_client_leg_packets_total{leg="0",what="${what}"}`;
const DAY = 86_400;
/** Minute at which each case is looked at: all that the rules look back upon has been by then. */
const AT_MINUTES = 90;
const always = (value: number): string => `${value}x${AT_MINUTES}`;
const grows = (perMinute: number): string => `0+${perMinute}x${AT_MINUTES}`;

const CASES: Readonly<Record<string, Case>> = {
  GatewayDown: {
    fires: { 'up{job="gateway"}': '1x87 0x3' },
    quiet: { 'up{job="gateway"}': always(1), 'up{job="else"}': always(0) },
  },
  GatewayNotServing: {
    fires: { gitpod_gateway_proxy_up: '1x83 0x10' },
    quiet: { gitpod_gateway_proxy_up: '1x87 0x10' },
  },
  GatewayWithoutRunners: {
    fires: { gitpod_gateway_proxy_up: always(1), [legs]: '4x75 stale' },
    // One that never had any is new.
    quiet: { gitpod_gateway_proxy_up: always(1) },
  },
  GatewayLostRunners: { fires: { [legs]: '20x85 9x10' }, quiet: { [legs]: '20x85 11x10' } },
  GatewayLegsBreak: {
    fires: { [legs]: always(2), 'gitpod_gateway_legs_closed_total{reason="lost"}': grows(1) },
    quiet: { [legs]: always(2), 'gitpod_gateway_legs_closed_total{reason="replaced"}': grows(9) },
  },
  GatewayBackendFailures: {
    fires: { [requests]: grows(600), [failures('upstream_refused')]: grows(60) },
    quiet: { [requests]: grows(600), [failures('upstream_refused')]: grows(20) },
  },
  GatewayTunnelFailures: {
    fires: { [requests]: grows(600), [failures('tunnel_lost')]: grows(12) },
    quiet: { [requests]: grows(600), [failures('upstream_refused')]: grows(12) },
  },
  GatewayBusy: {
    fires: { 'nodejs_eventloop_lag_p99_seconds{job="gateway"}': always(0.3) },
    quiet: { 'nodejs_eventloop_lag_p99_seconds{job="gateway"}': always(0.1) },
  },
  GatewayOutOfFiles: {
    fires: { 'process_open_fds{job="gateway"}': always(900), 'process_max_fds{job="gateway"}': always(1_024) },
    quiet: { 'process_open_fds{job="gateway"}': always(800), 'process_max_fds{job="gateway"}': always(1_024) },
  },
  GatewayRefuses: {
    fires: { 'gitpod_gateway_proxy_refused_total{error_type="bad_request"}': grows(600) },
    quiet: { 'gitpod_gateway_proxy_refused_total{error_type="bad_request"}': grows(60) },
  },
  GatewayTurnsTunnelsAway: {
    fires: { gitpod_gateway_connections_turned_away_total: grows(60) },
    quiet: { gitpod_gateway_connections_turned_away_total: '0x60 200x30' },
  },
  GatewayRefusesRunners: {
    fires: { 'gitpod_gateway_joins_total{result="token_expired"}': grows(2) },
    quiet: { 'gitpod_gateway_joins_total{result="ok"}': grows(20) },
  },
  GatewayCertificateExpires: {
    fires: { 'gitpod_gateway_certificate_expiry_timestamp_seconds{certificate="a.example"}': always(13 * DAY) },
    quiet: { 'gitpod_gateway_certificate_expiry_timestamp_seconds{certificate="a.example"}': always(15 * DAY) },
  },
  GatewayCertificateFault: {
    fires: { gitpod_gateway_certificate_faults: '0x80 1x10' },
    quiet: { gitpod_gateway_certificate_faults: always(0) },
  },
  GatewayLogLost: {
    fires: { gitpod_gateway_log_lines_dropped_total: '0x85 9x5' },
    quiet: { gitpod_gateway_log_lines_dropped_total: '0x20 9x70' },
  },
  TunnelClientDown: {
    fires: { 'up{job="tunnel-client"}': '1x80 0x10' },
    quiet: { 'up{job="tunnel-client"}': always(1) },
  },
  TunnelClientOffline: {
    fires: { gitpod_tunnel_client_online: '1x80 0x10' },
    quiet: { gitpod_tunnel_client_online: '1x80 0x3 1x10' },
  },
  TunnelClientMembershipExpires: {
    fires: { gitpod_tunnel_client_membership_expiry_timestamp_seconds: always(5 * 3_600) },
    quiet: { gitpod_tunnel_client_membership_expiry_timestamp_seconds: always(12 * 3_600) },
  },
  TunnelClientEnvironmentRefused: {
    fires: { 'gitpod_tunnel_client_environments{state="refused"}': always(1) },
    quiet: {
      'gitpod_tunnel_client_environments{state="refused"}': always(0),
      'gitpod_tunnel_client_environments{state="accepted"}': always(5),
    },
  },
  TunnelClientWithoutUdp: {
    fires: {
      'gitpod_tunnel_client_legs{transport="quic"}': always(0),
      'gitpod_tunnel_client_legs{transport="websocket"}': always(2),
    },
    quiet: {
      'gitpod_tunnel_client_legs{transport="quic"}': always(1),
      'gitpod_tunnel_client_legs{transport="websocket"}': always(1),
    },
  },
  TunnelClientLosesPackets: {
    fires: { [packets('sent')]: grows(6_000), [packets('lost')]: grows(180) },
    quiet: { [packets('sent')]: grows(6_000), [packets('lost')]: grows(60) },
  },
};

const promtool = (...args: string[]): string => {
  const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8', timeout: 60_000 });
  assert.equal(status, 0, `${stdout}\n${stderr}`);
  return stdout;
};

/** Series are those of one instance. */
const inputSeries = (series: Series): { series: string; values: string }[] =>
  Object.entries(series).map(([name, values]) => ({
    series: name.includes('{') ? name.replace('{', '{instance="one",') : `${name}{instance="one"}`,
    values,
  }));

const testGroup = (name: string, series: Series, fires: boolean): object => {
  const firing = `ALERTS{alertname="${name}",alertstate="firing"}`;
  return {
    name: `${name} ${fires ? 'fires' : 'is quiet'}`,
    interval: '1m',
    input_series: inputSeries(series),
    promql_expr_test: [
      {
        expr: `count(${firing})`,
        eval_time: `${AT_MINUTES}m`,
        exp_samples: fires ? [{ labels: '{}', value: 1 }] : [],
      },
    ],
  };
};

test('promtool accepts the rules', () => {
  assert.match(promtool('check', 'rules', RULES), new RegExp(`SUCCESS: ${rules.length} rules found`));
});

test('each alert fires when it should, and is quiet otherwise', async () => {
  assert.deepEqual(
    rules.map(({ alert }) => alert),
    Object.keys(CASES),
  );
  const directory = await mkdtemp(join(tmpdir(), 'alerts-'));
  try {
    const path = join(directory, 'test.yaml');
    const tests = Object.entries(CASES).flatMap(([name, { fires, quiet }]) => [
      testGroup(name, fires, true),
      testGroup(name, quiet, false),
    ]);
    // JSON is YAML.
    await writeFile(path, JSON.stringify({ rule_files: [RULES], evaluation_interval: '1m', tests }));
    assert.match(promtool('test', 'rules', path), /SUCCESS/);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('each alert has a severity that the document explains, and a paragraph there', () => {
  const document = readFileSync(join(ROOT, 'docs/operations.md'), 'utf8');
  for (const { alert, labels, annotations } of rules) {
    assert.match(labels.severity, /^(?:critical|warning|info)$/);
    assert.equal(annotations.runbook, `docs/operations.md#${alert.toLowerCase()}`);
    const paragraph = document.split(`\n### ${alert}\n`)[1]?.split('\n#')[0] ?? '';
    assert.ok(paragraph.startsWith(`\n**${labels.severity}**. `) && paragraph.length > 80, alert);
  }
});

test('alerts ask for metrics that exist', () => {
  const known = new Set(
    readTables(readFileSync(join(ROOT, 'docs/metrics.md'), 'utf8'))
      .filter(({ head }) => head[0] === 'metric')
      .flatMap(({ rows }) => rows.map(([name = '']) => name.replaceAll('`', ''))),
  );
  for (const { alert, expr } of rules) {
    const names = [...expr.matchAll(/\b(?:gitpod_|process_|nodejs_)\w+/g)].map(([name]) => name);
    assert.ok(names.length > 0 || /^up\{/.test(expr), alert);
    for (const name of names) assert.ok(known.has(name), `${alert}: ${name}`);
  }
});
