/** Logins, codes and chains of the sign-in, without a gateway around them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jwtVerify, SignJWT } from 'jose';
import { cookieOf, cookiesWith, deleteCookie, setCookie } from '../../gateway/src/access/cookies.ts';
import { chainedPorts, MAX_CHAINED_PORTS, MAX_REDIRECTS, redirectsOf } from '../../gateway/src/access/sign-in/chain.ts';
import { createLogins, LOGIN_LIFETIME_MS, MAX_LOGINS_UNDER_WAY } from '../../gateway/src/access/sign-in/login.ts';
import { CODE_LIFETIME_MS, createPortCodes, type PortCode } from '../../gateway/src/access/sign-in/port-code.ts';
import { hashOf, isRandomValue, randomValue } from '../../gateway/src/access/sign-in/random-value.ts';
import { MAX_RETURN_TO_LENGTH } from '../../gateway/src/access/sign-in/return-to.ts';
import { createSessions, SESSION_LIFETIME_MS } from '../../gateway/src/access/sign-in/session.ts';
import { MAX_JWT_LENGTH, TokenError, type SigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { environmentSchema, exposedPortSchema, type Admission } from '../../shared/src/protocol/messages.ts';
import { createManualClock } from '../support/manual-clock.ts';

const clock = createManualClock(1_800_000_000_000);
const SECRET = new TextEncoder().encode('a secret of this test, 32 bytes!');
/** The contract of signing keys with one key, and lengths as long as those of the real ones. */
const keys: Pick<SigningKeys, 'sign' | 'verify'> = {
  sign: (_use, typ, payload) =>
    new SignJWT({ ...payload, iss: 'https://api.gateway.example' })
      .setIssuedAt(Math.floor(clock.now() / 1_000))
      .setProtectedHeader({ alg: 'HS256', typ, kid: 'x'.repeat(16) })
      .sign(SECRET),
  async verify(_use, typ, jwt) {
    if (jwt.length > MAX_JWT_LENGTH) throw new TokenError('invalid');
    const options = { typ, currentDate: new Date(clock.now()), clockTolerance: 30 };
    return jwtVerify(jwt, SECRET, options).then(
      ({ payload }) => payload,
      (cause: unknown) => Promise.reject(new TokenError('invalid', { cause })),
    );
  },
};
const DOMAIN = 'gateway.example';
const cookieHeader = (...lines: string[]): string[] => [
  'Cookie',
  lines.map((line) => line.split(';', 1)[0]).join('; '),
];

test('a cookie that comes twice is none', () => {
  assert.equal(cookieOf(['Cookie', 'a=1; b=2'], 'b'), '2');
  assert.equal(cookieOf(['cookie', 'a=1', 'COOKIE', 'b=2=3'], 'b'), '2=3');
  assert.equal(cookieOf(['Cookie', 'b=1; b=2'], 'b'), undefined);
  assert.equal(cookieOf(['Cookie', 'b=1', 'Cookie', 'b=1'], 'b'), undefined);
  assert.equal(cookieOf(['Cookie', 'bb=1; b', 'X', 'b=1'], 'b'), undefined);
  assert.deepEqual(
    cookiesWith(['Cookie', 'a=1;b=2 ;c'], () => true).map(({ name, value }) => `${name}:${value}`),
    ['a:1', 'b:2'],
  );
  assert.equal(setCookie('n', 'v', 5_999), 'n=v; Max-Age=5; Path=/; Secure; HttpOnly; SameSite=Lax');
  assert.match(deleteCookie('n'), /^n=; Max-Age=0; Path=\/; Secure/);
});

test('a login is found again in the browser that began it, and nowhere else', async () => {
  const logins = createLogins({ keys, clock });
  const wanted = { returnTo: `https://3000--demo.${DOMAIN}/`, portState: randomValue(), fragment: true };
  const { login, cookies } = await logins.begin(wanted, { domain: DOMAIN, rawHeaders: [] });
  const rawHeaders = cookieHeader(...cookies);
  assert.deepEqual(await logins.find(login.state, { domain: DOMAIN, rawHeaders }), login);
  assert.deepEqual(login.wanted, wanted);
  assert.equal(new Set([login.state, login.nonce, login.codeVerifier]).size, 3);
  // RFC 7636 section 4.1: 43 to 128 characters of a small alphabet.
  assert.match(login.codeVerifier, /^[\w-]{43}$/);

  assert.equal(await logins.find(login.state, { domain: DOMAIN, rawHeaders: [] }), undefined);
  assert.equal(await logins.find(`${login.state}x`, { domain: DOMAIN, rawHeaders }), undefined);
  assert.equal(await logins.find(`${login.id}.${randomValue()}`, { domain: DOMAIN, rawHeaders }), undefined);
  assert.equal(await logins.find(login.state, { domain: 'other.example', rawHeaders }), undefined);
  const other = await logins.begin(undefined, { domain: DOMAIN, rawHeaders: [] });
  const swapped = other.cookies[0]!.replace(other.login.id, login.id);
  assert.equal(await logins.find(login.state, { domain: DOMAIN, rawHeaders: cookieHeader(swapped) }), undefined);
  await clock.advance(LOGIN_LIFETIME_MS + 31_000);
  assert.equal(await logins.find(login.state, { domain: DOMAIN, rawHeaders }), undefined);
});

test('of more logins than a browser is to keep, the oldest are forgotten', async () => {
  const logins = createLogins({ keys, clock });
  const jar = new Map<string, string>();
  const ids: string[] = [];
  for (let index = 0; index < 5; index += 1) {
    await clock.advance(1_000);
    const rawHeaders = ['Cookie', [...jar].map(([name, value]) => `${name}=${value}`).join('; ')];
    const { login, cookies } = await logins.begin(undefined, { domain: DOMAIN, rawHeaders });
    for (const line of cookies) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      if (value === '') jar.delete(name);
      else jar.set(name, value);
    }
    ids.push(login.id);
  }
  assert.equal(jar.size, MAX_LOGINS_UNDER_WAY);
  assert.deepEqual(
    [...jar.keys()].map((name) => name.slice('__Host-gitpod_login_'.length)),
    ids.slice(-MAX_LOGINS_UNDER_WAY),
  );
});

test('the longest cookies and codes stay below what browsers keep and keys read', async () => {
  const returnTo = `https://65535s--${'e'.repeat(50)}.${DOMAIN}/`.padEnd(MAX_RETURN_TO_LENGTH, 'x');
  const organizations = Array.from({ length: 64 }, (_, index) => `organization-${index + 10}`.padEnd(23, 'x'));
  const identity = {
    user: 'ü'.repeat(128),
    name: 'ü'.repeat(120),
    organizations,
    ignored: { unusable: 0, tooMany: 0 },
  };
  const sessions = createSessions({ keys, clock, revocations: { isRevoked: () => false } });
  const { session, cookie } = await sessions.begin(identity, DOMAIN);
  assert.ok(cookie.split(';', 1)[0]!.length <= 4_096);
  const { cookies } = await createLogins({ keys, clock }).begin(
    { returnTo, portState: randomValue(), fragment: true },
    { domain: DOMAIN, rawHeaders: [] },
  );
  assert.ok(cookies[0]!.split(';', 1)[0]!.length <= 4_096);
  const codes = createPortCodes({ keys, clock });
  const code: PortCode = {
    environmentId: 'e'.repeat(50),
    user: session.user,
    organizations: ['o'.repeat(64)],
    sessionId: session.sessionId,
    authNonce: Number.MAX_SAFE_INTEGER,
    issuedAt: clock.now(),
    expiresAt: clock.now() + SESSION_LIFETIME_MS,
    ports: Array.from({ length: MAX_CHAINED_PORTS + 1 }, (_, index) => ({
      port: 65_530 - index,
      state: randomValue(),
    })),
    returnTo,
  };
  assert.deepEqual(await codes.readCode(await codes.signCode(code)), code);
});

test('a session is read on its own domain, until it ends or is revoked', async () => {
  const revoked = new Set<string>();
  const revocations = { isRevoked: ({ sessionId }: { sessionId: string }) => revoked.has(sessionId) };
  const sessions = createSessions({ keys, clock, revocations });
  const identity = { user: 'ada', name: 'Ada', organizations: ['acme'], ignored: { unusable: 0, tooMany: 0 } };
  const { session, cookie } = await sessions.begin(identity, DOMAIN);
  const rawHeaders = cookieHeader(cookie);
  assert.deepEqual(await sessions.read(rawHeaders, DOMAIN), session);
  assert.equal(await sessions.read(rawHeaders, 'other.example'), undefined);
  assert.equal(await sessions.read(cookieHeader(cookie, cookie), DOMAIN), undefined);
  assert.equal(await sessions.read(['Cookie', `__Host-gitpod_session=${'x.y.z'}`], DOMAIN), undefined);
  revoked.add(session.sessionId);
  assert.equal(await sessions.read(rawHeaders, DOMAIN), undefined);
  revoked.clear();
  await clock.advance(SESSION_LIFETIME_MS + 31_000);
  assert.equal(await sessions.read(rawHeaders, DOMAIN), undefined);
});

test('codes and chains are each their own, and live for 60 s', async () => {
  const codes = createPortCodes({ keys, clock });
  const chain = {
    environmentId: 'demo',
    user: 'ada',
    sessionId: 's',
    ports: [8080],
    returnTo: 'r',
    state: randomValue(),
  };
  const jwt = await codes.signChain(chain);
  assert.deepEqual(await codes.readChain(jwt), chain);
  assert.equal(await codes.readCode(jwt), undefined);
  assert.equal(await codes.readChain(`${jwt}x`), undefined);
  await clock.advance(CODE_LIFETIME_MS + 1_000);
  assert.equal(await codes.readChain(jwt), undefined);
});

test('a random value and its hash are of one form', () => {
  const value = randomValue();
  assert.ok(isRandomValue(value) && isRandomValue(hashOf(value)));
  assert.notEqual(value, randomValue());
  assert.equal(hashOf(value), hashOf(value));
  for (const text of ['', value.slice(1), `${value}x`, `${value.slice(1)}.`]) assert.equal(isRandomValue(text), false);
});

test('a chain has the ports that the visitor may open and needs a session for', () => {
  const ports = (...list: [number, Admission][]) =>
    list.map(([port, admission]) => exposedPortSchema.parse({ port, admission }));
  const environment = environmentSchema.parse({
    id: 'demo',
    creator: 'grace',
    ports: ports(
      [3000, 'creator_only'],
      [3001, 'everyone'],
      [3002, 'organization'],
      [3003, 'creator_only'],
      [3004, 'organization'],
    ),
  });
  const owned = { environment, organization: 'acme' };
  const chain = (user: string, organizations: string[], redirectsBefore = 0, policy?: { portSharing: boolean }) =>
    chainedPorts({ user, organizations }, owned, policy && { highestAdmission: 'everyone', ...policy }, {
      wanted: 3000,
      redirectsBefore,
    });
  assert.deepEqual(chain('grace', []), [3002, 3003, 3004]);
  assert.deepEqual(chain('ada', ['acme']), [3002, 3004]);
  assert.deepEqual(chain('mallory', ['evil']), []);
  // With sharing off, the port that is announced for everyone needs a session too.
  assert.deepEqual(chain('grace', [], 0, { portSharing: false }), [3001, 3002, 3003, 3004]);
  assert.deepEqual(chain('ada', ['acme'], 0, { portSharing: false }), []);
  assert.deepEqual(chain('grace', [], 9), [3002]);
  assert.deepEqual(chain('grace', [], 12), []);
  const many = environmentSchema.parse({
    id: 'demo',
    creator: 'grace',
    ports: Array.from({ length: 20 }, (_, index) => ({ port: 4000 + index })),
  });
  for (let before = 0; before <= MAX_REDIRECTS; before += 1) {
    const list = chainedPorts(
      { user: 'grace', organizations: [] },
      { environment: many, organization: undefined },
      undefined,
      {
        wanted: 4000,
        redirectsBefore: before,
      },
    );
    assert.ok(list.length <= MAX_CHAINED_PORTS);
    if (list.length > 0) assert.ok(before + redirectsOf(list.length) <= MAX_REDIRECTS);
  }
});
