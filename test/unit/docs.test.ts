/** What the documents say about limits and configuration is what the code has, name by name and value by value. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { test } from 'node:test';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import { LEG_LIMITS } from '../../shared/src/protocol/limits.ts';
import { environmentSchema, exposedPortSchema } from '../../shared/src/protocol/messages.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';
import { QUIC_LIMITS } from '../../shared/src/transport/quic-limits.ts';
import { WEBSOCKET_LIMITS } from '../../shared/src/transport/websocket-limits.ts';
import { WEBTRANSPORT_LIMITS } from '../../shared/src/transport/webtransport-limits.ts';
import { parseClientConfig } from '../../tunnel-client/src/config.ts';
import { DIALER_LIMITS } from '../../tunnel-client/src/dialer.ts';
import { BETTER_LIMITS } from '../../tunnel-client/src/better-transport.ts';
import { SUPERVISOR_LIMITS } from '../../tunnel-client/src/supervisor.ts';
import { RACE_LIMITS } from '../../tunnel-client/src/transport-race.ts';
import { readNumericConstants } from '../support/numeric-constants.ts';
import { readTables, type Table } from '../support/markdown.ts';

const ROOT = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
/** The name in a cell: `` `name` `` with whatever stands behind it. */
const nameIn = (cell: string | undefined): string => /`([^`]+)`/.exec(cell ?? '')?.[1] ?? '';

// ---- limits

const UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000,
  days: 86_400_000,
  bytes: 1,
  KiB: 1 << 10,
  MiB: 1 << 20,
  '%': 0.01,
};
const TIME_UNITS = ['ms', 's', 'min', 'h', 'days'];

/** `16 KiB` of a limit whose name ends in its unit, as the number that the code has. */
const valueOf = (name: string, text: string): number => {
  const match = /^([\d,.]+)(?: (\S+))?$/.exec(text);
  assert.ok(match, `docs/limits.md: "${text}" of ${name} is no value`);
  const [, digits = '', unit] = match;
  const isTime = /Ms$|_MS$|_SECONDS$/.test(name);
  const isSize = /Bytes(?:PerLeg)?$|_BYTES$/.test(name);
  if (isTime) assert.ok(unit && TIME_UNITS.includes(unit), `docs/limits.md: ${name} needs a unit of time`);
  if (isSize) assert.ok(unit && !TIME_UNITS.includes(unit), `docs/limits.md: ${name} needs a unit of size`);
  const scale = unit === undefined ? 1 : UNITS[unit];
  assert.ok(scale !== undefined, `docs/limits.md: ${name} has the unknown unit ${unit}`);
  const value = Number(digits.replaceAll(',', '')) * scale;
  return name.endsWith('_SECONDS') ? value / 1_000 : value;
};

interface Limit {
  readonly name: string;
  readonly value: number;
}
const limitTables = (): Table[] => readTables(read('docs/limits.md')).filter(({ head }) => head[0] === 'limit');
const documented = (): Limit[] =>
  limitTables().flatMap(({ rows }) =>
    rows.map(([first, value = '']) => ({ name: nameIn(first), value: valueOf(nameIn(first), value) })),
  );
/** Sorted lines, so that a difference shows what is missing on which side. */
const lines = (limits: readonly Limit[]): string[] => limits.map(({ name, value }) => `${name} = ${value}`).sort();

const TABLES: readonly object[] = [
  GATEWAY_LIMITS,
  LEG_LIMITS,
  QUIC_LIMITS,
  WEBTRANSPORT_LIMITS,
  WEBSOCKET_LIMITS,
  SUPERVISOR_LIMITS,
  BETTER_LIMITS,
  RACE_LIMITS,
  RECONNECT_BACKOFF,
  DIALER_LIMITS,
];
const limitsOfTables = (): Limit[] =>
  TABLES.flatMap((table) => Object.entries(table).map(([name, value]) => ({ name, value: value as number })));
/** Where every number is a limit that a reader should find. */
const COMPLETE = [
  'gateway/src/api/*.ts',
  'shared/src/protocol/limits.ts',
  'shared/src/protocol/messages.ts',
  'shared/src/transport/quic*.ts',
  'tunnel-client/src/*.ts',
];
const ALL = ['gateway/src/**/*.ts', 'shared/src/**/*.ts', 'tunnel-client/src/**/*.ts'];
/** Numbers in these places that are no limits: lengths that a format has, intervals without an end. */
const NOT_LIMITS: ReadonlySet<string> = new Set([
  'TOKEN_BYTES',
  'IPV4_BYTES',
  'IPV6_GROUPS',
  'MAX_INTERVAL_MS',
  'MAX_SLIPS',
  'STATE_VERSION',
]);

test('every limit of docs/limits.md is one of the code, with its value', () => {
  const known = new Set(lines([...limitsOfTables(), ...readNumericConstants(ROOT, ALL)]));
  assert.deepEqual(
    lines(documented()).filter((line) => !known.has(line)),
    [],
  );
});

test('docs/limits.md has every limit of the protocol, the transport, the gateway, its API and the tunnel client', () => {
  const written = new Set(lines(documented()));
  const constants = readNumericConstants(ROOT, COMPLETE).filter(({ name }) => !NOT_LIMITS.has(name));
  assert.deepEqual(
    lines([...limitsOfTables(), ...constants]).filter((line) => !written.has(line)),
    [],
  );
});

test('the configurable limits stand in tables of their own, in the order of the code', () => {
  const tables = limitTables().filter(({ head }) => head[1] === 'default');
  const names = tables.flatMap(({ rows }) => rows.map(([first]) => nameIn(first)));
  assert.deepEqual(names, Object.keys(GATEWAY_LIMITS));
});

test('every limit has a reason, and says what happens beyond it unless it is an interval', () => {
  for (const { rows } of limitTables()) {
    for (const [first, , why = '', beyond = ''] of rows) {
      const name = nameIn(first);
      assert.ok(why.length > 0, `${name} has no reason`);
      if (/^[a-z]/.test(name) && Object.hasOwn(GATEWAY_LIMITS, name)) assert.ok(beyond.length > 0, name);
    }
  }
});

// ---- configuration

const configurationTables = (): Table[] => readTables(read('docs/configuration.md'));
const tableWith = (...head: string[]): Table => {
  const found = configurationTables().find((table) => head.every((name, index) => table.head[index] === name));
  assert.ok(found, `docs/configuration.md has no table ${head.join(', ')}`);
  return found;
};
const gatewayTable = (): Table => tableWith('key', 'variable', 'default', 'meaning');
const clientTable = (): Table => tableWith('key', 'variable', 'flag');

/** Paths of all that has a value; lists and what is empty are values. */
const leaves = (value: unknown, path: string): string[] =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length > 0
    ? Object.entries(value).flatMap(([key, inner]) => leaves(inner, path === '' ? key : `${path}.${key}`))
    : [path];

test("docs/configuration.md has every key of the gateway's configuration", () => {
  const { limits, drainDelayMs, drainTimeoutMs, listeners, ...rest } = parseGatewayConfig(undefined, {});
  assert.ok(Object.keys(limits).length > 0 && drainDelayMs === 0 && drainTimeoutMs === 30_000);
  const keys = [
    ...leaves(rest, ''),
    ...Object.keys(listeners).map((name) => `listeners.${name}`),
    ...['limits', 'drainDelay', 'drainTimeout', 'tls.certificate', 'tls.key'],
  ];
  assert.deepEqual(
    gatewayTable()
      .rows.map(([key]) => nameIn(key))
      .sort(),
    keys.sort(),
  );
});

test("the gateway's defaults are those of docs/configuration.md", () => {
  const config = parseGatewayConfig(undefined, {});
  const written = new Map(gatewayTable().rows.map(([key, , value]) => [nameIn(key), nameIn(value)]));
  const listen = (addresses: readonly { host: string; port: number }[]): string =>
    `[${addresses.map(({ host, port }) => JSON.stringify(formatHostPort(host, port))).join(', ')}]`;
  const { listeners } = config;
  assert.equal(written.get('domains'), `[${config.domains.join(', ')}]`);
  assert.equal(written.get('listeners.https'), listen(listeners.https));
  assert.equal(written.get('listeners.quic'), listen(listeners.quic));
  assert.equal(written.get('listeners.http'), listen(listeners.http));
  assert.ok(listeners.internal.kind === 'tcp');
  assert.equal(written.get('listeners.internal'), formatHostPort(listeners.internal.host, listeners.internal.port));
  assert.equal(written.get('stateDir'), config.stateDir.slice(process.cwd().length + 1));
  assert.equal(written.get('directory.type'), config.directory.type);
  assert.equal(written.get('drainDelay'), `${config.drainDelayMs / 1_000}s`);
  assert.equal(written.get('drainTimeout'), `${config.drainTimeoutMs / 1_000}s`);
  assert.equal(written.get('logLevel'), config.logLevel);
  assert.equal(written.get('proxyProtocol'), config.proxyProtocol);
  for (const [key, value] of Object.entries({ tls: config.tls, trustedProxies: config.trustedProxies })) {
    assert.equal(written.get(key), JSON.stringify(value));
  }
});

test("every variable of the gateway in docs/configuration.md is one, and sets its key's value", () => {
  const samples: Readonly<Record<string, string>> = {
    'listeners.https': '[::]:1443',
    'listeners.quic': '0.0.0.0:1442',
    'listeners.http': '[::]:1080',
    'listeners.internal': '127.0.0.1:1090',
    publicPort: '443',
    'advertise.quic': '192.0.2.1:4242',
    'advertise.tcp': 'tunnel.gateway.example:443',
    'directory.type': 'embedded',
    organizations: '{"acme":{}}',
    cors: 'https://app.example',
    'everyonePorts.interstitial': 'true',
    'everyonePorts.noindex': 'true',
    drainDelay: '7s',
    drainTimeout: '8s',
    trustedProxies: '10.0.0.0/8',
    proxyProtocol: 'off',
    logLevel: 'debug',
    'accessLog.enabled': 'false',
    'accessLog.sample': '0.1',
  };
  const defaults = JSON.stringify(parseGatewayConfig(undefined, {}));
  for (const [key, variable] of gatewayTable().rows) {
    const name = nameIn(variable);
    if (name === '' || name.endsWith('…')) continue;
    const pair = { GATEWAY_TLS_CERTIFICATE: '/c.pem', GATEWAY_TLS_KEY: '/k.pem' };
    const value = samples[nameIn(key)] ?? 'other.example';
    const config = parseGatewayConfig(undefined, Object.hasOwn(pair, name) ? pair : { [name]: value });
    if (nameIn(key) !== 'directory.type') assert.notEqual(JSON.stringify(config), defaults, name);
  }
});

test("docs/configuration.md has an organization's keys with their defaults", () => {
  const policy = parseGatewayConfig('organizations: { acme: {} }', {}).organizations['acme'];
  const { rows } = tableWith('key', 'default', 'meaning');
  assert.deepEqual(
    Object.fromEntries(rows.map(([key, value]) => [nameIn(key).replace('organizations.*.', ''), nameIn(value)])),
    Object.fromEntries(
      Object.entries(policy ?? {}).map(([key, value]) => [
        key,
        typeof value === 'string' ? value : JSON.stringify(value),
      ]),
    ),
  );
});

test("docs/configuration.md has every key of the tunnel client's configuration, its variable and default", () => {
  const needed = { TUNNEL_GATEWAY: 'https://api.gateway.example', TUNNEL_RUNNER_ID: 'my-runner' };
  const config = parseClientConfig({ env: needed, cwd: '/' });
  const { rows } = clientTable();
  assert.deepEqual(
    rows.map(([key]) => nameIn(key)).sort(),
    Object.keys(config)
      .filter((key) => key !== 'gateways' && key !== 'proxy')
      .map((key) => key.replace(/Ms$/, ''))
      .sort(),
  );
  const written = new Map(rows.map(([key, , , value]) => [nameIn(key), nameIn(value)]));
  assert.ok(config.internal.kind === 'tcp');
  assert.equal(written.get('internal'), formatHostPort(config.internal.host, config.internal.port));
  assert.equal(resolve('/', written.get('stateDir') ?? ''), config.stateDir);
  assert.equal(written.get('drainTimeout'), `${config.drainTimeoutMs / 1_000}s`);
  assert.equal(written.get('transport'), config.transport);
  assert.equal(written.get('logLevel'), config.logLevel);
  assert.equal(written.get('logFormat'), config.logFormat);

  const samples: Readonly<Record<string, string>> = {
    gateway: 'https://api.other.example',
    reselectAfter: '10m',
    transport: 'quic',
    internal: 'unix:/run/x.sock',
    oauth: 'http://127.0.0.1:8081',
    remoteWrite: 'https://metrics.example/api/v1/write',
    inspector: 'true',
    drainTimeout: '1s',
    logLevel: 'warn',
    logFormat: 'json',
    environments: '[{"id":"demo"}]',
  };
  for (const [key, variable] of rows) {
    const env = { ...needed, [nameIn(variable)]: samples[nameIn(key)] ?? 'other' };
    const changed = parseClientConfig({ env, cwd: '/' });
    assert.notDeepEqual(changed, config, `${nameIn(variable)} changes nothing`);
  }
});

test('docs/configuration.md has every key of environments and ports, with its default', () => {
  const shapes = { port: exposedPortSchema.shape, environment: environmentSchema.shape };
  const tables = configurationTables().filter(({ head }) => head.includes('default'));
  const written = (table: Table | undefined): string[] => (table?.rows ?? []).map(([key]) => nameIn(key)).sort();
  const environments = tables.find(({ rows }) => nameIn(rows[0]?.[0]) === 'id');
  const ports = tables.find(({ head }) => head[0] === 'key of a port');
  assert.deepEqual(written(environments), Object.keys(shapes.environment).sort());
  assert.deepEqual(written(ports), Object.keys(shapes.port).sort());
  const defaults: Readonly<Record<string, unknown>> = {
    ...environmentSchema.parse({ id: 'demo' }),
    ...exposedPortSchema.parse({ port: 3000 }),
  };
  for (const [key, value] of [...(environments?.rows ?? []), ...(ports?.rows ?? [])]) {
    if (value === 'needed' || value === '') continue;
    const expected = defaults[nameIn(key)];
    assert.equal(nameIn(value), typeof expected === 'string' ? expected : JSON.stringify(expected), nameIn(key));
  }
});

// ---- all documents

test('every link from one document to another leads to a file, and to a heading where it names one', () => {
  const anchor = (heading: string): string =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} -]/gu, '')
      .replaceAll(' ', '-');
  for (const path of ['README.md', 'CHANGELOG.md', ...globSync('docs/**/*.md', { cwd: ROOT })]) {
    for (const [, target = ''] of read(path).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = '', fragment] = target.split('#');
      const found = file === '' ? path : join(dirname(path), file);
      assert.ok(existsSync(join(ROOT, found)), `${path} links to ${target}`);
      if (fragment === undefined) continue;
      const headings = [...read(found).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => anchor(heading));
      assert.ok(headings.includes(fragment), `${path} links to the heading ${target}`);
    }
  }
});
