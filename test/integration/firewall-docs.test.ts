// needs: jq
/** docs/firewall.md against the programs, the templates of `deploy/`, and the list of gateways of a real gateway. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import { GATEWAYS_PATH } from '../../shared/src/identity/enrolment.ts';
import { DEFAULT_INTERNAL } from '../../tunnel-client/src/config-sources.ts';
import { DOMAIN, startTestGateway } from '../support/gateway.ts';
import { readTables } from '../support/markdown.ts';
import { runProcess } from '../support/processes.ts';

const ROOT = join(import.meta.dirname, '../..');
const page = readFileSync(join(ROOT, 'docs/firewall.md'), 'utf8');

/** `HTTPS (TCP)` → `tcp`; what is carried over TCP says so, or is HTTP or SSH. */
const layerOf = (protocol: string): string => (/\bUDP\b/.test(protocol) ? 'udp' : 'tcp');

/** Rows of the section with this heading: what is in each column. */
const section = (heading: string): Record<string, string>[] => {
  const text = page.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  assert.ok(text, heading);
  return readTables(text).flatMap(({ head, rows }) =>
    rows.map((row) => Object.fromEntries(head.map((name, index) => [name, row[index] ?? '']))),
  );
};
const ports = (rows: readonly Record<string, string>[]): string[] =>
  rows.map(({ protocol = '', port = '' }) => `${layerOf(protocol)} ${port}`);

test('the ports are those that gateway and tunnel client have by default', () => {
  const { listeners } = parseGatewayConfig(undefined, {});
  const into = ports(section('Into a gateway'));
  for (const { port } of listeners.https) assert.ok(into.includes(`tcp ${port}`), String(port));
  for (const { port } of listeners.quic) assert.ok(into.includes(`udp ${port}`), String(port));
  assert.ok(listeners.internal.kind === 'tcp' && into.includes(`tcp ${listeners.internal.port}`));
  const inside = ports(section("Inside a runner's network"));
  assert.ok(inside.includes(`tcp ${LOG_PORT}`));
  assert.ok(inside.includes(`tcp ${DEFAULT_INTERNAL.split(':')[1]}`));
});

interface Rule {
  readonly IpProtocol: string;
  readonly FromPort: number | object;
}
/** Every rule for traffic of the template, whatever resource it belongs to. Its own functions stand as they are. */
const rulesOf = (file: string, direction: 'Egress' | 'Ingress'): string[] => {
  const text = readFileSync(join(ROOT, 'deploy/cloudformation', file), 'utf8').replaceAll(/!\w+/g, '');
  const { Resources } = parse(text, { logLevel: 'silent' }) as {
    Resources: Record<string, { Type: string; Properties: Record<string, unknown> }>;
  };
  return Object.values(Resources)
    .filter(({ Type }) => Type === 'AWS::EC2::SecurityGroup' || Type === `AWS::EC2::SecurityGroup${direction}`)
    .flatMap(({ Type, Properties }) =>
      Type === 'AWS::EC2::SecurityGroup' ? (Properties[`SecurityGroup${direction}`] ?? []) : Properties,
    )
    .flatMap((rules) => rules as Rule | Rule[])
    .filter(({ FromPort }) => typeof FromPort === 'number')
    .map(({ IpProtocol, FromPort }) => `${IpProtocol} ${FromPort as number}`);
};

test('the template of a runner opens the ways out of the page, and lets in what the page says', () => {
  const out = ports(section("Out of a runner's network")).filter((port) => !port.endsWith(' 53'));
  const egress = rulesOf('runner.yaml', 'Egress');
  assert.deepEqual(
    [...new Set(out)].filter((port) => !egress.includes(port)),
    [],
  );
  const inside = ports(section("Inside a runner's network"));
  for (const rule of rulesOf('runner.yaml', 'Ingress')) {
    assert.ok(
      inside.some((port) => port.split('–', 1)[0] === rule),
      rule,
    );
  }
});

test('the command of the page reads the list of a gateway', async () => {
  const expression = /jq -r '([^']+)'/.exec(page)?.[1];
  assert.ok(expression);
  assert.ok(page.includes(`https://api.gateway.example${GATEWAYS_PATH}`));
  const gateway = await startTestGateway();
  try {
    const { body } = await gateway.request(`api.${DOMAIN}`, GATEWAYS_PATH);
    const { code, stdout, stderr } = await runProcess('jq', ['-r', expression], { input: body });
    assert.deepEqual([code, stderr], [0, '']);
    assert.deepEqual(stdout.trim().split('\n').sort(), [
      `TCP tunnel.${DOMAIN}:${gateway.httpsPort}`,
      `UDP api.${DOMAIN}:${gateway.quicPort}`,
    ]);
  } finally {
    await gateway.close();
  }
});
