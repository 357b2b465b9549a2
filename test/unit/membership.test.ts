import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CompactSign, importJWK, SignJWT, UnsecuredJWT } from 'jose';
import { RefusedError, type Refusal } from '../../shared/src/errors.ts';
import { createKey, privateKeyToJwk, publicKeyToJwk } from '../../shared/src/identity/keys.ts';
import {
  CLOCK_TOLERANCE_MS,
  MEMBERSHIP_LIFETIME_MS,
  readMembership,
  signMembership,
  verifyMembership,
  type Authority,
  type Group,
} from '../../shared/src/identity/membership.ts';
import { createManualClock } from '../support/manual-clock.ts';

const HOUR_MS = 3_600_000;

const setUp = () => {
  const clock = createManualClock();
  const authority: Authority = { keyId: 'one', key: createKey(), issuer: 'https://api.gateway.test' };
  const trust = {
    keys: [
      { ...publicKeyToJwk(authority.key.publicKey), kid: 'one', alg: 'EdDSA', use: 'sig' } as Record<string, unknown>,
    ],
  };
  const key = createKey();
  const sign = (over: Partial<Parameters<typeof signMembership>[1]> = {}) =>
    signMembership(
      authority,
      { id: 'runner-1', organization: 'acme', group: 'runner', publicKey: key.publicKey, ...over },
      { clock },
    );
  const verify = (token: string, over: { group?: Group; issuer?: string; peerKey?: Uint8Array } = {}) =>
    verifyMembership(
      token,
      { trust, issuer: authority.issuer, group: 'runner', peerKey: key.publicKey, ...over },
      { clock },
    );
  return { clock, authority, trust, key, sign, verify };
};

const refusedWith =
  (code: Refusal) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RefusedError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };

/** Any claims and header, signed by the authority: what a faulty or hostile authority could hand out. */
const forge = async (authority: Authority, claims: Record<string, unknown>, header: Record<string, unknown> = {}) =>
  new SignJWT(claims)
    .setProtectedHeader({ alg: 'EdDSA', typ: 'membership+jwt', kid: authority.keyId, ...header })
    .sign(await importJWK({ ...privateKeyToJwk(authority.key) }, 'EdDSA'));

describe('membership', () => {
  it('says who a runner is, with and without an organization, and who a gateway is', async () => {
    const { clock, key, sign, verify } = setUp();
    const runner = await verify(await sign());
    assert.deepEqual(
      { ...runner, tokenId: undefined },
      {
        id: 'runner-1',
        organization: 'acme',
        group: 'runner',
        publicKey: key.publicKey,
        tokenId: undefined,
        issuer: 'https://api.gateway.test',
        issuedAt: clock.now(),
        expiresAt: clock.now() + MEMBERSHIP_LIFETIME_MS,
      },
    );
    assert.equal((await verify(await sign({ organization: undefined }))).organization, undefined);
    const gateway = await verify(await sign({ group: 'gateway', id: 'gw_1' }), { group: 'gateway' });
    assert.deepEqual([gateway.id, gateway.group, gateway.organization], ['gw_1', 'gateway', undefined]);
    assert.notEqual((await verify(await sign())).tokenId, runner.tokenId);
  });

  it('is not made for a subject that could be read as another', async () => {
    const { sign } = setUp();
    await assert.rejects(sign({ id: 'runner-1', organization: 'acme/rnr:x' }), TypeError);
    await assert.rejects(sign({ id: 'A B' }), TypeError);
    await assert.rejects(sign({ id: 'gtw:x', group: 'gateway' }), TypeError);
  });

  it('of one group is none of the other', async () => {
    const { sign, verify } = setUp();
    await assert.rejects(verify(await sign(), { group: 'gateway' }), refusedWith('membership_invalid'));
    await assert.rejects(verify(await sign({ group: 'gateway' })), refusedWith('membership_invalid'));
  });

  it('counts for the key it was given to only', async () => {
    const { sign, verify } = setUp();
    await assert.rejects(verify(await sign(), { peerKey: createKey().publicKey }), refusedWith('key_mismatch'));
  });

  it('counts for its cluster only', async () => {
    const { authority, key, sign, verify, clock } = setUp();
    await assert.rejects(verify(await sign(), { issuer: 'https://api.other.test' }), refusedWith('membership_invalid'));
    const claims = { id: 'runner-1', organization: undefined, group: 'runner', publicKey: key.publicKey } as const;
    const stranger = await signMembership({ ...authority, key: createKey() }, claims, { clock });
    await assert.rejects(verify(stranger), refusedWith('membership_invalid'));
    const unknownKey = await signMembership({ ...authority, keyId: 'two' }, claims, { clock });
    await assert.rejects(verify(unknownKey), refusedWith('membership_invalid'));
  });

  it('is valid until it expires, give or take the tolerance of clocks', async () => {
    const { clock, sign, verify } = setUp();
    const token = await sign();
    await clock.advance(MEMBERSHIP_LIFETIME_MS + CLOCK_TOLERANCE_MS - 1_000);
    await verify(token);
    await clock.advance(2_000);
    await assert.rejects(verify(token), refusedWith('membership_expired'));
  });

  it('of the future is a matter of clocks, and the refusal has the time', async () => {
    const { clock, sign, verify } = setUp();
    const token = await sign();
    clock.setWall(clock.now() - CLOCK_TOLERANCE_MS);
    await verify(token);
    clock.setWall(clock.now() - HOUR_MS);
    await assert.rejects(verify(token), (error: unknown) => {
      refusedWith('clock_skew')(error);
      assert.equal((error as RefusedError).serverTime, clock.now());
      return true;
    });
  });

  it('obeys nbf', async () => {
    const { authority, clock, sign, verify } = setUp();
    const claims = JSON.parse(Buffer.from((await sign()).split('.')[1]!, 'base64url').toString()) as Record<
      string,
      number
    >;
    const inAnHour = Math.floor(clock.now() / 1_000) + 3_600;
    await assert.rejects(verify(await forge(authority, { ...claims, nbf: inAnHour })), refusedWith('clock_skew'));
  });

  it('has one algorithm and one type, whatever its header says', async () => {
    const { authority, key, sign, trust, verify } = setUp();
    const token = await sign();
    const claims = JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString()) as Record<string, unknown>;
    const secret = Buffer.from(JSON.stringify(trust.keys[0]));
    const symmetric = await new CompactSign(Buffer.from(JSON.stringify(claims)))
      .setProtectedHeader({ alg: 'HS256', typ: 'membership+jwt', kid: 'one' })
      .sign(secret);
    const tampered = [...token.split('.')];
    tampered[1] = Buffer.from(JSON.stringify({ ...claims, sub: 'rnr:other' })).toString('base64url');
    const wrong = [
      new UnsecuredJWT(claims).encode(),
      symmetric,
      tampered.join('.'),
      await forge(authority, claims, { typ: 'JWT' }),
      '',
      'a.b.c',
      'x'.repeat(9_000),
    ];
    for (const text of wrong) await assert.rejects(verify(text), refusedWith('membership_invalid'), text.slice(0, 60));
    assert.equal((await verify(token)).publicKey.length, key.publicKey.length);
  });

  it('with missing or wrong claims is none', async () => {
    const { authority, sign, verify } = setUp();
    const claims = JSON.parse(Buffer.from((await sign()).split('.')[1]!, 'base64url').toString()) as Record<
      string,
      unknown
    >;
    await verify(await forge(authority, claims));
    const wrong: Record<string, unknown>[] = [
      { sub: undefined },
      { sub: 'org:acme/gtw:x' },
      { sub: 'org:other/rnr:runner-1' },
      { sub: 'rnr:runner-1' },
      { sub: 'org:acme/rnr:runner-1/rnr:x' },
      { org: undefined },
      { groups: [] },
      { groups: ['gateway'] },
      { groups: 'runner' },
      { cnf: undefined },
      { cnf: {} },
      { cnf: { jwk: { kty: 'RSA' } } },
      { iat: undefined },
      { exp: undefined },
      { exp: 'tomorrow' },
      { jti: undefined },
    ];
    for (const over of wrong) {
      const token = await forge(authority, { ...claims, ...over });
      await assert.rejects(verify(token), refusedWith('membership_invalid'), JSON.stringify(over));
    }
  });

  it('can be read by its owner without any key', async () => {
    const { clock, sign } = setUp();
    const { id, expiresAt } = readMembership(await sign());
    assert.deepEqual([id, expiresAt], ['runner-1', clock.now() + MEMBERSHIP_LIFETIME_MS]);
    assert.throws(() => readMembership('nonsense'), TypeError);
  });
});
