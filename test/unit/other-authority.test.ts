import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import {
  createOtherAuthority,
  ISSUER_KEYS_LIFETIME_MS,
  UNKNOWN_ISSUER_KEY_MS,
  type OtherAuthority,
} from '../../gateway/src/access/other-authority.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';
import { AUDIENCE, startOutsideAuthority, type OutsideAuthority } from '../support/outside-authority.ts';
import { until } from '../support/runner.ts';

const CLAIMS = { subject: 'sub', groups: 'groups', environment: 'env', port: 'port', scope: 'scope', user: 'sub' };

describe('the keys of another authority', { timeout: 30_000 }, () => {
  let clock: ManualClock;
  let issuer: OutsideAuthority;
  let opened: OtherAuthority[];
  const open = (ca: string | undefined = issuer.ca): OtherAuthority => {
    const config = { issuer: issuer.issuer, jwksUri: issuer.jwksUri, audience: AUDIENCE, only: false, claims: CLAIMS };
    const log = { info: () => undefined, warn: () => undefined };
    const authority = createOtherAuthority({ clock, log }, { ...config, ca: undefined }, { ca });
    opened.push(authority);
    return authority;
  };
  const kids = async (authority: OtherAuthority, keyId: string): Promise<unknown[]> =>
    (await authority.trust(keyId)).keys.map(({ kid }) => kid);

  beforeEach(async () => {
    clock = createManualClock();
    issuer = await startOutsideAuthority();
    opened = [];
  });
  afterEach(async () => {
    for (const authority of opened) await authority.close();
    await issuer.close();
  });

  it('are fetched once, by however many ask', async () => {
    const authority = open();
    const all = await Promise.all(Array.from({ length: 20 }, () => kids(authority, 'key-1')));
    assert.deepEqual(all[19], ['key-1']);
    assert.equal(issuer.asked(), 1);
  });

  it('are fetched again for a key that is not known, at most every 30 s', async () => {
    const authority = open();
    await kids(authority, 'key-1');
    await issuer.rotate();
    assert.deepEqual(await kids(authority, 'key-2'), ['key-1'], 'asked too soon');
    await clock.advance(UNKNOWN_ISSUER_KEY_MS);
    assert.deepEqual(await kids(authority, 'key-2'), ['key-2', 'key-1']);
    await clock.advance(UNKNOWN_ISSUER_KEY_MS);
    for (let count = 0; count < 50; count++) await kids(authority, `invented-${count}`);
    assert.equal(issuer.asked(), 3);
  });

  it('that the issuer removed are forgotten when they have become old', async () => {
    const authority = open();
    await kids(authority, 'key-1');
    await issuer.rotate({ alone: true });
    await clock.advance(ISSUER_KEYS_LIFETIME_MS);
    // Whoever asks then does not wait.
    assert.deepEqual(await kids(authority, 'key-1'), ['key-1']);
    await until(() => issuer.asked() === 2);
    await until(async () => (await kids(authority, 'key-2')).join() === 'key-2');
  });

  it('are kept while the issuer is away, however long', async () => {
    const authority = open();
    await kids(authority, 'key-1');
    issuer.isAway = true;
    for (let count = 0; count < 3; count++) {
      await clock.advance(ISSUER_KEYS_LIFETIME_MS);
      assert.deepEqual(await kids(authority, 'key-1'), ['key-1']);
    }
    await until(() => issuer.asked() >= 2);
  });

  it('that were never had are "unavailable", and soon asked for again', async () => {
    issuer.isAway = true;
    const authority = open();
    const isUnavailable = (error: unknown): boolean => error instanceof RefusedError && error.code === 'unavailable';
    await assert.rejects(authority.trust('key-1'), isUnavailable);
    assert.match(authority.problem() ?? '', /keys of https:\/\/id\.example cannot be fetched.*answered 503/);
    issuer.isAway = false;
    await clock.advance(UNKNOWN_ISSUER_KEY_MS);
    assert.deepEqual(await kids(authority, 'key-1'), ['key-1']);
    assert.equal(authority.problem(), undefined);
  });

  it('come from nobody whose certificate is not trusted', async () => {
    const stranger = await startOutsideAuthority();
    try {
      await assert.rejects(open(stranger.ca).trust('key-1'), RefusedError);
      assert.equal(issuer.asked(), 0);
    } finally {
      await stranger.close();
    }
  });
});
