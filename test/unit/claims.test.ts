import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  lacksClaims,
  MAX_ORGANIZATIONS,
  MAX_ORGANIZATIONS_LENGTH,
  readClaim,
  readIdentity,
} from '../../gateway/src/access/sign-in/claims.ts';

const NAMES = { user: 'sub', name: 'name', organizations: 'groups' };

test('a claim is found by its name, or by a path', () => {
  const claims = {
    sub: 'u',
    'https://example.com/groups': ['a'],
    realm_access: { roles: ['b'] },
    'x.y': 1,
    x: { y: 2 },
  };
  assert.equal(readClaim(claims, 'sub'), 'u');
  assert.deepEqual(readClaim(claims, 'https://example.com/groups'), ['a']);
  assert.deepEqual(readClaim(claims, 'realm_access.roles'), ['b']);
  assert.equal(readClaim(claims, 'x.y'), 1);
  for (const missing of ['nothing', 'realm_access.nothing', 'sub.length', 'toString', 'x.constructor']) {
    assert.equal(readClaim(claims, missing), undefined, missing);
  }
  assert.equal(lacksClaims({ sub: 'u', groups: [] }, NAMES), false);
  assert.equal(lacksClaims({ sub: 'u' }, NAMES), true);
});

test('organizations come as arrays, or as text with spaces or commas', () => {
  for (const groups of [
    ['acme', 'navy'],
    'acme navy',
    'acme,navy',
    ' acme , navy ',
    ['acme', 'navy', 'acme', 7, null],
  ]) {
    const identity = readIdentity({ sub: 'u', groups }, NAMES);
    assert.ok(typeof identity !== 'string');
    assert.deepEqual(identity.organizations, ['acme', 'navy']);
  }
  for (const groups of [undefined, null, {}, 3, '', []]) {
    const identity = readIdentity({ sub: 'u', groups }, NAMES);
    assert.ok(typeof identity !== 'string');
    assert.deepEqual(identity.organizations, []);
  }
});

test('organizations that cannot be one are left out, and counted; so are those that do not fit', () => {
  const odd = readIdentity({ sub: 'u', groups: ['/acme', 'a b', '', 'x'.repeat(65), 'ok', '"'] }, NAMES);
  assert.ok(typeof odd !== 'string');
  assert.deepEqual(odd.organizations, ['ok']);
  assert.deepEqual(odd.ignored, { unusable: 5, tooMany: 0 });
  const many = Array.from({ length: MAX_ORGANIZATIONS + 6 }, (_, index) => `org-${index}`);
  const cut = readIdentity({ sub: 'u', groups: many }, NAMES);
  assert.ok(typeof cut !== 'string');
  assert.deepEqual(cut.organizations, many.slice(0, MAX_ORGANIZATIONS));
  assert.equal(cut.ignored.tooMany, 6);
  const long = Array.from({ length: 40 }, (_, index) => `${'o'.repeat(60)}${index + 10}`);
  const short = readIdentity({ sub: 'u', groups: long }, NAMES);
  assert.ok(typeof short !== 'string');
  assert.ok(short.organizations.join('').length <= MAX_ORGANIZATIONS_LENGTH);
  assert.ok(short.organizations.length >= 20);
});

test('the user is text or a number, and nothing that looks like somebody else', () => {
  const user = (claims: Record<string, unknown>, name = 'sub') => {
    const identity = readIdentity(claims, { ...NAMES, user: name });
    return typeof identity === 'string' ? identity : identity.user;
  };
  assert.equal(user({ sub: 'ada' }), 'ada');
  assert.equal(user({ sub: 17 }), '17');
  for (const sub of [undefined, null, '', '  ', {}, ['a'], true]) assert.equal(user({ sub }), 'user_missing');
  assert.equal(user({ sub: 'a\nb' }), 'user_unusable');
  assert.equal(user({ sub: 'x'.repeat(257) }), 'user_unusable');
  assert.equal(user({ sub: 'ü'.repeat(129) }), 'user_unusable');
  assert.equal(user({ email: 'a@b.test', email_verified: false }, 'email'), 'email_unverified');
  assert.equal(user({ email: 'a@b.test', email_verified: true }, 'email'), 'a@b.test');
  assert.equal(user({ email: 'a@b.test' }, 'email'), 'a@b.test');
});

test('a name that is missing or unprintable is the user, a long one is cut', () => {
  const name = (value: unknown) => {
    const identity = readIdentity({ sub: 'ada', name: value }, NAMES);
    return typeof identity === 'string' ? identity : identity.name;
  };
  assert.equal(name('Ada Lovelace'), 'Ada Lovelace');
  for (const value of [undefined, '', '\u0007', ['x']]) assert.equal(name(value), 'ada');
  assert.equal(name('x'.repeat(500)).length, 120);
});
