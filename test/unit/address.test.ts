import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatHostPort, parseHostPort, unmapIPv4 } from '../../shared/src/transport/address.ts';

test('parses and formats host:port', () => {
  for (const [text, host, port] of [
    ['127.0.0.1:4242', '127.0.0.1', 4242],
    ['[::]:0', '::', 0],
    ['[2001:db8::1]:65535', '2001:db8::1', 65_535],
    ['api.gateway.localhost:8443', 'api.gateway.localhost', 8443],
    ['my_host:1', 'my_host', 1],
  ] as const) {
    assert.deepEqual(parseHostPort(text), { host, port });
    assert.equal(formatHostPort(host, port), text);
  }
});

test('refuses what is no host:port, with a sentence that names it', () => {
  for (const text of [
    '',
    ':80',
    'host',
    'host:',
    'host:65536',
    'host:-1',
    'host:1e3',
    'host: 80',
    'ho st:80',
    '-a:80',
    'a..b:80',
    '::1',
    '::1:80',
    '[::1]',
    '[::1]80',
    '[::1:80',
    '[127.0.0.1]:80',
    '256.0.0.1:80',
    '0x7f.1:80',
    '127.1:80',
    `${'a'.repeat(64)}:80`,
    'http://host:80',
  ]) {
    assert.throws(() => parseHostPort(text), { name: 'RangeError', message: new RegExp('write|bracket|port') }, text);
  }
});

test('shows a mapped IPv4 address as IPv4 and leaves others alone', () => {
  assert.equal(unmapIPv4('::ffff:192.0.2.1'), '192.0.2.1');
  assert.equal(unmapIPv4('::FFFF:192.0.2.1'), '192.0.2.1');
  assert.equal(unmapIPv4('::1'), '::1');
  assert.equal(unmapIPv4('192.0.2.1'), '192.0.2.1');
});
