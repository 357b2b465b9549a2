import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isServerNameFor, parseAuthority, parseHost } from '../../gateway/src/edge/host-router.ts';

const domains = ['gateway.example', 'dev.gateway.example'];
const ports = new Set([443, 8443]);
const route = (authority: string) => parseHost(authority, { domains, ports });
const port = (portNumber: number, environmentId: string, tls = false, domain = 'gateway.example') => ({
  kind: 'port' as const,
  domain,
  port: portNumber,
  tls,
  environmentId,
});

test('each kind of host', () => {
  assert.deepEqual(route('gateway.example'), { kind: 'apex', domain: 'gateway.example' });
  assert.deepEqual(route('3000--demo.gateway.example'), port(3000, 'demo'));
  assert.deepEqual(route('3000s--demo.gateway.example'), port(3000, 'demo', true));
  assert.deepEqual(
    route('8080--0199da78-c047-77b9-a098-0bbab101cde7.gateway.example:8443'),
    port(8080, '0199da78-c047-77b9-a098-0bbab101cde7'),
  );
  assert.deepEqual(route('22999--demo.gateway.example'), {
    kind: 'logs',
    domain: 'gateway.example',
    environmentId: 'demo',
  });
  assert.deepEqual(route('my-runner.gateway.example'), {
    kind: 'runner',
    domain: 'gateway.example',
    runnerId: 'my-runner',
  });
  assert.deepEqual(route('api.gateway.example'), { kind: 'service', domain: 'gateway.example', service: 'api' });
  assert.deepEqual(route('tunnel.gateway.example'), { kind: 'service', domain: 'gateway.example', service: 'tunnel' });
  for (const address of ['192.0.2.1', '192.0.2.1:31000', '[2001:db8::1]', '[::1]:8443', '[::ffff:192.0.2.1]']) {
    assert.deepEqual(route(address), { kind: 'address' }, address);
  }
});

test('the longest domain wins where domains lie in one another', () => {
  assert.deepEqual(route('dev.gateway.example'), { kind: 'apex', domain: 'dev.gateway.example' });
  assert.deepEqual(route('3000--demo.dev.gateway.example'), port(3000, 'demo', false, 'dev.gateway.example'));
  assert.deepEqual(
    parseHost('3000--demo.dev.gateway.example', { domains: [...domains].reverse(), ports }),
    port(3000, 'demo', false, 'dev.gateway.example'),
  );
});

test('case, one trailing dot and a port of the gateway make no difference', () => {
  for (const host of ['3000--DEMO.Gateway.Example', '3000--demo.gateway.example.', '3000--demo.gateway.example.:443']) {
    assert.deepEqual(route(host), port(3000, 'demo'), host);
  }
  assert.deepEqual(route('3000S--demo.gateway.example'), port(3000, 'demo', true));
});

const refusals: Readonly<Record<string, readonly string[]>> = {
  bad_host: [
    '',
    ' ',
    '.',
    'gateway.example..',
    '.gateway.example',
    'a..gateway.example',
    'gateway.example:',
    'gateway.example:0443',
    'gateway.example:444',
    'gateway.example:70000',
    'gateway.example:99999999999',
    'gateway.example:443:443',
    'user@gateway.example',
    'gateway.example/x',
    'gateway.example#x',
    'gateway.example\\x',
    '3000--demo%2egateway.example',
    '3000--d\u00e9mo.gateway.example',
    '3000--demo_x.gateway.example',
    `${'a'.repeat(64)}.gateway.example`,
    '-a.gateway.example',
    '--demo.gateway.example',
    'a-.gateway.example',
    '[::1',
    '[::1]x',
    '[fe80::1%eth0]',
    '[gateway.example]',
    `${'a.'.repeat(130)}gateway.example`,
  ],
  misdirected: [
    'evil.test',
    'evil.test:9999',
    '3000--demo.gateway.example.evil.test',
    'xgateway.example',
    'example',
    'localhost',
    '3000--demo.gateway-example',
  ],
  not_found: [
    'a.b.gateway.example',
    '3000--demo.x.gateway.example',
    '80--demo.gateway.example',
    '1023--demo.gateway.example',
    '65536--demo.gateway.example',
    '03000--demo.gateway.example',
    '0--demo.gateway.example',
    '22999s--demo.gateway.example',
    '3000ss--demo.gateway.example',
    '3000t--demo.gateway.example',
    '3000--a--b.gateway.example',
    '3000---demo.gateway.example',
    '3000--api.gateway.example',
    '3000--tunnel.gateway.example',
    `3000--${'a'.repeat(51)}.gateway.example`,
    'xn--d-xga.gateway.example',
    'auth.gateway.example',
    'www.gateway.example',
    'lighthouse.gateway.example',
    'static.gateway.example',
  ],
};
for (const [code, hosts] of Object.entries(refusals)) {
  test(`${code}: ${hosts.length} hosts`, () => {
    for (const host of hosts) assert.deepEqual(route(host), { kind: 'error', code }, JSON.stringify(host));
  });
}

test('any text gives a route or an error, and a port route says back what was asked', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string().map((text) => `${text}.gateway.example`),
      ),
      (text) => {
        const found = route(text);
        if (found.kind !== 'port') return;
        const label = `${found.port}${found.tls ? 's' : ''}--${found.environmentId}`;
        assert.equal(parseAuthority(text)?.host, `${label}.${found.domain}`);
      },
    ),
  );
});

test('a connection carries the hosts of its own domain, and the tunnel name nothing else', () => {
  const allowed = (serverName: string | undefined, host: string): boolean => {
    const to = route(host);
    assert.notEqual(to.kind, 'error');
    return isServerNameFor(serverName, to as Exclude<typeof to, { kind: 'error' }>, domains);
  };
  assert.equal(allowed(undefined, '3000--a.gateway.example'), true);
  assert.equal(allowed('3000--a.gateway.example', '3000--b.gateway.example'), true);
  assert.equal(allowed('3000--A.Gateway.Example', 'gateway.example'), true);
  assert.equal(allowed('evil.test', '3000--a.gateway.example'), false);
  assert.equal(allowed('3000--a.dev.gateway.example', '3000--a.gateway.example'), false);
  assert.equal(allowed('tunnel.gateway.example', '3000--a.gateway.example'), false);
  assert.equal(allowed('tunnel.gateway.example', 'api.gateway.example'), false);
  assert.equal(allowed('tunnel.gateway.example', 'tunnel.gateway.example'), true);
  assert.equal(allowed('\u00ff\u0000', '3000--a.gateway.example'), false);
  assert.equal(allowed('gateway.example', '192.0.2.1'), true);
  assert.equal(allowed('evil.test', '192.0.2.1'), false);
});
