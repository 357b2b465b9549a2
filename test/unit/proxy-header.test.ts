/** The PROXY protocol's headers, by its document: what is one, what is none yet, and what can never become one. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalAddress } from '../../gateway/src/edge/client-address.ts';
import {
  MAX_V1_BYTES,
  MAX_V2_BYTES,
  readProxyHeader,
  type ProxyHeader,
  type ProxyHeaderReading,
} from '../../gateway/src/edge/proxy-header.ts';
import { proxyV1, proxyV2, tlv, TLS_TLV, PLAIN_TLV } from '../support/proxy-protocol.ts';

const read = (bytes: Buffer | string): ProxyHeaderReading =>
  readProxyHeader(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);
const headerOf = (bytes: Buffer | string): ProxyHeader => {
  const reading = read(bytes);
  assert.ok(reading.state === 'header', reading.state);
  return reading.header;
};
const client = (address: string, overTls?: boolean) => ({
  kind: 'client',
  address,
  port: 56_324,
  destinationPort: 443,
  overTls,
});

test('version 1', () => {
  // The example of section 2.1.
  const line = 'PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n';
  assert.deepEqual(read(`${line}GET / HTTP/1.1\r\n`), {
    state: 'header',
    header: client('192.168.0.1'),
    length: line.length,
  });
  assert.deepEqual(headerOf('PROXY TCP6 2001:DB8:0::1 ::1 56324 443\r\n'), client('2001:db8::1'));
  assert.deepEqual(headerOf('PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 443\r\n'), client('192.0.2.1'));
  assert.deepEqual(headerOf('PROXY UNKNOWN\r\n'), { kind: 'unknown' });
  const longest = `PROXY UNKNOWN ${'ffff:'.repeat(7)}ffff ${'ffff:'.repeat(7)}ffff 65535 65535\r\n`;
  assert.equal(longest.length, MAX_V1_BYTES);
  assert.deepEqual(headerOf(longest), { kind: 'unknown' });
});

test('what is no header of version 1', () => {
  for (const line of [
    'PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n\r\n',
    'PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n',
    'PROXY TCP4 192.168.0.1  192.168.0.11 56324 443\r\n',
    'PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n',
    'PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n',
    'PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n',
    'PROXY TCP4 192.168.0.1 192.168.0.11 -1 443\r\n',
    'PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n',
    'PROXY TCP4 2001:db8::1 ::1 56324 443\r\n',
    'PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n',
    'PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n',
    'PROXY tcp4 192.168.0.1 192.168.0.11 56324 443\r\n',
    'PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n',
    'PROXY UNKNOWNS\r\n',
    'PROXY \r\n',
    `PROXY UNKNOWN ${'x'.repeat(MAX_V1_BYTES)}\r\n`,
    `PROXY ${'x'.repeat(MAX_V1_BYTES)}`,
  ]) {
    assert.deepEqual(read(line), { state: 'invalid' }, line);
  }
  for (const other of ['proxy TCP4', 'GET / HTTP/1.1', 'PRI * HTTP/2.0', 'PROXYING', '\x16\x03\x01', '\r\n\r\nGET']) {
    assert.deepEqual(read(other), { state: 'absent' }, other);
  }
});

test('version 2', () => {
  assert.deepEqual(headerOf(proxyV2({ source: '192.0.2.1' })), client('192.0.2.1'));
  assert.deepEqual(headerOf(proxyV2({ source: '2001:db8::1', destination: '::1' })), client('2001:db8::1'));
  assert.deepEqual(headerOf(proxyV2({ source: '::ffff:192.0.2.1', destination: '::1' })), client('192.0.2.1'));
  assert.deepEqual(headerOf(proxyV2({ source: '192.0.2.1', tlvs: [TLS_TLV] })), client('192.0.2.1', true));
  assert.deepEqual(headerOf(proxyV2({ source: '192.0.2.1', tlvs: [PLAIN_TLV] })), client('192.0.2.1', false));
  const others = [tlv(0x01, 'h2'), tlv(0x02, 'gateway.example'), TLS_TLV, tlv(0x04, ''), tlv(0xea, '\x01vpce-1')];
  assert.deepEqual(headerOf(proxyV2({ source: '192.0.2.1', tlvs: others })), client('192.0.2.1', true));
  const bytes = proxyV2({ source: '192.0.2.1' });
  const reading = read(Buffer.concat([bytes, Buffer.from('GET /')]));
  assert.ok(reading.state === 'header');
  assert.equal(reading.length, bytes.length);
});

test('a connection of the proxy itself, and those of which it does not say whose they are', () => {
  assert.deepEqual(headerOf(proxyV2({ command: 0x20, family: 0x00, addresses: '' })), { kind: 'local' });
  // Whatever is in it is skipped.
  assert.deepEqual(headerOf(proxyV2({ command: 0x20, family: 0x11, addresses: 'garbage' })), { kind: 'local' });
  assert.deepEqual(headerOf(proxyV2({ family: 0x00, addresses: '' })), { kind: 'unknown' });
  assert.deepEqual(headerOf(proxyV2({ family: 0x31, addresses: '\0'.repeat(216) })), { kind: 'unknown' });
  // UDP over IPv4: not what came here.
  assert.deepEqual(headerOf(proxyV2({ source: '192.0.2.1', family: 0x12 })), { kind: 'unknown' });
});

test('what is no header of version 2', () => {
  for (const [what, bytes] of Object.entries({
    'version 1 in the form of 2': proxyV2({ source: '192.0.2.1', command: 0x11 }),
    'an unknown command': proxyV2({ source: '192.0.2.1', command: 0x22 }),
    'an unknown family': proxyV2({ source: '192.0.2.1', family: 0x41 }),
    'an unknown protocol': proxyV2({ source: '192.0.2.1', family: 0x13 }),
    'addresses that are cut off': proxyV2({ family: 0x11, addresses: '\0'.repeat(11) }),
    'IPv4 called IPv6': proxyV2({ source: '192.0.2.1', family: 0x21 }),
    'a TLV that is cut off': proxyV2({ source: '192.0.2.1', tlvs: [TLS_TLV.subarray(0, 6)] }),
    'a TLV without a length': proxyV2({ source: '192.0.2.1', tlvs: [Buffer.from([0x04, 0])] }),
    'a TLV of TLS that is too short': proxyV2({ source: '192.0.2.1', tlvs: [tlv(0x20, '\x01')] }),
    'two TLVs of TLS': proxyV2({ source: '192.0.2.1', tlvs: [TLS_TLV, PLAIN_TLV] }),
    'too long': proxyV2({ source: '192.0.2.1', tlvs: [tlv(0x04, '\0'.repeat(MAX_V2_BYTES))] }),
  })) {
    assert.deepEqual(read(bytes), { state: 'invalid' }, what);
  }
  // It is known from the length in the head: nothing of it has to be kept.
  const long = proxyV2({ source: '192.0.2.1', tlvs: [tlv(0x04, '\0'.repeat(MAX_V2_BYTES))] });
  assert.deepEqual(read(long.subarray(0, 16)), { state: 'invalid' });
});

test('wherever it is cut, the first part is incomplete', () => {
  for (const header of [
    proxyV1('192.0.2.1'),
    proxyV1('2001:db8::1'),
    proxyV2({ source: '192.0.2.1', tlvs: [TLS_TLV, tlv(0x02, 'name')] }),
    proxyV2({ command: 0x20, family: 0, addresses: '' }),
  ]) {
    for (let length = 0; length < header.length; length += 1) {
      assert.deepEqual(read(header.subarray(0, length)), { state: 'incomplete' }, `${length} bytes`);
    }
    assert.equal(read(header).state, 'header');
  }
});

test('any client, in both versions, with anything behind', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.ipV4(), fc.ipV6()),
      fc.nat(65_535),
      fc.nat(65_535),
      fc.uint8Array({ maxLength: 64 }),
      (address, port, destinationPort, behind) => {
        const destination = address.includes(':') ? '::1' : '127.0.0.1';
        const parts = { source: address, destination, port, destinationPort };
        for (const header of [proxyV1(address, parts), proxyV2(parts)]) {
          assert.deepEqual(read(Buffer.concat([header, behind])), {
            state: 'header',
            header: { kind: 'client', address: canonicalAddress(address), port, destinationPort, overTls: undefined },
            length: header.length,
          });
        }
      },
    ),
  );
});

test('garbage is judged, and what is judged stays so', () => {
  const start = fc.constantFrom('', 'PROXY ', 'PROXY TCP4 ', '\r\n\r\n\0\r\nQUIT\n', '\r\n\r\n\0\r\nQUIT\n\x21\x11\0');
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 300 }), (prefix, rest) => {
      const bytes = Buffer.concat([Buffer.from(prefix, 'latin1'), rest]);
      let judged: ProxyHeaderReading | undefined;
      for (let length = 0; length <= bytes.length; length += 1) {
        const reading = read(bytes.subarray(0, length));
        if (judged) assert.deepEqual(reading, judged);
        else if (reading.state !== 'incomplete') judged = reading;
      }
    }),
    { numRuns: 200 },
  );
});
