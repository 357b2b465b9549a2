/** How bad what a diagnosis finds is. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CheckResult, failed, judge, ok } from '../../tunnel-client/src/diagnose/report.ts';

const check = (id: string, isFine: boolean): CheckResult => ({
  ...{ id, name: id, tookMs: 1 },
  ...(isFine ? ok('fine') : failed('no answer', 'Do something.')),
});
const states = (checks: readonly CheckResult[], transport: 'quic' | 'webtransport' | undefined): string[] =>
  judge(checks, transport).map(({ id, state }) => `${id} ${state}`);
const [FOUR, SIX] = ['quic:192.0.2.1:4242', 'quic:[2001:db8::1]:4242'];

test('IPv6 that leads nowhere is a note where IPv4 works, and something to be looked at where it does not', () => {
  const [, note] = judge([check(FOUR, true), check(SIX, false)], 'quic');
  assert.deepEqual([note?.state, note?.result, note?.advice], ['skipped', 'no answer; IPv4 is used', undefined]);
  assert.deepEqual(states([check(FOUR, false), check(SIX, false)], 'webtransport'), [
    `${FOUR} warning`,
    `${SIX} warning`,
  ]);
  assert.deepEqual(states([check(SIX, false)], 'webtransport'), [`${SIX} warning`], 'there is no IPv4 at all');
  assert.deepEqual(states([check(FOUR, false), check(SIX, false)], undefined), [`${FOUR} failed`, `${SIX} failed`]);
  assert.deepEqual(states([check(FOUR, false), check(SIX, true)], 'quic'), [`${FOUR} warning`, `${SIX} ok`]);
});

test('a way that is shut stands in nobody’s way while another one is open; what all ways need does', () => {
  const checks = [check('leg:websocket', false), check('membership', false), check('api', false)];
  assert.deepEqual(states(checks, 'quic'), ['leg:websocket warning', 'membership failed', 'api failed']);
  assert.deepEqual(states(checks, undefined), ['leg:websocket failed', 'membership failed', 'api failed']);
});
