import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { beforeEach, describe, it } from 'node:test';
import { decodeJwt, decodeProtectedHeader, importJWK, SignJWT, type JWTHeaderParameters, type JWTPayload } from 'jose';
import { createLogAccess, logCredential, LOGS_COOKIE } from '../../gateway/src/access/log-access.ts';
import {
  createSigningKeys,
  MAX_JWT_LENGTH,
  TokenError,
  UNKNOWN_KEY_RECHECK_MS,
  type SigningKeys,
} from '../../gateway/src/access/signing-keys.ts';
import {
  createTokenVerifier,
  issueToken,
  TOKEN_LIFETIME_MS,
  type TokenClaims,
  type TokenVerifier,
} from '../../gateway/src/access/tokens.ts';
import type { Directory, DirectoryChange } from '../../gateway/src/directory/directory.ts';
import {
  firstKey,
  rotated,
  signingKey,
  TOKEN_KEY_OVERLAP_MS,
  type KeyUse,
  type RingKey,
} from '../../gateway/src/directory/key-ring.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { keyFromSeed, privateKeyToJwk, publicKeyToJwk } from '../../shared/src/identity/keys.ts';
import { CLOCK_TOLERANCE_MS } from '../../shared/src/identity/membership.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

const ISSUER = 'https://api.gateway.test';
/** The part of a directory that has keys; it counts how often it was asked, and can be away. */
const createKeeper = (clock: ManualClock) => {
  const rings = new Map<KeyUse, readonly RingKey[]>([
    ['token', [firstKey('token', clock.now())]],
    ['session', [firstKey('session', clock.now())]],
  ]);
  const listeners = new Set<(change: DirectoryChange) => void>();
  const keeper = {
    asked: 0,
    isAway: false,
    /** The key that signs tokens now. */
    get current() {
      const { keyId, secret } = signingKey({ keys: rings.get('token')! }, clock.now());
      return { keyId, key: keyFromSeed(secret) };
    },
    directory: {
      async keyRing(use) {
        keeper.asked += 1;
        if (keeper.isAway) throw new RefusedError('unavailable');
        return { use, issuer: ISSUER, keys: rings.get(use)! };
      },
      watch(listener) {
        listeners.add(listener);
        return () => void listeners.delete(listener);
      },
    } satisfies Pick<Directory, 'keyRing' | 'watch'>,
    rotate(options: { tell: boolean; use?: KeyUse; void?: boolean }) {
      const { use = 'token', ...rest } = options;
      rings.set(use, rotated(use, rings.get(use)!, clock.now(), rest));
      if (options.tell) for (const listener of listeners) listener({ kind: 'keys', use });
    },
    watchers: () => listeners.size,
  };
  return keeper;
};

let clock: ManualClock;
let keeper: ReturnType<typeof createKeeper>;
let keys: SigningKeys;
let verifier: TokenVerifier;
beforeEach(() => {
  clock = createManualClock();
  keeper = createKeeper(clock);
  keys = createSigningKeys({ directory: keeper.directory, clock });
  verifier = createTokenVerifier({ keys, clock });
});
/** A process of its own: it reads the keys as they are. */
const issuing = async (directory: Pick<Directory, 'keyRing' | 'watch'>, claims: TokenClaims): Promise<string> => {
  const makers = createSigningKeys({ directory, clock });
  const { token } = await issueToken(makers, claims, { clock });
  makers.close();
  return token;
};

const issue = async (claims: Partial<TokenClaims> = {}): Promise<string> => {
  const { asked, isAway } = keeper;
  keeper.isAway = false;
  const token = await issuing(keeper.directory, { scope: 'logs', environmentId: 'demo', ...claims });
  Object.assign(keeper, { asked, isAway });
  return token;
};

const tokenError = (code: TokenError['code']) => (error: unknown) => {
  assert.ok(error instanceof TokenError, String(error));
  assert.equal(error.code, code);
  return true;
};
const isInvalid = (token: string) => assert.rejects(verifier.verify(token), tokenError('invalid'));

/** A token that the current key has signed, with anything in it. */
const forge = async (payload: JWTPayload = {}, header: Partial<JWTHeaderParameters> = {}): Promise<string> => {
  const now = Math.floor(clock.now() / 1_000);
  const { current } = keeper;
  return new SignJWT({
    iss: ISSUER,
    aud: 'demo',
    env: 'demo',
    scope: 'logs',
    iat: now,
    exp: now + 3_600,
    jti: 'one',
    ...payload,
  })
    .setProtectedHeader({ alg: 'EdDSA', kid: current.keyId, typ: 'gitpod-logs+jwt', ...header })
    .sign(await importJWK({ ...privateKeyToJwk(current.key) }, 'EdDSA'));
};

describe('tokens', () => {
  it('carry environment, scope, port and user, and are typed by what may read them', async () => {
    for (const [claims, typ] of [
      [{ scope: 'logs' }, 'gitpod-logs+jwt'],
      [{ scope: 'ops', user: 'user-1' }, 'gitpod-logs+jwt'],
      [{ scope: 'port', port: 3000, user: 'user-1' }, 'gitpod-port+jwt'],
    ] as const) {
      const token = await issue(claims);
      assert.deepEqual(decodeProtectedHeader(token), { alg: 'EdDSA', typ, kid: keeper.current.keyId });
      const { exp, iat, aud, iss } = decodeJwt(token);
      assert.deepEqual([exp! - iat!, aud, iss], [3_600, 'demo', ISSUER]);
      const { tokenId, ...verified } = await verifier.verify(token);
      assert.match(tokenId, /^[\w-]{22}$/);
      assert.deepEqual(verified, {
        environmentId: 'demo',
        port: undefined,
        user: undefined,
        issuedAt: clock.now(),
        expiresAt: clock.now() + TOKEN_LIFETIME_MS,
        ...claims,
      });
    }
    assert.notEqual((await verifier.verify(await issue())).tokenId, (await verifier.verify(await issue())).tokenId);
  });

  it('are not made with claims that no gateway would accept', async () => {
    for (const claims of [
      { scope: 'port' },
      { scope: 'port', port: 22_999 },
      { scope: 'port', port: 80 },
      { scope: 'logs', port: 3000 },
      { scope: 'logs', environmentId: 'Not-An-Id' },
      { scope: 'logs', user: '' },
      { scope: 'logs', user: 'x'.repeat(257) },
    ] as const) {
      await assert.rejects(issue(claims), TypeError, JSON.stringify(claims));
    }
  });

  it('live for an hour', async () => {
    const token = await issue();
    await clock.advance(TOKEN_LIFETIME_MS + CLOCK_TOLERANCE_MS - 1_000);
    await verifier.verify(token);
    await clock.advance(1_000);
    await assert.rejects(verifier.verify(token), tokenError('expired'));
  });

  it('are refused with another algorithm, key, type, issuer or shape', async () => {
    const { current } = keeper;
    await verifier.verify(await forge());
    const [head, body, signature] = (await forge()).split('.') as [string, string, string];
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const header = { alg: 'EdDSA', kid: current.keyId, typ: 'gitpod-logs+jwt' };

    await isInvalid(`${encode({ ...header, alg: 'none' })}.${body}.`);
    await isInvalid(`${encode({ ...header, alg: 'none' })}.${body}.${signature}`);
    // The public key as the secret of an HMAC (RFC 8725 section 2.1).
    for (const secret of [
      current.key.publicKey,
      Buffer.from(JSON.stringify(publicKeyToJwk(current.key.publicKey))),
    ] as const) {
      const hs256 = `${encode({ ...header, alg: 'HS256' })}.${body}`;
      await isInvalid(`${hs256}.${createHmac('sha256', secret).update(hs256).digest('base64url')}`);
    }
    const { keyId: strangerId, secret } = firstKey('token', clock.now());
    const stranger = { keyId: strangerId, key: keyFromSeed(secret) };
    const strangers = await new SignJWT(decodeJwt(`${head}.${body}.${signature}`))
      .setProtectedHeader(header)
      .sign(await importJWK({ ...privateKeyToJwk(stranger.key) }, 'EdDSA'));
    await isInvalid(strangers);
    await isInvalid(await forge({}, { kid: stranger.keyId }));
    await isInvalid(await forge({}, { jwk: publicKeyToJwk(stranger.key.publicKey), kid: stranger.keyId }));
    await isInvalid(await forge({}, { crit: ['unheard-of'], 'unheard-of': true }).catch(() => 'x.y.z'));

    await isInvalid(await forge({}, { typ: 'gitpod-port+jwt' }));
    await isInvalid(await forge({}, { typ: 'membership+jwt' }));
    await isInvalid(await forge({ scope: 'port', port: 3000 }));
    await isInvalid(await forge({ scope: 'everything' }));
    await isInvalid(await forge({ iss: 'https://api.other.test' }));
    await isInvalid(await forge({ aud: 'other' }));
    await isInvalid(await forge({ aud: ['demo', 'other'] }));
    await isInvalid(await forge({ port: 3000 }));
    const now = Math.floor(clock.now() / 1_000);
    await isInvalid(await forge({ exp: now + 3_601 }));
    await isInvalid(await forge({ iat: now + 31, exp: now + 60 }));
    await isInvalid(await forge({ nbf: now + 31 }));
    for (const claim of ['aud', 'env', 'scope', 'iat', 'exp', 'jti'])
      await isInvalid(await forge({ [claim]: undefined }));

    await isInvalid(`${head}.${encode({ ...decodeJwt(`${head}.${body}.${signature}`), env: 'other' })}.${signature}`);
    for (const text of ['', '.', '..', 'a.b.c', '\0', head, `${head}.${body}`, `${'a'.repeat(MAX_JWT_LENGTH)}.b.c`]) {
      await isInvalid(text);
    }
  });

  it('of a key that was replaced are accepted for the overlap, which is longer than they live', async () => {
    const old = await issue();
    keeper.rotate({ tell: true });
    const replaced = keeper.current;
    const fresh = await issue();
    await Promise.all([verifier.verify(old), verifier.verify(fresh)]);
    assert.ok(TOKEN_KEY_OVERLAP_MS >= TOKEN_LIFETIME_MS + CLOCK_TOLERANCE_MS);
    // A token of the old key that claims to be younger than the key's end.
    const before = await forge();
    keeper.rotate({ tell: true });
    await verifier.verify(before);
    await clock.advance(TOKEN_KEY_OVERLAP_MS);
    const payload = {
      ...decodeJwt(before),
      iat: Math.floor(clock.now() / 1_000),
      exp: Math.floor(clock.now() / 1_000) + 60,
    };
    const young = await new SignJWT(payload)
      .setProtectedHeader(decodeProtectedHeader(before) as JWTHeaderParameters)
      .sign(await importJWK({ ...privateKeyToJwk(replaced.key) }, 'EdDSA'));
    await isInvalid(young);
  });

  it('of a key that was removed are refused at once, also those that were verified before', async () => {
    const old = await issue();
    await verifier.verify(old);
    keeper.rotate({ tell: true, void: true });
    await isInvalid(old);
    await verifier.verify(await issue());
  });
});

describe('the key ring', () => {
  it('is read once, and again when its keys have changed', async () => {
    const token = await issue();
    await Promise.all([verifier.verify(token), verifier.verify(token)]);
    await verifier.verify(token);
    assert.equal(keeper.asked, 1);
    keeper.rotate({ tell: true });
    await verifier.verify(token);
    assert.equal(keeper.asked, 2);
  });

  it('finds a key of which it was not told yet, but asks for invented ones at most so often', async () => {
    await verifier.verify(await issue());
    await clock.advance(UNKNOWN_KEY_RECHECK_MS);
    keeper.rotate({ tell: false });
    await verifier.verify(await issue());
    assert.equal(keeper.asked, 2);
    for (let count = 0; count < 100; count++) await isInvalid(await forge({}, { kid: `invented-${count}` }));
    assert.equal(keeper.asked, 2);
    await clock.advance(UNKNOWN_KEY_RECHECK_MS);
    await isInvalid(await forge({}, { kid: 'invented' }));
    assert.equal(keeper.asked, 3);
  });

  it('keeps what it knows while the directory is away, and stops watching when it is closed', async () => {
    keeper.isAway = true;
    const token = await issue();
    await assert.rejects(
      verifier.verify(token),
      (error) => error instanceof RefusedError && error.code === 'unavailable',
    );
    keeper.isAway = false;
    await verifier.verify(token);
    keeper.isAway = true;
    keeper.rotate({ tell: true });
    await verifier.verify(token);
    keeper.isAway = false;
    await verifier.verify(await issue());
    keys.close();
    assert.equal(keeper.watchers(), 0);
  });
});

describe('access to a log host', () => {
  const bearer = (token: string): string[] => ['Authorization', `Bearer ${token}`];
  const cookie = (token: string, site?: string): string[] => [
    'Cookie',
    `a=b; ${LOGS_COOKIE}=${token}; c=d`,
    ...(site === undefined ? [] : ['Sec-Fetch-Site', site]),
  ];
  const check = async (rawHeaders: string[], scope: 'logs' | 'ops' = 'logs') => {
    const result = await createLogAccess({ verifier })(logCredential(rawHeaders), { environmentId: 'demo', scope });
    return result.allow ? 'allowed' : result.error;
  };

  it('needs a token of the environment and the scope', async () => {
    assert.equal(await check([]), 'token_required');
    assert.equal(await check(bearer(await issue())), 'allowed');
    assert.equal(await check(['authorization', `bEARER   ${await issue()} `]), 'allowed');
    assert.equal(await check(bearer(await issue({ environmentId: 'other' }))), 'token_forbidden');
    assert.equal(await check(bearer(await issue({ scope: 'ops' }))), 'token_forbidden');
    assert.equal(await check(bearer(await issue({ scope: 'port', port: 3000 }))), 'token_forbidden');
    assert.equal(await check(bearer(await issue()), 'ops'), 'token_forbidden');
    assert.equal(await check(bearer(await issue({ scope: 'ops' })), 'ops'), 'allowed');
    const old = await issue();
    await clock.advance(2 * TOKEN_LIFETIME_MS);
    assert.equal(await check(bearer(old)), 'token_expired');
  });

  it('takes any other Authorization for a wrong one, whatever cookie comes with it', async () => {
    const good = cookie(await issue(), 'same-origin');
    assert.equal(await check(good), 'allowed');
    for (const value of [
      'Basic dXNlcjpwYXNz',
      'Bearer',
      'Bearer ',
      await issue(),
      `Bearer ${await issue()}, Bearer x`,
    ]) {
      assert.equal(await check(['Authorization', value, ...good]), 'token_invalid', value);
    }
    assert.equal(await check([...bearer(await issue()), ...bearer(await issue())]), 'token_invalid');
  });

  it('takes the cookie for requests of its own origin only', async () => {
    const token = await issue();
    for (const [site, expected] of [
      ['same-origin', 'allowed'],
      ['none', 'allowed'],
      ['same-site', 'token_required'],
      ['cross-site', 'token_required'],
      ['', 'token_required'],
      [undefined, 'token_required'],
    ] as const) {
      assert.equal(await check(cookie(token, site)), expected, `Sec-Fetch-Site: ${site}`);
    }
    assert.equal(await check(['Cookie', `x${LOGS_COOKIE}=${token}`, 'Sec-Fetch-Site', 'none']), 'token_required');
    assert.equal(await check(['Cookie', `x=y`, ...cookie(token, 'none')]), 'allowed');
  });

  it('is unavailable, not refused, while the keys cannot be read', async () => {
    keeper.isAway = true;
    assert.equal(await check(bearer(await issue())), 'directory_unavailable');
  });
});
