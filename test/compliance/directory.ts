/** What every directory does, whatever keeps it. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { RefusedError, type Refusal } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { MEMBERSHIP_LIFETIME_MS, signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { environmentSchema, type Environment } from '../../shared/src/protocol/messages.ts';
import {
  CHANGE_POLL_MS,
  DirectoryConflictError,
  EXCHANGE_TOKEN_LIFETIME_MS,
  MAX_LIVE_ENVIRONMENTS,
  MAX_RELEASED_ENVIRONMENTS,
  RELEASED_NAME_RETENTION_MS,
  type Directory,
  type DirectoryChange,
} from '../../gateway/src/directory/directory.ts';
import {
  AUTHORITY_LEAD_MS,
  AUTHORITY_OVERLAP_MS,
  KEY_POLICIES,
  KEY_USES,
  MAX_PREVIOUS_KEYS,
  signingKey,
} from '../../gateway/src/directory/key-ring.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

/** One place to keep things, which several directories may open, as several processes do. */
export interface DirectoryStore {
  open(clock: ManualClock): Promise<Directory>;
  remove(): Promise<void>;
}

const environment = (id: string, over: object = {}): Environment => environmentSchema.parse({ id, ...over });
const numbered = (from: number, count: number): Environment[] =>
  Array.from({ length: count }, (_, index) => environment(`env-${from + index}`));
const newKey = (): Uint8Array => createKey().publicKey;

const refusedWith =
  (code: Refusal) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RefusedError, String(error));
    assert.equal(error.code, code);
    return true;
  };

export const directoryCompliance = (name: string, createStore: () => Promise<DirectoryStore>): void => {
  describe(`a directory kept in ${name}`, { timeout: 60_000 }, () => {
    let store: DirectoryStore;
    let clock: ManualClock;
    let directory: Directory;
    let opened: Directory[];

    const open = async (): Promise<Directory> => {
      const other = await store.open(clock);
      opened.push(other);
      return other;
    };
    beforeEach(async () => {
      clock = createManualClock();
      opened = [];
      store = await createStore();
      directory = await open();
    });
    afterEach(async () => {
      for (const each of opened) await each.close();
      await store.remove();
    });

    /** A runner that has joined. */
    const joined = async (organization?: string) => {
      const publicKey = newKey();
      const { runner, exchangeToken } = await directory.createRunner({
        name: 'one',
        ...(organization === undefined ? {} : { organization }),
      });
      await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey });
      return { id: runner.id, exchangeToken, publicKey };
    };
    const changesOf = (watched: Directory): DirectoryChange[] => {
      const changes: DirectoryChange[] = [];
      watched.watch((change) => changes.push(change));
      return changes;
    };

    describe('runners', () => {
      it('are made with an id, a name, an organization and a token of 256 bits for a day', async () => {
        const { runner, exchangeToken, expiresAt } = await directory.createRunner({
          name: 'web',
          organization: 'acme',
        });
        assert.match(exchangeToken, /^gpx_[A-Za-z0-9_-]{43}$/);
        assert.equal(expiresAt, clock.now() + 24 * 3_600_000);
        assert.deepEqual(await directory.runner(runner.id), {
          id: runner.id,
          name: 'web',
          organization: 'acme',
          createdAt: clock.now(),
          publicKey: undefined,
          joinedAt: undefined,
          revokedAt: undefined,
          issuer: undefined,
        });
        assert.equal(await directory.runner('nobody'), undefined);
        const other = await directory.createRunner({ name: 'web' });
        assert.notEqual(other.runner.id, runner.id);
        assert.notEqual(other.exchangeToken, exchangeToken);
        assert.deepEqual((await directory.runners()).map(({ id }) => id).sort(), [runner.id, other.runner.id].sort());
      });

      it('have a name and an organization that can be shown and signed', async () => {
        for (const input of [
          { name: '' },
          { name: 'a\nb' },
          { name: 'x'.repeat(101) },
          { name: 'a', organization: '' },
          { name: 'a', organization: 'a/b' },
        ]) {
          await assert.rejects(directory.createRunner(input), TypeError);
        }
      });

      it('pin the key that comes with the token', async () => {
        const { runner, exchangeToken } = await directory.createRunner({ name: 'one' });
        const publicKey = newKey();
        const enrolled = await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey });
        assert.deepEqual(Buffer.from(enrolled.publicKey!), Buffer.from(publicKey));
        assert.equal(enrolled.joinedAt, clock.now());
        assert.deepEqual(await directory.runner(runner.id), enrolled);
      });

      it('may ask again with the same token and key, as an answer may get lost, and with no other key', async () => {
        const { id: runnerId, exchangeToken, publicKey } = await joined();
        await directory.enrol({ runnerId, exchangeToken, publicKey });
        await assert.rejects(
          directory.enrol({ runnerId, exchangeToken, publicKey: newKey() }),
          refusedWith('token_used'),
        );
        assert.deepEqual(Buffer.from((await directory.runner(runnerId))!.publicKey!), Buffer.from(publicKey));
      });

      it('are refused with the reason', async () => {
        const one = await directory.createRunner({ name: 'one' });
        const two = await directory.createRunner({ name: 'two' });
        const { exchangeToken } = one;
        const runnerId = one.runner.id;
        const publicKey = newKey();
        const attempt = (over: object) => directory.enrol({ runnerId, exchangeToken, publicKey, ...over });
        await assert.rejects(attempt({ runnerId: 'nobody' }), refusedWith('runner_unknown'));
        await assert.rejects(attempt({ exchangeToken: `${exchangeToken}x` }), refusedWith('token_invalid'));
        await assert.rejects(attempt({ runnerId: two.runner.id }), refusedWith('runner_mismatch'));
        assert.equal((await directory.runner(two.runner.id))!.publicKey, undefined);
        await clock.advance(EXCHANGE_TOKEN_LIFETIME_MS);
        await assert.rejects(attempt({}), refusedWith('token_expired'));
        assert.equal((await directory.runner(runnerId))!.publicKey, undefined);
      });

      it('that ask at once with one token and different keys: exactly one wins', async () => {
        const other = await open();
        const { runner, exchangeToken } = await directory.createRunner({ name: 'one' });
        const keys = Array.from({ length: 20 }, newKey);
        const results = await Promise.allSettled(
          keys.map((publicKey, index) =>
            (index % 2 ? directory : other).enrol({ runnerId: runner.id, exchangeToken, publicKey }),
          ),
        );
        const winners = keys.filter((_, index) => results[index]!.status === 'fulfilled');
        assert.equal(winners.length, 1);
        for (const result of results) if (result.status === 'rejected') refusedWith('token_used')(result.reason);
        assert.deepEqual(Buffer.from((await other.runner(runner.id))!.publicKey!), Buffer.from(winners[0]!));
      });

      it('get another key with a new token, and the old key and tokens are worth nothing', async () => {
        const { id: runnerId, exchangeToken: oldToken, publicKey: oldKey } = await joined();
        const lost = await directory.createExchangeToken(runnerId);
        const { exchangeToken } = await directory.createExchangeToken(runnerId);
        const publicKey = newKey();
        await directory.enrol({ runnerId, exchangeToken, publicKey });
        assert.deepEqual(Buffer.from((await directory.runner(runnerId))!.publicKey!), Buffer.from(publicKey));
        await assert.rejects(
          directory.enrol({ runnerId, exchangeToken: oldToken, publicKey: oldKey }),
          refusedWith('key_mismatch'),
        );
        await assert.rejects(
          directory.enrol({ runnerId, exchangeToken: lost.exchangeToken, publicKey: newKey() }),
          refusedWith('token_invalid'),
        );
        await assert.rejects(directory.createExchangeToken('nobody'), refusedWith('runner_unknown'));
      });

      it('of another authority are learned with their first leg, and belong to it', async () => {
        const issuer = 'https://id.example';
        const publicKey = newKey();
        const changes = changesOf(directory);
        const learned = await directory.learnRunner({ id: 'r-1', organization: 'acme', issuer, publicKey });
        assert.deepEqual(changes, [{ kind: 'runner', runnerId: 'r-1' }]);
        assert.deepEqual([learned.organization, learned.issuer], ['acme', issuer]);
        assert.deepEqual(await directory.runner('r-1'), learned);
        await directory.learnRunner({ id: 'r-1', organization: 'acme', issuer, publicKey });
        assert.equal(changes.length, 1, 'the same again changes nothing');
        assert.equal((await directory.claim('r-1', [environment('demo')])).get('demo'), 'accepted');

        const replaced = await directory.learnRunner({ id: 'r-1', organization: 'acme', issuer, publicKey: newKey() });
        assert.notDeepEqual(replaced.publicKey, learned.publicKey);
        const own = await joined('acme');
        const attempt = (over: object) =>
          directory.learnRunner({ id: 'r-1', organization: 'acme', issuer, publicKey, ...over });
        await assert.rejects(attempt({ id: own.id }), refusedWith('runner_mismatch'));
        await assert.rejects(attempt({ issuer: 'https://other.example' }), refusedWith('runner_mismatch'));
        await assert.rejects(attempt({ organization: 'other' }), refusedWith('runner_mismatch'));
        await assert.rejects(directory.createExchangeToken('r-1'), refusedWith('runner_mismatch'));
        assert.equal((await directory.runner(own.id))!.issuer, undefined);
        await directory.revokeRunner('r-1');
        await assert.rejects(attempt({}), refusedWith('revoked'));
      });

      it('that are revoked stay out until they join with a new token', async () => {
        const { id: runnerId, exchangeToken: used, publicKey } = await joined();
        const { exchangeToken: unused } = await directory.createExchangeToken(runnerId);
        await directory.revokeRunner(runnerId);
        const revokedAt = clock.now();
        assert.equal((await directory.runner(runnerId))!.revokedAt, revokedAt);
        for (const exchangeToken of [used, unused]) {
          await assert.rejects(directory.enrol({ runnerId, exchangeToken, publicKey }), refusedWith('revoked'));
        }
        await assert.rejects(directory.claim(runnerId, [environment('a')]), refusedWith('revoked'));
        await clock.advance(1_000);
        await directory.revokeRunner(runnerId);
        assert.equal((await directory.runner(runnerId))!.revokedAt, revokedAt);

        const { exchangeToken } = await directory.createExchangeToken(runnerId);
        assert.equal((await directory.runner(runnerId))!.revokedAt, revokedAt);
        await directory.enrol({ runnerId, exchangeToken, publicKey: newKey() });
        assert.equal((await directory.runner(runnerId))!.revokedAt, undefined);
        await assert.rejects(directory.revokeRunner('nobody'), refusedWith('runner_unknown'));
      });
    });

    describe('environments', () => {
      it('belong to the runner that claims them first', async () => {
        const [one, two] = [await joined('acme'), await joined('acme')];
        const announced = environment('demo', { creator: 'u1', ports: [{ port: 3000, admission: 'everyone' }] });
        assert.deepEqual(await directory.claim(one.id, [announced]), new Map([['demo', 'accepted']]));
        assert.deepEqual(
          await directory.claim(two.id, [environment('demo'), environment('mine')]),
          new Map([
            ['demo', 'claimed'],
            ['mine', 'accepted'],
          ]),
        );
        const binding = (await directory.environment('demo'))!;
        assert.deepEqual(binding, {
          id: 'demo',
          runnerId: one.id,
          organization: 'acme',
          epoch: binding.epoch,
          claimedAt: clock.now(),
          releasedAt: undefined,
          lastKnown: announced,
        });
        assert.equal(await directory.environment('nothing'), undefined);
        assert.deepEqual(
          (await directory.environments()).map(({ id }) => id),
          ['demo', 'mine'],
        );
        assert.deepEqual(
          (await directory.environments({ runnerId: two.id })).map(({ id }) => id),
          ['mine'],
        );
        for (const [filter, ids] of [
          [{ creator: 'u1' }, ['demo']],
          [{ creator: 'u1', runnerId: two.id }, []],
          [{ creator: 'u' }, []],
          [{ creator: "' OR ''='" }, []],
        ] as const) {
          assert.deepEqual(
            (await directory.environments(filter)).map(({ id }) => id),
            ids,
          );
        }
        await assert.rejects(directory.claim('nobody', [announced]), refusedWith('runner_unknown'));
      });

      it('keep what was announced last, and their epoch, when they are announced again', async () => {
        const one = await joined();
        await directory.claim(one.id, [environment('demo')]);
        const { epoch } = (await directory.environment('demo'))!;
        const changed = environment('demo', { authNonce: 4, host: '10.0.0.9' });
        await directory.claim(one.id, [changed]);
        const binding = (await directory.environment('demo'))!;
        assert.deepEqual(binding.lastKnown, changed);
        assert.equal(binding.epoch, epoch);
      });

      it('of which one name is fought for by two runners at once go to exactly one', async () => {
        const other = await open();
        const [one, two] = [await joined(), await joined()];
        const results = await Promise.all([
          directory.claim(one.id, [environment('demo')]),
          other.claim(two.id, [environment('demo')]),
        ]);
        assert.deepEqual(results.map((result) => result.get('demo')).sort(), ['accepted', 'claimed']);
      });

      it('that were released stay bound for 30 days, for their runner to take up again', async () => {
        const [one, two] = [await joined(), await joined()];
        await directory.claim(one.id, [environment('demo'), environment('other')]);
        const { epoch } = (await directory.environment('demo'))!;
        await directory.release(two.id, ['demo']);
        assert.equal((await directory.environment('demo'))!.releasedAt, undefined);
        await directory.release(one.id, ['demo', 'nothing']);
        assert.equal((await directory.environment('demo'))!.releasedAt, clock.now());
        assert.equal((await directory.environment('other'))!.releasedAt, undefined);
        assert.deepEqual(await directory.claim(two.id, [environment('demo')]), new Map([['demo', 'claimed']]));

        assert.deepEqual(await directory.claim(one.id, [environment('demo')]), new Map([['demo', 'accepted']]));
        const again = (await directory.environment('demo'))!;
        assert.equal(again.releasedAt, undefined);
        assert.ok(again.epoch > epoch);
      });

      it('are free 30 days after their release, by the time that is stored', async () => {
        const [one, two] = [await joined(), await joined()];
        await directory.claim(one.id, [environment('demo')]);
        const { epoch } = (await directory.environment('demo'))!;
        await directory.release(one.id, ['demo']);
        const releasedAt = clock.now();
        clock.setWall(releasedAt + RELEASED_NAME_RETENTION_MS - 1);
        assert.deepEqual(await directory.claim(two.id, [environment('demo')]), new Map([['demo', 'claimed']]));
        clock.setWall(releasedAt + RELEASED_NAME_RETENTION_MS);
        assert.equal(await directory.environment('demo'), undefined);
        assert.deepEqual(await directory.environments(), []);
        assert.deepEqual(await directory.claim(two.id, [environment('demo')]), new Map([['demo', 'accepted']]));
        const taken = (await directory.environment('demo'))!;
        assert.equal(taken.runnerId, two.id);
        assert.ok(taken.epoch > epoch);
      });

      it('are at most 1,000 live ones a runner, and the others of the message are accepted', async () => {
        const one = await joined();
        const first = await directory.claim(one.id, numbered(0, MAX_LIVE_ENVIRONMENTS - 1));
        assert.ok([...first.values()].every((verdict) => verdict === 'accepted'));
        assert.deepEqual(
          await directory.claim(one.id, [environment('env-0'), environment('last'), environment('too-many')]),
          new Map([
            ['env-0', 'accepted'],
            ['last', 'accepted'],
            ['too-many', 'environment_limit'],
          ]),
        );
        await directory.release(one.id, ['env-0']);
        assert.equal((await directory.claim(one.id, [environment('too-many')])).get('too-many'), 'accepted');
        assert.equal((await directory.claim(one.id, [environment('env-0')])).get('env-0'), 'environment_limit');
      });

      it('are not claimed under new names without end, by releasing the old ones', async () => {
        const [one, two] = [await joined(), await joined()];
        for (let from = 0; from < MAX_RELEASED_ENVIRONMENTS; from += 1_000) {
          const batch = numbered(from, 1_000);
          await directory.claim(one.id, batch);
          await directory.release(
            one.id,
            batch.map(({ id }) => id),
          );
        }
        assert.equal((await directory.claim(one.id, [environment('new')])).get('new'), 'environment_limit');
        assert.equal((await directory.claim(one.id, [environment('env-7')])).get('env-7'), 'accepted');
        assert.equal((await directory.claim(two.id, [environment('new')])).get('new'), 'accepted');
      });

      it('can be given up by an operator', async () => {
        const [one, two] = [await joined(), await joined()];
        await directory.claim(one.id, [environment('demo')]);
        assert.equal(await directory.releaseEnvironment('demo'), true);
        assert.equal(await directory.releaseEnvironment('demo'), false);
        assert.equal(await directory.environment('demo'), undefined);
        assert.equal((await directory.claim(two.id, [environment('demo')])).get('demo'), 'accepted');
      });

      it('can be moved by an operator, within the organization', async () => {
        const [one, two, foreign] = [await joined('acme'), await joined('acme'), await joined('other')];
        await directory.claim(one.id, [environment('demo')]);
        const { epoch } = (await directory.environment('demo'))!;
        await directory.moveEnvironment('demo', two.id);
        const moved = (await directory.environment('demo'))!;
        assert.equal(moved.runnerId, two.id);
        assert.ok(moved.epoch > epoch);
        assert.equal((await directory.claim(one.id, [environment('demo')])).get('demo'), 'claimed');
        const conflict = (code: string) => (error: unknown) =>
          error instanceof DirectoryConflictError && error.code === code;
        await assert.rejects(directory.moveEnvironment('demo', foreign.id), conflict('organization_mismatch'));
        await assert.rejects(directory.moveEnvironment('nothing', two.id), conflict('environment_unknown'));
        await assert.rejects(directory.moveEnvironment('demo', 'nobody'), conflict('runner_unknown'));
        assert.equal((await directory.environment('demo'))!.runnerId, two.id);
      });
    });

    describe('authority', () => {
      it('is made once, and signs what its trust verifies', async () => {
        const other = await open();
        const [{ current, trust, issuer }, again] = await Promise.all([directory.authority(), other.authority()]);
        assert.deepEqual(again, { current, trust, issuer });
        assert.doesNotMatch(JSON.stringify(trust), /"d"/);
        const { publicKey } = createKey();
        const claims = { id: 'runner-1', organization: undefined, group: 'runner', publicKey } as const;
        const token = await signMembership(current, claims, { clock });
        const membership = await verifyMembership(
          token,
          { trust, issuer, group: 'runner', peerKey: publicKey },
          { clock },
        );
        assert.equal(membership.expiresAt, clock.now() + MEMBERSHIP_LIFETIME_MS);
      });
    });

    describe('key rings', () => {
      it('are made once, one for each use, with a key that signs', async () => {
        const other = await open();
        const seen = new Set<string>();
        for (const use of KEY_USES) {
          const [ring, again] = await Promise.all([directory.keyRing(use), other.keyRing(use)]);
          assert.deepEqual(again, ring);
          assert.deepEqual([ring.use, ring.issuer, ring.keys.length], [use, 'https://api.gateway.test', 1]);
          const key = signingKey(ring, clock.now());
          assert.equal(key.secret.length, use === 'tickets' ? 48 : 32);
          seen.add(key.keyId).add(Buffer.from(key.secret).toString('hex'));
        }
        assert.equal(seen.size, 2 * KEY_USES.length);
        assert.equal((await directory.authority()).issuer, 'https://api.gateway.test');
      });

      it('accept a replaced key for as long as what it signed lives, and then forget it', async () => {
        for (const use of ['token', 'session'] as const) {
          const [old] = (await directory.keyRing(use)).keys;
          const ring = await directory.rotateKeys(use);
          const { overlapMs } = KEY_POLICIES[use];
          assert.notEqual(signingKey(ring, clock.now()).keyId, old!.keyId);
          assert.deepEqual(ring.keys[1], { ...old, acceptedUntil: clock.now() + overlapMs });
          assert.deepEqual(await (await open()).keyRing(use), ring);
          await clock.advance(overlapMs - 1);
          assert.equal((await directory.keyRing(use)).keys.length, 2);
          await clock.advance(1);
          assert.deepEqual((await directory.keyRing(use)).keys, [ring.keys[0]]);
        }
      });

      it('publish a key of the authority before it signs', async () => {
        const before = await directory.authority();
        const { keys } = await directory.rotateKeys('authority');
        assert.equal(keys[0]!.signsFrom, clock.now() + AUTHORITY_LEAD_MS);
        const published = await directory.authority();
        assert.equal(published.current.keyId, before.current.keyId);
        assert.deepEqual(
          published.trust.keys.map(({ kid }) => kid),
          keys.map(({ keyId }) => keyId),
        );
        // Asked again while it is on its way: nothing more happens.
        assert.deepEqual((await directory.rotateKeys('authority')).keys, keys);
        await clock.advance(AUTHORITY_LEAD_MS);
        assert.equal((await directory.authority()).current.keyId, keys[0]!.keyId);
        assert.equal((await directory.authority()).trust.keys.length, 2);
        await clock.advance(AUTHORITY_OVERLAP_MS);
        assert.deepEqual(
          (await directory.authority()).trust.keys.map(({ kid }) => kid),
          [keys[0]!.keyId],
        );
      });

      it('are void at once when they are to be, however many keys there were', async () => {
        for (let count = 0; count < MAX_PREVIOUS_KEYS + 3; count++) {
          await directory.rotateKeys('token');
          await clock.advance(1);
        }
        const { keys } = await directory.keyRing('token');
        assert.equal(keys.length, 1 + MAX_PREVIOUS_KEYS);
        const until = keys.slice(1).map(({ acceptedUntil }) => acceptedUntil!);
        assert.deepEqual(
          until,
          [...until].sort((a, b) => b - a),
          'the latest first, so that the oldest went',
        );
        for (const use of KEY_USES) {
          const [newest] = (await directory.rotateKeys(use)).keys;
          const voided = await directory.rotateKeys(use, { void: true });
          assert.equal(voided.keys.length, 1);
          assert.equal(signingKey(voided, clock.now()).keyId, voided.keys[0]!.keyId);
          assert.notEqual(voided.keys[0]!.keyId, newest!.keyId);
          assert.equal(voided.keys[0]!.signsFrom, clock.now());
        }
      });

      it('get one new key when several processes find the same one too old', async () => {
        const others = [directory, await open(), await open()];
        const [old] = (await directory.keyRing('session')).keys;
        const rings = await Promise.all(others.map((each) => each.rotateKeys('session', { replaces: old!.keyId })));
        assert.equal(new Set(rings.map(({ keys }) => keys[0]!.keyId)).size, 1);
        assert.equal((await directory.keyRing('session')).keys.length, 2);
      });

      it('are told of, to other processes too', async () => {
        const other = await open();
        const changes = changesOf(other);
        await directory.keyRing('token');
        await directory.rotateKeys('session');
        await clock.advance(CHANGE_POLL_MS);
        assert.deepEqual(changes, [
          { kind: 'keys', use: 'token' },
          { kind: 'keys', use: 'session' },
          { kind: 'keys', use: 'session' },
        ]);
      });
    });

    describe('revocations', () => {
      it('are listed until they expire, by the time that is stored, and the later one counts', async () => {
        const now = clock.now();
        const session = { kind: 'session', subject: 's1', revokedAt: now, expiresAt: now + 1_000 } as const;
        const user = { kind: 'user', subject: 's1', revokedAt: now, expiresAt: now + 2_000 } as const;
        const other = await open();
        const changes = changesOf(other);
        await directory.revoke(session);
        await directory.revoke({ ...user, revokedAt: now + 5 });
        await directory.revoke(user);
        assert.deepEqual(await other.revocations(), [session, { ...user, revokedAt: now + 5 }]);
        await clock.advance(CHANGE_POLL_MS);
        assert.deepEqual([...new Set(changes.map(({ kind }) => kind))], ['revocations']);
        assert.deepEqual(
          (await directory.revocations()).map(({ kind }) => kind),
          ['user'],
        );
        await clock.advance(1_000);
        assert.deepEqual(await directory.revocations(), []);
      });
    });

    describe('watching', () => {
      it('tells what was changed here, before the change is answered', async () => {
        const one = await joined();
        const changes = changesOf(directory);
        await directory.claim(one.id, [environment('a'), environment('b')]);
        assert.deepEqual(changes.splice(0), [
          { kind: 'environment', environmentId: 'a' },
          { kind: 'environment', environmentId: 'b' },
        ]);
        await directory.claim(one.id, [environment('a')]);
        assert.deepEqual(changes.splice(0), [], 'nothing changed');
        await directory.release(one.id, ['a', 'a', 'nothing']);
        assert.deepEqual(changes.splice(0), [{ kind: 'environment', environmentId: 'a' }]);
        await directory.revokeRunner(one.id);
        assert.deepEqual(changes.splice(0), [{ kind: 'runner', runnerId: one.id }]);
      });

      it('tells what another process changed', async () => {
        const one = await joined();
        const other = await open();
        const changes = changesOf(directory);
        await other.revokeRunner(one.id);
        assert.deepEqual(changes, []);
        await clock.advance(CHANGE_POLL_MS);
        assert.deepEqual(changes.splice(0), [{ kind: 'runner', runnerId: one.id }]);
        await clock.advance(CHANGE_POLL_MS * 3);
        assert.deepEqual(changes, [], 'told once');
      });

      it('says that everything may be different when too much was missed', async () => {
        const one = await joined();
        const other = await open();
        const changes = changesOf(directory);
        for (let round = 0; round < 12; round++) {
          const batch = Array.from({ length: MAX_LIVE_ENVIRONMENTS }, (_, index) =>
            environment(`env-${index}`, { authNonce: round }),
          );
          await other.claim(one.id, batch);
        }
        await clock.advance(CHANGE_POLL_MS);
        assert.deepEqual(changes, [{ kind: 'all' }]);
      });

      it('ends when it is told to, and one watcher that fails harms no other', async () => {
        const seen: string[] = [];
        const stop = directory.watch(() => seen.push('stopped'));
        directory.watch(() => {
          throw new Error('a faulty watcher');
        });
        directory.watch(() => seen.push('told'));
        stop();
        await directory.createRunner({ name: 'one' });
        assert.deepEqual(seen, ['told']);
      });
    });

    it('keeps a list of what an operator has blocked, and tells of it', async () => {
      const changes = changesOf(directory);
      assert.deepEqual(await directory.blocks(), []);
      const demo = { kind: 'environment', subject: 'demo' } as const;
      const acme = { kind: 'organization', subject: 'acme' } as const;
      await directory.block(demo);
      const blockedAt = clock.now();
      await clock.advance(CHANGE_POLL_MS);
      await directory.block(acme);
      assert.deepEqual(await directory.blocks(), [
        { ...demo, blockedAt },
        { ...acme, blockedAt: clock.now() },
      ]);
      assert.deepEqual(changes.splice(0), [{ kind: 'blocks' }, { kind: 'blocks' }]);
      await directory.block(demo);
      assert.equal((await directory.blocks())[0]?.blockedAt, blockedAt, 'blocked since the first time');
      assert.deepEqual(changes.splice(0), []);

      const other = await open();
      assert.equal(await other.unblock(demo), true);
      assert.equal(await other.unblock(demo), false);
      assert.deepEqual(await directory.blocks(), [{ ...acme, blockedAt: clock.now() }]);
      await clock.advance(CHANGE_POLL_MS);
      assert.deepEqual(changes.splice(0), [{ kind: 'blocks' }]);
    });

    it('keeps everything for the next process', async () => {
      const one = await joined('acme');
      await directory.claim(one.id, [environment('demo')]);
      const before = [await directory.runners(), await directory.environments(), await directory.authority()];
      await directory.close();
      const next = await open();
      assert.deepEqual([await next.runners(), await next.environments(), await next.authority()], before);
    });

    it('answers with "unavailable" once it is closed, and closes twice', async () => {
      await directory.close();
      await directory.close();
      await assert.rejects(directory.runner('one'), refusedWith('unavailable'));
      await assert.rejects(directory.createRunner({ name: 'one' }), refusedWith('unavailable'));
    });
  });
};
