import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  admissionOf,
  exposedPort,
  isOpenToEveryone,
  mayOpen,
  narrowedBy,
  type AdmissionPolicy,
  type Visitor,
} from '../../gateway/src/access/admission.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';
import { ADMISSIONS, environmentSchema } from '../../shared/src/protocol/messages.ts';

const environment = environmentSchema.parse({
  id: 'demo',
  creator: 'ada',
  ports: [
    { port: 3000, admission: 'everyone' },
    { port: 3001, admission: 'organization' },
    { port: 3002, admission: 'creator_only' },
    { port: 3003 },
  ],
});
const ada: Visitor = { user: 'ada', organizations: [] };
const member: Visitor = { user: 'bob', organizations: ['other', 'acme'] };
const outsider: Visitor = { user: 'eve', organizations: ['other'] };
const OPEN: AdmissionPolicy = { portSharing: true, highestAdmission: 'everyone' };

const may = (visitor: Visitor | undefined, port: number, organization?: string, policy?: AdmissionPolicy): boolean =>
  mayOpen(visitor, { environment, organization }, exposedPort(environment, port), policy);

test('a port that is open to everyone is open to somebody unknown', () => {
  for (const visitor of [undefined, ada, member, outsider]) assert.equal(may(visitor, 3000, 'acme'), true);
});

test('a port of the organization is for its members and the creator', () => {
  assert.deepEqual(
    [undefined, ada, member, outsider].map((visitor) => may(visitor, 3001, 'acme')),
    [false, true, true, false],
  );
});

test('without an organization, a port for the organization is the creator’s', () => {
  assert.deepEqual(
    [undefined, ada, member].map((visitor) => may(visitor, 3001)),
    [false, true, false],
  );
});

test('a port for the creator, one without an admission and one that is not exposed are for the creator alone', () => {
  for (const port of [3002, 3003, 4000]) {
    assert.deepEqual(
      [undefined, ada, member, outsider].map((visitor) => may(visitor, port, 'acme')),
      [false, true, false, false],
    );
  }
});

test('an environment without a creator is nobody’s', () => {
  const nobodys = environmentSchema.parse({ id: 'demo', ports: [{ port: 3002 }] });
  const owned = { environment: nobodys, organization: 'acme' };
  for (const visitor of [undefined, ada, { user: '', organizations: ['acme'] }]) {
    assert.equal(mayOpen(visitor, owned, exposedPort(nobodys, 3002), undefined), false);
  }
});

test('an organization can close what its runners open, never open more', () => {
  const narrowest = (policy: AdmissionPolicy): string[] => environment.ports.map((port) => admissionOf(port, policy));
  assert.deepEqual(narrowest(OPEN), ['everyone', 'organization', 'creator_only', 'creator_only']);
  assert.deepEqual(narrowest({ ...OPEN, highestAdmission: 'organization' }), [
    'organization',
    'organization',
    'creator_only',
    'creator_only',
  ]);
  for (const policy of [
    { ...OPEN, highestAdmission: 'creator_only' },
    { ...OPEN, portSharing: false },
  ] satisfies AdmissionPolicy[]) {
    assert.deepEqual(new Set(narrowest(policy)), new Set(['creator_only']));
    assert.equal(may(member, 3001, 'acme', policy), false);
    assert.equal(may(ada, 3000, 'acme', policy), true);
  }
  for (const admission of ADMISSIONS) {
    assert.equal(admissionOf(undefined, { portSharing: true, highestAdmission: admission }), 'creator_only');
  }
});

test('a runner is told what of its announcement is served narrower', () => {
  const owned = { environment, organization: 'acme' };
  assert.equal(narrowedBy(owned, undefined), undefined);
  assert.equal(narrowedBy(owned, OPEN), undefined);
  assert.equal(
    narrowedBy(owned, { ...OPEN, portSharing: false }),
    'the policy of the organization acme serves port 3000 as creator_only instead of everyone, 3001 as creator_only instead of organization',
  );
});

test('what is not known to be open is not open', () => {
  const owner = { runnerId: 'r', organization: 'acme' };
  const online: EnvironmentRoute = { kind: 'online', ...owner, environment, legs: [] };
  const offline: EnvironmentRoute = { kind: 'offline', ...owner, environment };
  for (const route of [online, offline]) {
    assert.equal(isOpenToEveryone(route, 3000, undefined), true);
    assert.equal(isOpenToEveryone(route, 3000, { ...OPEN, portSharing: false }), false);
    for (const port of [3001, 3002, 3003, 4000]) assert.equal(isOpenToEveryone(route, port, undefined), false);
  }
  assert.equal(isOpenToEveryone({ kind: 'unknown' }, 3000, undefined), false);
  assert.equal(isOpenToEveryone({ kind: 'offline', ...owner, environment: undefined }, 3000, undefined), false);
});
