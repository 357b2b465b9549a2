// needs: sslscan, openssl
/** What a scanner finds at a real listener, with a certificate of each kind of key (safety row 51). */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { DOMAIN, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { findProgram } from '../support/system-packages.ts';

const TIMEOUT = { timeout: 120_000 };
const SCAN_MS = 60_000;
/** Bits of strength below which a key exchange or a cipher is weak (NIST SP 800-57 part 1, table 2). */
const LEAST_BITS = 112;

type Element = Readonly<Record<string, string>>;

/** The attributes of every element of this name; sslscan writes nothing that would need more of a parser. */
const elements = (xml: string, name: string): Element[] =>
  [...xml.matchAll(new RegExp(`<${name}\\b([^>]*)>`, 'g'))].map(([, attributes = '']) =>
    Object.fromEntries([...attributes.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key, value]) => [key, value])),
  );

const scan = async (gateway: TestGateway, serverName?: string): Promise<string> => {
  const args = ['--xml=-', '--no-colour', ...(serverName === undefined ? [] : [`--sni-name=${serverName}`])];
  const program = findProgram('sslscan');
  assert.ok(program);
  const { code, stdout, stderr } = await runProcess(program, [...args, `127.0.0.1:${gateway.httpsPort}`], {
    timeoutMs: SCAN_MS,
  });
  assert.equal(code, 0, stderr);
  return stdout;
};

const startWithKey = async (t: TestContext, key: readonly string[]): Promise<TestGateway> => {
  const directory = await temporaryDirectory(t);
  const pair = { certificate: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  const names = `subjectAltName=DNS:${DOMAIN},DNS:*.${DOMAIN}`;
  const made = await runProcess(findProgram('openssl')!, [
    ...['req', '-x509', '-nodes', '-days', '30', '-subj', `/CN=${DOMAIN}`, '-addext', names],
    ...['-newkey', ...key, '-keyout', pair.key, '-out', pair.certificate],
  ]);
  assert.equal(made.code, 0, made.stderr);
  const gateway = await startTestGateway({ config: { tls: [pair] } });
  t.after(() => gateway.close());
  return gateway;
};

const SUITES = [
  { name: 'RSA', key: ['rsa:2048'], authentication: 'RSA' },
  { name: 'ECDSA', key: ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'], authentication: 'ECDSA' },
] as const;

for (const { name, key, authentication } of SUITES) {
  test(`a scanner finds TLS 1.2 and 1.3 with forward secrecy alone, with a key of ${name}`, TIMEOUT, async (t) => {
    const gateway = await startWithKey(t, key);
    for (const serverName of [undefined, `3000--demo.${DOMAIN}`, `tunnel.${DOMAIN}`]) {
      const xml = await scan(gateway, serverName);
      const enabled = elements(xml, 'protocol').filter((protocol) => protocol['enabled'] === '1');
      assert.deepEqual(
        enabled.map(({ type, version }) => `${type} ${version}`),
        ['tls 1.2', 'tls 1.3'],
      );
      const ciphers = elements(xml, 'cipher');
      assert.ok(ciphers.length >= 5, `${ciphers.length} ciphers`);
      for (const { sslversion, cipher, bits } of ciphers) {
        const isGood =
          sslversion === 'TLSv1.3'
            ? /^TLS_(?:AES_128_GCM_SHA256|AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256)$/.test(cipher ?? '')
            : // Ephemeral keys are forward secrecy; GCM and Poly1305 authenticate what they encrypt.
              new RegExp(`^ECDHE-${authentication}-.*(?:GCM|POLY1305)`).test(cipher ?? '');
        assert.ok(isGood && Number(bits) >= LEAST_BITS, `${sslversion} ${cipher} with ${bits} bits`);
      }
      for (const group of elements(xml, 'group')) {
        assert.ok(Number(group['bits']) >= LEAST_BITS, `key exchange ${group['name']} with ${group['bits']} bits`);
      }
      assert.deepEqual(
        elements(xml, 'renegotiation').map(({ supported }) => supported),
        ['0'],
        'a client may not negotiate anew',
      );
      const heartbleed = elements(xml, 'heartbleed');
      assert.ok(heartbleed.length > 0 && heartbleed.every(({ vulnerable }) => vulnerable === '0'));
    }
  });
}
