import assert from 'node:assert/strict';
import { test } from 'node:test';
import { canonicalAddress, clientKey, plainAddress } from '../../gateway/src/edge/client-address.ts';

test('IPv4 clients of a dual-stack socket are written as IPv4', () => {
  assert.equal(plainAddress('::ffff:192.0.2.1'), '192.0.2.1');
  assert.equal(plainAddress('::FFFF:192.0.2.1'), '192.0.2.1');
  assert.equal(plainAddress('2001:db8::1'), '2001:db8::1');
  assert.equal(plainAddress('fe80::1%eth0'), 'fe80::1');
  assert.equal(plainAddress(undefined), '');
});

test('an IPv6 client is its /64', () => {
  assert.equal(clientKey('192.0.2.1'), '192.0.2.1');
  assert.equal(clientKey('2001:db8:1:2:3:4:5:6'), clientKey('2001:db8:1:2::9'));
  assert.notEqual(clientKey('2001:db8:1:2::9'), clientKey('2001:db8:1:3::9'));
  assert.equal(clientKey('2001:db8::1'), clientKey('2001:db8:0:0:ffff::'));
  assert.equal(clientKey('::1'), clientKey('::2'));
  assert.notEqual(clientKey('1::'), clientKey('::1'));
});

test('an address that somebody else has written is written in one way', () => {
  assert.equal(canonicalAddress('192.0.2.1'), '192.0.2.1');
  assert.equal(canonicalAddress('2001:0DB8:0:0::0001'), '2001:db8::1');
  assert.equal(canonicalAddress('::FFFF:192.0.2.1'), '192.0.2.1');
  assert.equal(canonicalAddress('::ffff:c000:201'), '192.0.2.1');
  assert.equal(canonicalAddress('::1'), '::1');
  assert.equal(canonicalAddress('::ffff:0:0'), '0.0.0.0');
});
