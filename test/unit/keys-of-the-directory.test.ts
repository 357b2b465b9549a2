/** What gateways make of the key rings and the list of revocations as time passes. The directory is a real one. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { DatabaseSync } from 'node:sqlite';
import { decodeProtectedHeader } from 'jose';
import { createRevocations, REVOCATION_LIFETIME_MS } from '../../gateway/src/access/revocations.ts';
import { createSigningKeys, TokenError } from '../../gateway/src/access/signing-keys.ts';
import { createTicketKeys } from '../../gateway/src/access/ticket-keys.ts';
import { CHANGE_POLL_MS, type Directory } from '../../gateway/src/directory/directory.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import {
  AUTHORITY_LEAD_MS,
  KEY_LIFETIME_MS,
  KEY_USES,
  SESSION_KEY_OVERLAP_MS,
  TICKET_KEY_LEAD_MS,
  TICKET_KEY_LIFETIME_MS,
  TOKEN_KEY_OVERLAP_MS,
} from '../../gateway/src/directory/key-ring.ts';
import { KEY_AGE_CHECK_MS, keepKeysFresh } from '../../gateway/src/directory/key-rotation.ts';
import { createKey, keyFingerprint, keyFromSeed, privateKeyToJwk } from '../../shared/src/identity/keys.ts';
import { MEMBERSHIP_LIFETIME_MS } from '../../shared/src/identity/membership.ts';
import type { Clock } from '../../shared/src/clock.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

const ISSUER = 'https://api.gateway.test';
const HOUR_MS = 3_600_000;
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

let place: string;
let clock: ManualClock;
let directory: Directory;
let other: Directory;
const path = (): string => join(place, 'directory.sqlite');
const open = (its: Clock = clock): Promise<Directory> =>
  openEmbeddedDirectory({ clock: its, log }, { path: path(), issuer: ISSUER });

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'keys-'));
  clock = createManualClock();
  directory = await open();
  other = await open();
});
afterEach(async () => {
  await directory.close();
  await other.close();
  await rm(place, { recursive: true });
});

describe('keys', () => {
  it('are replaced by their age, once for all gateways, and by nobody before', async () => {
    await Promise.all([directory.close(), other.close()]);
    // They would look for changes each second of the months that pass here.
    const timerless = { ...clock, timer: () => () => undefined };
    directory = await open(timerless);
    other = await open(timerless);
    const stops = [directory, other].map((each) => keepKeysFresh({ directory: each, clock, log }));
    await clock.advance(0);
    const first = new Map<string, string>();
    for (const use of KEY_USES) first.set(use, (await directory.keyRing(use)).keys[0]!.keyId);
    await clock.advance(TICKET_KEY_LIFETIME_MS - 1);
    for (const use of KEY_USES) assert.equal((await other.keyRing(use)).keys[0]!.keyId, first.get(use), use);

    await clock.advance(KEY_AGE_CHECK_MS);
    assert.notEqual((await other.keyRing('tickets')).keys[0]!.keyId, first.get('tickets'));
    // In one step, as a machine that slept: what is due is done at the next look.
    await clock.advance(KEY_LIFETIME_MS);
    await clock.advance(KEY_AGE_CHECK_MS);
    for (const use of ['authority', 'token', 'session'] as const) {
      const { keys } = await other.keyRing(use);
      assert.deepEqual([keys.length, keys[1]!.keyId], [2, first.get(use)], use);
    }
    for (const stop of stops) stop();
    const last = (await directory.keyRing('tickets')).keys[0]!.keyId;
    await clock.advance(2 * TICKET_KEY_LIFETIME_MS);
    assert.equal((await directory.keyRing('tickets')).keys[0]!.keyId, last, 'stopped');
  });

  it('are accepted for longer than what they signed lives', () => {
    assert.ok(TOKEN_KEY_OVERLAP_MS > HOUR_MS);
    assert.ok(SESSION_KEY_OVERLAP_MS > 8 * HOUR_MS);
    assert.ok(REVOCATION_LIFETIME_MS > 8 * HOUR_MS);
    // Every runner has asked for its next membership, and got the published key with it.
    assert.ok(AUTHORITY_LEAD_MS >= MEMBERSHIP_LIFETIME_MS);
    assert.ok(TICKET_KEY_LIFETIME_MS + TICKET_KEY_LEAD_MS < 24 * HOUR_MS);
  });

  it('of files of older versions go on as they were', async () => {
    const old = join(place, 'old.sqlite');
    const database = new DatabaseSync(old);
    const [authority, token, replaced] = [createKey(), createKey(), createKey()];
    // The schema of version 2, as far as keys go.
    database.exec(`
      CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
      CREATE TABLE authority_keys (key_id TEXT PRIMARY KEY, jwk TEXT NOT NULL, created_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
      CREATE TABLE runners (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, organization TEXT, created_at INTEGER NOT NULL,
        public_key BLOB, joined_at INTEGER, revoked_at INTEGER
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE exchange_tokens (
        hash BLOB PRIMARY KEY, runner_id TEXT NOT NULL REFERENCES runners (id), created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL, used_key BLOB, revoked INTEGER NOT NULL DEFAULT 0
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE environments (
        id TEXT PRIMARY KEY, runner_id TEXT NOT NULL REFERENCES runners (id), epoch INTEGER NOT NULL,
        claimed_at INTEGER NOT NULL, released_at INTEGER, last_known TEXT
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE changes (sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL) STRICT;
      CREATE TABLE token_keys (
        key_id TEXT PRIMARY KEY, jwk TEXT NOT NULL, created_at INTEGER NOT NULL, replaced_at INTEGER
      ) STRICT, WITHOUT ROWID;
      PRAGMA user_version = 2;`);
    const now = clock.now();
    database.prepare('INSERT INTO settings VALUES (?, ?)').run('issuer', 'https://api.old.test');
    const jwk = (key: ReturnType<typeof createKey>): string => JSON.stringify(privateKeyToJwk(key));
    database.prepare('INSERT INTO authority_keys VALUES (?, ?, ?)').run('a', jwk(authority), now - 5);
    const insert = database.prepare('INSERT INTO token_keys VALUES (?, ?, ?, ?)');
    insert.run('t', jwk(token), now - 5, null);
    insert.run('r', jwk(replaced), now - 9, now - 5);
    database.close();

    const upgraded = await openEmbeddedDirectory({ clock, log }, { path: old, issuer: ISSUER });
    const { current, issuer } = await upgraded.authority();
    assert.deepEqual([current.keyId, issuer], ['a', 'https://api.old.test']);
    assert.deepEqual(Buffer.from(current.key.secretKey), Buffer.from(authority.secretKey));
    const { keys } = await upgraded.keyRing('token');
    assert.deepEqual(
      keys.map(({ keyId, acceptedUntil }) => [keyId, acceptedUntil]),
      [
        ['t', undefined],
        ['r', now - 5 + TOKEN_KEY_OVERLAP_MS],
      ],
    );
    const [first] = keys;
    assert.equal(keyFingerprint(keyFromSeed(first!.secret).publicKey), keyFingerprint(token.publicKey));
    await upgraded.close();
  });
});

describe('ticket keys', () => {
  it('change together at all gateways, some seconds after the new one was made', async () => {
    const sources = [
      await createTicketKeys({ directory, clock, log }),
      await createTicketKeys({ directory: other, clock, log }),
    ];
    const [one, two] = sources;
    const before = one!.current();
    assert.equal(before.length, 48);
    assert.deepEqual(two!.current(), before);
    const told: Buffer[][] = [[], []];
    sources.forEach((source, index) => source.onChange((key) => told[index]!.push(key)));

    await directory.rotateKeys('tickets');
    await clock.advance(CHANGE_POLL_MS);
    assert.deepEqual([one!.current(), two!.current()], [before, before], 'published only');
    await clock.advance(TICKET_KEY_LEAD_MS);
    assert.notDeepEqual(one!.current(), before);
    assert.deepEqual(two!.current(), one!.current());
    assert.deepEqual(told, [[one!.current()], [one!.current()]]);

    await directory.rotateKeys('tickets', { void: true });
    await clock.advance(CHANGE_POLL_MS);
    assert.deepEqual(
      told.map((keys) => keys.length),
      [2, 2],
    );
    sources.forEach((source) => source.close());
    await directory.rotateKeys('tickets', { void: true });
    await clock.advance(CHANGE_POLL_MS);
    assert.deepEqual(
      told.map((keys) => keys.length),
      [2, 2],
    );
  });
});

describe('what is signed for sessions', () => {
  const inAnHour = (): number => Math.floor(clock.now() / 1_000) + 3_600;
  const isInvalid = (error: unknown): boolean => error instanceof TokenError && error.code === 'invalid';

  it('is good at every gateway, for its use and type alone, until its end', async () => {
    const [here, there] = [createSigningKeys({ directory, clock }), createSigningKeys({ directory: other, clock })];
    const jwt = await here.sign('session', 'session+jwt', { sub: 'user-1', exp: inAnHour() });
    const payload = await there.verify('session', 'session+jwt', jwt);
    assert.deepEqual([payload.sub, payload.iss], ['user-1', ISSUER]);
    await assert.rejects(there.verify('session', 'code+jwt', jwt), isInvalid);
    await assert.rejects(there.verify('token', 'session+jwt', jwt), isInvalid);
    await assert.rejects(there.verify('session', 'session+jwt', `${jwt.slice(0, -4)}AAAA`), isInvalid);
    // Once verified it is remembered; it still ends in time.
    await clock.advance(HOUR_MS + 29_000);
    await there.verify('session', 'session+jwt', jwt);
    await clock.advance(2_000);
    await assert.rejects(
      there.verify('session', 'session+jwt', jwt),
      (error: unknown) => error instanceof TokenError && error.code === 'expired',
    );
    here.close();
    there.close();
  });

  it('outlives a rotation, and not a voided key, at gateways that were not told yet too', async () => {
    const [here, there] = [createSigningKeys({ directory, clock }), createSigningKeys({ directory: other, clock })];
    const sign = () => here.sign('session', 'session+jwt', { exp: inAnHour() });
    const old = await sign();
    await there.verify('session', 'session+jwt', old);
    await directory.rotateKeys('session');
    const fresh = await sign();
    assert.notEqual(decodeProtectedHeader(fresh).kid, decodeProtectedHeader(old).kid);
    await clock.advance(CHANGE_POLL_MS - 1);
    await there.verify('session', 'session+jwt', fresh);
    await there.verify('session', 'session+jwt', old);
    await directory.rotateKeys('session', { void: true });
    await clock.advance(CHANGE_POLL_MS);
    for (const jwt of [old, fresh]) await assert.rejects(there.verify('session', 'session+jwt', jwt), isInvalid);
    here.close();
    there.close();
  });
});

describe('the list of revocations', () => {
  it('is heard of by other gateways within seconds, and covers what was issued before', async () => {
    const [here, there] = [
      await createRevocations({ directory, clock, log }),
      await createRevocations({ directory: other, clock, log }),
    ];
    let told = 0;
    const stop = there.onChange(() => (told += 1));
    const session = { sessionId: 's1', user: 'u1', issuedAt: clock.now() };
    await here.revokeSession('s1');
    assert.equal(here.isRevoked(session), true);
    assert.equal(there.isRevoked(session), false);
    await clock.advance(CHANGE_POLL_MS);
    assert.equal(there.isRevoked(session), true);
    assert.equal(there.isRevoked({ ...session, sessionId: 's2' }), false);
    assert.equal(told, 1);

    await here.revokeUser('u1');
    await clock.advance(CHANGE_POLL_MS);
    assert.equal(there.isRevoked({ ...session, sessionId: 's2' }), true);
    assert.equal(there.isRevoked({ ...session, sessionId: 's2', user: 'u2' }), false);
    assert.equal(there.isRevoked({ ...session, sessionId: 's3', issuedAt: clock.now() }), false, 'signed in again');
    // A gateway that starts later knows as much.
    const late = await createRevocations({ directory, clock, log });
    assert.equal(late.isRevoked(session), true);
    await clock.advance(REVOCATION_LIFETIME_MS);
    assert.deepEqual(await directory.revocations(), []);
    stop();
    for (const each of [here, there, late]) each.close();
  });

  it('is read again when the directory did not answer', async () => {
    let isAway = false;
    const flaky: Pick<Directory, 'revoke' | 'revocations' | 'watch'> = {
      revoke: (revocation) => directory.revoke(revocation),
      revocations: () => (isAway ? Promise.reject(new Error('away')) : directory.revocations()),
      watch: (listener) => directory.watch(listener),
    };
    const revocations = await createRevocations({ directory: flaky, clock, log });
    isAway = true;
    const now = clock.now();
    await directory.revoke({ kind: 'session', subject: 's1', revokedAt: now, expiresAt: now + HOUR_MS });
    await clock.advance(5_000);
    const session = { sessionId: 's1', user: 'u1', issuedAt: now };
    assert.equal(revocations.isRevoked(session), false);
    isAway = false;
    await clock.advance(1_000);
    assert.equal(revocations.isRevoked(session), true);
    revocations.close();
  });
});
