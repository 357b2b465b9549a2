import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GATEWAY_ERRORS } from '../../gateway/src/errors.ts';
import { nextStep, MAX_TRIES } from '../../gateway/src/proxy/retry.ts';
import { ConnectionGoneError, errorOf, GatewayFailure } from '../../gateway/src/proxy/upstream-errors.ts';
import {
  LegClosedError,
  STREAM_STATUS,
  StreamRefusedError,
  StreamResetError,
  type StreamRefusal,
} from '../../shared/src/errors.ts';

test('every refusal of a tunnel stream has a code of the table', () => {
  const codes = Object.keys(STREAM_STATUS).filter((status) => status !== 'connected');
  for (const code of codes) assert.ok(errorOf(new StreamRefusedError(code as StreamRefusal)) in GATEWAY_ERRORS, code);
  assert.equal(errorOf(new StreamRefusedError('refused')), 'upstream_refused');
  assert.equal(errorOf(new StreamRefusedError('not_exposed')), 'port_not_exposed');
  assert.equal(errorOf(new StreamRefusedError('upstream_not_tls')), 'upstream_speaks_plain');
});

test('resets, lost legs and faults of the gateway are told apart', () => {
  assert.equal(errorOf(new StreamResetError('upstream_reset', 'remote')), 'upstream_reset');
  assert.equal(errorOf(new StreamResetError('leg_lost', 'remote')), 'tunnel_lost');
  assert.equal(errorOf(new LegClosedError('lost', 'remote')), 'tunnel_lost');
  assert.equal(errorOf(new GatewayFailure('loop', 'x')), 'loop');
  assert.equal(errorOf(Object.assign(new Error('x'), { code: 'UND_ERR_HEADERS_OVERFLOW' })), 'upstream_invalid');
  assert.equal(
    errorOf(Object.assign(new Error('x'), { code: 'UND_ERR_SOCKET' }), { upstreamEnded: true }),
    'upstream_reset',
  );
  assert.equal(
    errorOf(Object.assign(new Error('x'), { code: 'UND_ERR_SOCKET' }), { upstreamEnded: false }),
    'upstream_invalid',
  );
  assert.equal(errorOf(new TypeError('a slip')), 'internal');
});

const request = { repeatable: true, whole: true, tries: 1, moreLegs: true };
const fresh = { connection: { reused: false, connected: false }, sent: true, answered: false };
const reused = { connection: { reused: true, connected: true }, sent: true, answered: false };

test('another leg takes what this one refused or lost before the target was connected', () => {
  assert.equal(nextStep(new StreamRefusedError('draining'), fresh, request), 'next_leg');
  assert.equal(nextStep(new LegClosedError('lost', 'remote'), fresh, request), 'next_leg');
  assert.equal(nextStep(new StreamResetError('leg_lost', 'remote'), fresh, request), 'next_leg');
  assert.equal(nextStep(new StreamRefusedError('draining'), fresh, { ...request, moreLegs: false }), 'fail');
  assert.equal(nextStep(new StreamRefusedError('refused'), fresh, request), 'fail');
  assert.equal(nextStep(new StreamRefusedError('draining'), fresh, { ...request, whole: false }), 'fail');
  assert.equal(nextStep(new StreamRefusedError('draining'), fresh, { ...request, tries: MAX_TRIES }), 'fail');
  const connected = { ...fresh, connection: { reused: false, connected: true } };
  assert.equal(nextStep(new StreamResetError('leg_lost', 'remote'), connected, request), 'fail');
});

test('a kept connection that was closed is replaced, if the request may be sent twice or was not sent', () => {
  const gone = new ConnectionGoneError('x');
  assert.equal(nextStep(gone, reused, request), 'fresh_connection');
  assert.equal(nextStep(gone, reused, { ...request, repeatable: false }), 'fail');
  assert.equal(nextStep(gone, { ...reused, sent: false }, { ...request, repeatable: false }), 'fresh_connection');
  assert.equal(nextStep(gone, { ...reused, answered: true }, request), 'fail');
  assert.equal(nextStep(gone, fresh, request), 'fail');
  assert.equal(nextStep(new GatewayFailure('upstream_timeout', 'x'), reused, request), 'fail');
});
