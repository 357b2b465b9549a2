/** docs/metrics.md against what a gateway and a tunnel client under traffic say at `/metrics`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { GATEWAY_ERRORS } from '../../gateway/src/errors.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { listenInternal, type InternalListener } from '../../tunnel-client/src/internal-listener.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { readTables } from '../support/markdown.ts';
import { startTestRunner, startUpstream, until, type TestRunner, type TestUpstream } from '../support/runner.ts';

interface Family {
  readonly name: string;
  readonly type: string;
  /** Of all its samples, sorted; without `le` and `quantile`, which follow from the type. */
  readonly labels: ReadonlySet<string>;
  readonly values: ReadonlyMap<string, ReadonlySet<string>>;
}

const parseMetrics = (text: string): Map<string, Family> => {
  const families = new Map<string, Family>();
  for (const [, name = '', type = ''] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const values = new Map<string, Set<string>>();
    const suffix = type === 'histogram' || type === 'summary' ? '(?:_bucket|_sum|_count)?' : '';
    for (const [, pairs = ''] of text.matchAll(new RegExp(`^${name}${suffix}(?:\\{(.*)\\})? \\S+$`, 'gm'))) {
      for (const [, label = '', value = ''] of pairs.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        if (label === 'le' || label === 'quantile') continue;
        values.set(label, (values.get(label) ?? new Set()).add(value));
      }
    }
    families.set(name, { name, type, labels: new Set(values.keys()), values });
  }
  return families;
};

interface Documented {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly meaning: string;
}
const documented: readonly Documented[] = readTables(
  readFileSync(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8'),
)
  .filter(({ head }) => head[0] === 'metric')
  .flatMap(({ rows }) =>
    rows.map(([name = '', type = '', labels = '', meaning = '']) => ({
      name: name.replaceAll('`', ''),
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label),
      meaning,
    })),
  );

/** Names and types have to be the same; labels too, where there are samples. */
const compare = (families: ReadonlyMap<string, Family>, belongs: (name: string) => boolean): void => {
  // Linux alone tells some things of a process.
  const exists = (name: string): boolean =>
    process.platform === 'linux' || !name.startsWith('process_') || families.has(name);
  const written = documented.filter(({ name }) => belongs(name) && exists(name));
  const lines = (list: Iterable<{ name: string; type: string }>): string[] =>
    [...list].map(({ name, type }) => `${name} ${type}`).sort();
  assert.deepEqual(lines(written), lines(families.values()));
  for (const { name, labels, meaning } of written) {
    assert.ok(meaning.length > 0, `${name} has no meaning`);
    const seen = families.get(name)?.labels ?? new Set();
    if (seen.size > 0) assert.deepEqual([...seen].sort(), [...labels].sort(), name);
  }
};

describe('metrics', () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: TestUpstream;
  let listener: InternalListener;
  before(async () => {
    gateway = await startTestGateway();
    upstream = await startUpstream((_request, response) => response.end('hello'));
    runner = await startTestRunner(gateway);
    const ports = [upstream.port, upstream.port === 3999 ? 3998 : 3999].map((port) => ({
      port,
      admission: 'everyone' as const,
    }));
    await runner.announce({ id: 'demo', ports });
    listener = await listenInternal(
      { client: runner.client, token: 'A'.repeat(43), log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
    const status = async (host: string): Promise<number> => (await gateway.request(host)).status;
    assert.equal(await status(portHost('demo', upstream.port)), 200);
    assert.equal(await status(portHost('demo', ports[1]?.port)), 502);
    assert.equal(await status(portHost('nobody')), 404);
  });
  after(async () => {
    await listener.close();
    await runner.close();
    await gateway.close();
    await upstream.close();
  });

  it('of a gateway are those of docs/metrics.md, and no label has a value of which there is no bound', async () => {
    const text = async (): Promise<string> => (await gateway.internal('/metrics', { authorization: '' })).text();
    await until(async () => (await text()).includes('status_code="404"'));
    const metrics = parseMetrics(await text());
    compare(metrics, (name) => !name.startsWith('gitpod_tunnel_client_'));

    const { id } = runner;
    const legs = runner.client.status().legs.map((leg) => leg.id);
    for (const secret of [id, 'demo', 'nobody', ...legs]) assert.ok(!(await text()).includes(secret), secret);
    const values = (name: string, label: string): string[] => [
      ...(metrics.get(`gitpod_gateway_${name}`)?.values.get(label) ?? []),
    ];
    assert.deepEqual(values('proxy_http_requests_total', 'protocol'), ['http/1.1']);
    assert.deepEqual(values('proxy_http_requests_total', 'status_code').sort(), ['200', '404', '502']);
    const errors = values('proxy_http_backend_failures_total', 'error_type');
    assert.deepEqual(errors, ['upstream_refused']);
    assert.ok(errors.every((code) => Object.hasOwn(GATEWAY_ERRORS, code)));
    assert.deepEqual(values('joins_total', 'result'), ['ok']);
  });

  it('of a tunnel client are those of docs/metrics.md', async () => {
    const text = await (await fetch(`http://${listener.address}/metrics`)).text();
    compare(parseMetrics(text), (name) => name.startsWith('gitpod_tunnel_client_'));
    assert.ok(!text.includes(runner.id) && !text.includes('demo'));
  });
});
