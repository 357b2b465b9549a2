import assert from 'node:assert/strict';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { CertificateError, loadCertificates, type CertificatePair } from '../../gateway/src/edge/certificates.ts';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import { SELF_SIGNED_LIFETIME_MS } from '../../gateway/src/edge/self-signed.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';

const DAY_MS = 24 * 3_600_000;
let directory: string;
let count = 0;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'certificates-'));
});
after(() => rm(directory, { recursive: true, force: true }));

const freshDirectory = (): string => join(directory, String((count += 1)));
const writePair = async (names: readonly string[], validForMs = DAY_MS): Promise<CertificatePair> => {
  const now = Date.now();
  const made = await makeSelfSignedCertificate({ names, notBefore: now - 2 * DAY_MS, notAfter: now + validForMs });
  const base = freshDirectory();
  const pair = { certificate: `${base}-cert.pem`, key: `${base}-key.pem` };
  await writeFile(pair.certificate, made.certificate);
  await writeFile(pair.key, made.key);
  return pair;
};
const load = (
  tls: readonly CertificatePair[],
  domains: readonly string[] = ['a.example'],
  clock: Clock = systemClock,
  stateDir = freshDirectory(),
) => loadCertificates({ clock }, { tls, stateDir, domains });
const clockAt = (now: number): Clock => ({ ...systemClock, now: () => now });

test('a self-signed certificate is made once, for every domain and one label below it', async () => {
  const stateDir = freshDirectory();
  const domains = ['gateway.localhost', 'b.example'];
  const first = await load([], domains, systemClock, stateDir);
  const path = join(stateDir, 'self-signed/certificate.pem');
  const text = await readFile(path, 'utf8');
  const parsed = new X509Certificate(text);
  for (const name of ['gateway.localhost', 'x.gateway.localhost', 'b.example', '3000--x.b.example', 'localhost']) {
    assert.equal(parsed.checkHost(name) !== undefined, true, name);
  }
  assert.equal(parsed.checkHost('a.b.b.example'), undefined);
  assert.ok(parsed.verify(parsed.publicKey));
  assert.equal(parsed.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
  assert.equal(parsed.validToDate.getTime() - parsed.validFromDate.getTime(), SELF_SIGNED_LIFETIME_MS);
  assert.equal((await stat(join(stateDir, 'self-signed/key.pem'))).mode & 0o777, 0o600);
  assert.deepEqual(first.warnings, []);
  assert.equal(first.certificates[0]?.selfSigned, true);
  assert.equal(first.certificates[0]?.certificatePath, path);
  await load([], domains, systemClock, stateDir);
  assert.equal(await readFile(path, 'utf8'), text, 'the second start uses the same one');
});

test('the self-signed certificate is renewed before it expires, when domains change, and when it is broken', async () => {
  const stateDir = freshDirectory();
  const fingerprint = async (domains: readonly string[], clock: Clock = systemClock): Promise<string | undefined> =>
    (await load([], domains, clock, stateDir)).certificates[0]?.fingerprint;
  const first = await fingerprint(['a.example']);
  assert.equal(await fingerprint(['a.example'], clockAt(Date.now() + 300 * DAY_MS)), first);
  const renewed = await fingerprint(['a.example'], clockAt(Date.now() + 380 * DAY_MS));
  assert.notEqual(renewed, first);
  const other = await fingerprint(['b.example'], clockAt(Date.now() + 380 * DAY_MS));
  assert.notEqual(other, renewed);
  await writeFile(join(stateDir, 'self-signed/key.pem'), 'junk');
  assert.notEqual(await fingerprint(['b.example'], clockAt(Date.now() + 380 * DAY_MS)), other);
});

test('the context is picked by exact name, then by wildcard, then the first', async () => {
  const wildcard = await writePair(['a.example', '*.a.example']);
  const exact = await writePair(['Special.a.example']);
  const store = await load([wildcard, exact]);
  const first = store.contextFor(undefined);
  const special = store.contextFor('special.A.example.');
  assert.notEqual(special, first);
  assert.equal(store.contextFor('x.a.example'), first);
  assert.equal(store.contextFor('evil.test'), first);
  assert.equal(store.contextFor('\u0000\u00ff'), first);
  const reversed = await load([exact, wildcard]);
  assert.notEqual(reversed.contextFor('x.a.example'), reversed.contextFor(undefined));
  assert.equal(reversed.contextFor('x.y.a.example'), reversed.contextFor(undefined), 'a wildcard stands for one label');
});

test('warnings: an expired certificate, and names that none covers', async () => {
  const store = await load([await writePair(['a.example'], -DAY_MS)]);
  assert.equal(store.warnings.length, 2);
  assert.match(store.warnings[0] ?? '', /expired on \d{4}-/);
  assert.match(store.warnings[1] ?? '', /no certificate covers \*\.a\.example/);
});

test('each fault names its file and is told apart by its code', async () => {
  const good = await writePair(['a.example']);
  const other = await writePair(['a.example']);
  const write = async (text: string): Promise<string> => {
    const path = `${freshDirectory()}.pem`;
    await writeFile(path, text);
    return path;
  };
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const encrypted = await write(
    privateKey.export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' }).toString(),
  );
  const der = await write('\u0030\u0082');
  const brokenCertificate = await write('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  const brokenKey = await write('-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n');
  const missing = join(directory, 'missing.pem');
  const cases: [CertificatePair, string, string][] = [
    [{ certificate: missing, key: good.key }, 'unreadable', missing],
    [{ certificate: good.certificate, key: missing }, 'unreadable', missing],
    [{ certificate: directory, key: good.key }, 'unreadable', directory],
    [{ certificate: der, key: good.key }, 'not_pem', der],
    [{ certificate: good.certificate, key: der }, 'not_pem', der],
    [{ certificate: good.key, key: good.certificate }, 'not_pem', good.key],
    [{ certificate: brokenCertificate, key: good.key }, 'not_pem', brokenCertificate],
    [{ certificate: good.certificate, key: brokenKey }, 'not_pem', brokenKey],
    [{ certificate: good.certificate, key: encrypted }, 'encrypted', encrypted],
    [{ certificate: good.certificate, key: other.key }, 'key_mismatch', other.key],
  ];
  for (const [pair, code, path] of cases) {
    await assert.rejects(load([pair]), (error: unknown) => {
      assert.ok(error instanceof CertificateError);
      assert.equal(error.code, code);
      assert.equal(error.path, path);
      assert.ok(error.message.startsWith(`${path}: TLS `));
      return true;
    });
  }
});
