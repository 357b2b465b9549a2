import assert from 'node:assert/strict';
import { test } from 'node:test';
import { admit, type AdmissionPolicy } from '../../gateway/src/access/admission.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';

const environment = environmentSchema.parse({
  id: 'demo',
  ports: [
    { port: 3000, admission: 'everyone' },
    { port: 3001, admission: 'organization' },
    { port: 3002, admission: 'creator_only' },
    { port: 3003 },
  ],
});
const owner = { runnerId: 'r', organization: undefined };
const online: EnvironmentRoute = { kind: 'online', ...owner, environment, legs: [] };
const offline: EnvironmentRoute = { kind: 'offline', ...owner, environment };
const verdict = (route: EnvironmentRoute, port: number, policy?: AdmissionPolicy): string => {
  const result = admit(route, port, policy);
  return result.allow ? 'allow' : result.error;
};

test('only ports that are open to everyone are served', () => {
  assert.equal(verdict(online, 3000), 'allow');
  for (const port of [3001, 3002, 3003]) {
    assert.equal(verdict(online, port), 'sign_in_required');
    assert.equal(verdict(offline, port), 'sign_in_required', 'offline is not a way around it');
  }
});

test('existence, then availability', () => {
  assert.equal(verdict({ kind: 'unknown' }, 3000), 'unknown_environment');
  assert.equal(verdict(offline, 3000), 'runner_offline');
  assert.equal(verdict(offline, 4000), 'runner_offline');
  assert.equal(verdict(online, 4000), 'port_not_exposed');
});

test('an environment of which nothing is known is private', () => {
  assert.equal(verdict({ kind: 'offline', ...owner, environment: undefined }, 3000), 'sign_in_required');
});

test('an organization can close what its runners open, never open more', () => {
  const open: AdmissionPolicy = { portSharing: true, highestAdmission: 'everyone' };
  assert.equal(verdict(online, 3000, open), 'allow');
  assert.equal(verdict(online, 3001, open), 'sign_in_required');
  for (const policy of [
    { ...open, portSharing: false },
    { ...open, highestAdmission: 'organization' },
    { ...open, highestAdmission: 'creator_only' },
  ] satisfies AdmissionPolicy[]) {
    assert.equal(verdict(online, 3000, policy), 'sign_in_required');
    assert.equal(verdict(offline, 3000, policy), 'sign_in_required');
  }
});
