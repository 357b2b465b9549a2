import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, isIP } from 'node:net';
import { test } from 'node:test';
import { TransportError } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { encodePrivateKey, parsePeerMultiaddr, publicKeyOfPeerId } from '../../shared/src/transport/peer-id.ts';
import { loadQuic, QUIC_PACKAGE_VERSION, quicPackageName } from '../../shared/src/transport/quic-native.ts';
import { MAX_READ_BYTES, MIN_READ_BYTES, nextReadSize } from '../../shared/src/transport/quic-stream.ts';

const PLATFORMS = [
  { platform: 'linux', arch: 'x64', musl: false },
  { platform: 'linux', arch: 'x64', musl: true },
  { platform: 'linux', arch: 'arm64', musl: false },
  { platform: 'linux', arch: 'arm64', musl: true },
  { platform: 'darwin', arch: 'x64', musl: false },
  { platform: 'darwin', arch: 'arm64', musl: false },
  { platform: 'win32', arch: 'x64', musl: false },
];

test('every platform has its package, and every package that may be installed has its platform', () => {
  const manifest = JSON.parse(readFileSync(new URL('../../shared/package.json', import.meta.url), 'utf8')) as {
    optionalDependencies: Record<string, string>;
  };
  assert.deepEqual(
    PLATFORMS.map((platform) => quicPackageName(platform)).toSorted(),
    Object.keys(manifest.optionalDependencies).toSorted(),
  );
  assert.ok(Object.values(manifest.optionalDependencies).every((version) => version === QUIC_PACKAGE_VERSION));
  assert.equal(quicPackageName({ platform: 'freebsd', arch: 'x64', musl: false }), undefined);
  assert.equal(quicPackageName({ platform: 'linux', arch: 'riscv64', musl: false }), undefined);
});

test('loads the package of this platform', () => {
  const quic = loadQuic();
  for (const name of ['QuinnConfig', 'Server', 'Client'] as const) assert.equal(typeof quic[name], 'function');
});

test('asks no name server for the names of open sockets', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const reports: { header: object; libuv: { localEndpoint?: { host: string } }[] }[] = [];
  const { report } = process;
  const getReport = report.getReport.bind(report);
  t.mock.method(report, 'getReport', () => {
    const made = getReport();
    reports.push(made as (typeof reports)[number]);
    return made;
  });
  loadQuic();
  // A report with names has the network interfaces too.
  assert.equal(reports.length, process.platform === 'linux' ? 1 : 0);
  for (const { header } of reports) assert.ok(!('networkInterfaces' in header));
  const hosts = reports.flatMap(({ libuv }) => libuv.flatMap(({ localEndpoint }) => localEndpoint?.host ?? []));
  assert.ok(
    hosts.every((host) => isIP(host) !== 0),
    hosts.join(),
  );
  // What the process itself reports in a crash is as before.
  assert.ok('networkInterfaces' in (getReport() as { header: object }).header);
});

test('a missing package is named', () => {
  const platform = { platform: 'darwin', arch: 'arm64', musl: false };
  const cause = Object.assign(new Error('not found'), { code: 'MODULE_NOT_FOUND' });
  const load = (error: Error): unknown =>
    loadQuic({
      platform,
      require: () => {
        throw error;
      },
    });
  assert.throws(() => load(cause), {
    name: 'TransportError',
    by: 'local',
    code: 'not_available',
    message: /libp2p-quic-darwin-arm64.*not installed: npm install @chainsafe\/libp2p-quic-darwin-arm64@/,
    cause,
  });
  const broken = Object.assign(new Error('wrong ELF class'), { code: 'ERR_DLOPEN_FAILED' });
  assert.throws(() => load(broken), { message: /libp2p-quic-darwin-arm64 cannot be loaded/, cause: broken });
  assert.throws(() => loadQuic({ platform: { ...platform, arch: 'ia32' }, require: () => ({}) }), TransportError);
});

test('reads grow while they come back full, up to a limit, and shrink again', () => {
  let size = MIN_READ_BYTES;
  const grown = [];
  for (let count = 0; count < 8; count++) grown.push((size = nextReadSize(size, size)));
  assert.deepEqual(grown.slice(0, 3), [2 << 10, 4 << 10, 8 << 10]);
  assert.equal(size, MAX_READ_BYTES);
  assert.ok(MAX_READ_BYTES >= 64 << 10);
  assert.equal(nextReadSize(size, size - 1), size);
  assert.equal(nextReadSize(size, size / 2), size);
  for (let count = 0; count < 8; count++) size = nextReadSize(size, 1);
  assert.equal(size, MIN_READ_BYTES);
});

test('takes the Ed25519 key out of a peer id, and no other', () => {
  // The key of the seed 0x01, 32 times.
  assert.equal(
    Buffer.from(publicKeyOfPeerId('12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5')!).toString('hex'),
    '8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c',
  );
  for (const id of [
    '16Uiu2HAm9zV9zc95VM1X1qSx7LFUUnRay626MDmRZppzG92fB5Uz', // secp256k1
    'QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N', // RSA, a hash of the key
    '',
    '12D3KooW',
    '12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH0', // 0 is not in the alphabet
    '1'.repeat(10_000),
  ]) {
    assert.equal(publicKeyOfPeerId(id), undefined, id.slice(0, 60));
  }
});

test('takes address and peer id out of a multiaddr', () => {
  assert.deepEqual(parsePeerMultiaddr('/ip6/::1/udp/39444/quic-v1/p2p/12D3Koo'), {
    host: '::1',
    port: 39_444,
    peerId: '12D3Koo',
  });
  for (const text of ['', '/ip4/127.0.0.1/udp/1/quic-v1', '/ip4/127.0.0.1/tcp/1/quic-v1/p2p/x']) {
    assert.equal(parsePeerMultiaddr(text), undefined);
  }
});

test('encodes a secret key as the binding reads it', () => {
  const { secretKey } = createKey();
  assert.deepEqual(Buffer.from(encodePrivateKey(secretKey)), Buffer.from([8, 1, 0x12, 0x40, ...secretKey]));
  assert.throws(() => encodePrivateKey(secretKey.subarray(0, 32)), RangeError);
});
