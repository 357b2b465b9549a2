import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey, sign as platformSign } from 'node:crypto';
import { mkdtemp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import {
  createKey,
  keyFingerprint,
  loadOrCreateKey,
  parseKey,
  privateKeyToJwk,
  publicKeyFromJwk,
  publicKeyToJwk,
  sign,
  verifySignature,
} from '../../shared/src/identity/keys.ts';

/** RFC 8037 appendix A. */
const RFC_JWK = {
  kty: 'OKP',
  crv: 'Ed25519',
  d: 'nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A',
  x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
};

describe('keys', () => {
  let directory = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'keys-'));
  });
  after(() => rm(directory, { recursive: true }));

  it('sign what the platform verifies, and verify what the platform signs', () => {
    const key = parseKey(JSON.stringify(RFC_JWK));
    const message = Buffer.from('Example of Ed25519 signing');
    const privateKey = createPrivateKey({ key: RFC_JWK, format: 'jwk' });
    assert.deepEqual(Buffer.from(sign(key, message)), platformSign(null, message, privateKey));
    assert.equal(verifySignature(key.publicKey, message, sign(key, message)), true);
    assert.equal(createPublicKey({ key: { ...publicKeyToJwk(key.publicKey) }, format: 'jwk' }).type, 'public');
  });

  it('refuse a changed message, signature or key, and bytes of a wrong length', () => {
    const key = createKey();
    const message = Buffer.from('hello');
    const signature = sign(key, message);
    const flipped = Uint8Array.from(signature);
    flipped[3]! ^= 1;
    assert.equal(verifySignature(key.publicKey, Buffer.from('hellp'), signature), false);
    assert.equal(verifySignature(key.publicKey, message, flipped), false);
    assert.equal(verifySignature(createKey().publicKey, message, signature), false);
    assert.equal(verifySignature(key.publicKey, message, signature.subarray(1)), false);
    assert.equal(verifySignature(key.publicKey.subarray(1), message, signature), false);
  });

  it('are read from a JWK and written as one', () => {
    const key = createKey();
    assert.deepEqual(parseKey(JSON.stringify(privateKeyToJwk(key))), key);
    assert.deepEqual(publicKeyFromJwk(publicKeyToJwk(key.publicKey)), key.publicKey);
    assert.match(keyFingerprint(key.publicKey), /^SHA256:[A-Za-z0-9_-]{43}$/);
  });

  it('are refused when the JWK is not exactly one of Ed25519', () => {
    const other = publicKeyToJwk(createKey().publicKey).x;
    const wrong: [unknown, RegExp][] = [
      [null, /not an Ed25519 key/],
      [{ ...RFC_JWK, crv: 'X25519' }, /not an Ed25519 key/],
      [{ ...RFC_JWK, kty: 'EC' }, /not an Ed25519 key/],
      [{ ...RFC_JWK, x: `${RFC_JWK.x}=` }, /field x/],
      // The last character has two bits that mean nothing: another spelling of the same key.
      [{ ...RFC_JWK, x: RFC_JWK.x.replace(/o$/, 'p') }, /field x/],
      [{ ...RFC_JWK, d: undefined }, /field d/],
      [{ ...RFC_JWK, d: 'AAAA' }, /field d/],
      [{ ...RFC_JWK, x: other }, /do not belong together/],
    ];
    for (const [jwk, message] of wrong) assert.throws(() => parseKey(JSON.stringify(jwk)), message);
  });

  it('never repeat a broken secret in an error', () => {
    const secret = 'not-json-but-secret';
    assert.throws(
      () => parseKey(secret),
      (error: Error) => !`${error.stack} ${String(error.cause)}`.includes(secret),
    );
  });

  it('are made once, for their owner only, and found again', async () => {
    const path = join(directory, 'new', 'state', 'key.json');
    const made = await loadOrCreateKey(path);
    assert.deepEqual(await loadOrCreateKey(path), made);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.equal((await stat(join(directory, 'new', 'state'))).mode & 0o777, 0o700);
    assert.deepEqual(await readdir(join(directory, 'new', 'state')), ['key.json']);
  });

  it('are the same for all who start at once', async () => {
    const path = join(directory, 'race', 'key.json');
    const keys = await Promise.all(Array.from({ length: 20 }, () => loadOrCreateKey(path)));
    assert.equal(new Set(keys.map((key) => keyFingerprint(key.publicKey))).size, 1);
    assert.deepEqual(await readdir(join(directory, 'race')), ['key.json']);
  });

  it('are not replaced when their file is broken', async () => {
    const path = join(directory, 'broken.json');
    for (const content of ['', '{', '{}', 'x'.repeat(20_000)]) {
      await writeFile(path, content);
      await assert.rejects(loadOrCreateKey(path), (error: Error) => {
        assert.match(error.message, /key file .*broken\.json/);
        assert.ok(error.cause instanceof Error);
        return true;
      });
      assert.equal(await readFile(path, 'utf8'), content);
    }
    const folder = join(directory, 'folder.json');
    await mkdir(folder);
    await assert.rejects(loadOrCreateKey(folder), /cannot be read/);
    await assert.rejects(loadOrCreateKey(join(path, 'key.json')), /key file/);
  });
});
