/** Addresses that the tunnel client never dials, in every spelling. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isForbiddenAddress, isOwnAddress, machineAddresses, parseIp } from '../../tunnel-client/src/ip-address.ts';

const hex = (value: number): string => value.toString(16).padStart(2, '0');
/** An IPv4 address behind the last 32 bits of an IPv6 prefix, as groups. */
const groups = (ipv4: string): string => {
  const [a = 0, b = 0, c = 0, d = 0] = ipv4.split('.').map(Number);
  return `${hex(a)}${hex(b)}:${hex(c)}${hex(d)}`;
};

describe('parseIp', () => {
  it('gives one form for every spelling of an address', () => {
    const mapped = [...new Array<number>(10).fill(0), 255, 255, 169, 254, 1, 2];
    for (const text of ['::ffff:169.254.1.2', '::FFFF:a9fe:0102', '0:0:0:0:0:ffff:a9fe:102', '::ffff:169.254.1.2%lo']) {
      assert.deepEqual([...(parseIp(text) ?? [])], mapped, text);
    }
    assert.deepEqual([...(parseIp('10.0.0.1') ?? [])], [10, 0, 0, 1]);
    assert.deepEqual([...(parseIp('fe80::') ?? [])], [0xfe, 0x80, ...new Array<number>(14).fill(0)]);
  });

  it('takes nothing that is no address', () => {
    for (const text of ['', 'localhost', '127.1', '0x7f.0.0.1', '1.2.3.4.5', ':::', '[::1]', '010.0.0.1']) {
      assert.equal(parseIp(text), undefined, text);
    }
  });

  it('reads back any IPv6 address that the platform writes', () => {
    fc.assert(
      fc.property(fc.ipV6(), (text) => {
        const bytes = parseIp(text);
        assert.ok(bytes);
        const written = Array.from(
          { length: 8 },
          (_, index) => hex(bytes[index * 2] ?? 0) + hex(bytes[index * 2 + 1] ?? 0),
        );
        assert.equal(new URL(`http://[${written.join(':')}]`).host, new URL(`http://[${text}]`).host);
      }),
    );
  });
});

describe('isForbiddenAddress', () => {
  const forbiddenV4 = [
    '169.254.169.254', // metadata of most clouds
    '169.254.0.0',
    '169.254.255.255',
    '0.0.0.0',
    '0.1.2.3',
    '224.0.0.1',
    '239.255.255.255',
    '240.0.0.1',
    '255.255.255.255',
    '168.63.129.16',
    '100.100.100.200',
    '192.0.0.192',
  ];

  it('refuses metadata, link-local, multicast, broadcast and unspecified addresses', () => {
    for (const text of forbiddenV4) assert.equal(isForbiddenAddress(text), true, text);
    for (const text of [
      '::',
      'fe80::1',
      'febf::1',
      'fe80::1%eth0',
      'ff02::1',
      'fd00:ec2::254',
      'fd20:ce::254',
      'FD00:0EC2:0::0254',
    ]) {
      assert.equal(isForbiddenAddress(text), true, text);
    }
  });

  it('refuses every IPv6 form behind which such an IPv4 address stands', () => {
    for (const text of forbiddenV4) {
      const [a = 0, b = 0, c = 0, d = 0] = text.split('.').map(Number);
      const spellings = [
        `::ffff:${text}`,
        `::ffff:${groups(text)}`,
        `0:0:0:0:0:FFFF:${groups(text)}`,
        `::ffff:0:${groups(text)}`,
        `64:ff9b::${groups(text)}`,
        `64:ff9b::${text}`,
        `64:ff9b:1::${groups(text)}`,
        `2002:${hex(a)}${hex(b)}:${hex(c)}${hex(d)}::1`,
      ];
      for (const spelling of spellings) assert.equal(isForbiddenAddress(spelling), true, spelling);
    }
    assert.equal(isForbiddenAddress('::169.254.169.254'), true);
  });

  it('allows loopback, private and public addresses, and their mapped forms', () => {
    for (const text of [
      '127.0.0.1',
      '::1',
      '10.1.2.3',
      '192.168.0.1',
      '172.16.0.1',
      '100.64.0.1',
      '8.8.8.8',
      'fd12::1',
      '2001:db8::1',
      '::ffff:10.0.0.1',
      '64:ff9b::8.8.8.8',
    ]) {
      assert.equal(isForbiddenAddress(text), false, text);
    }
  });

  it('refuses what is no address', () => {
    for (const text of ['localhost', '127.1', '']) assert.equal(isForbiddenAddress(text), true, text);
  });
});

describe('isOwnAddress', () => {
  it('knows loopback and the addresses of the machine in every spelling', () => {
    const own = ['192.0.2.7', '2001:db8::7'];
    for (const text of [
      '127.0.0.1',
      '127.255.255.254',
      '::1',
      '0:0:0:0:0:0:0:1',
      '::ffff:127.0.0.1',
      '::ffff:7f00:1',
      '192.0.2.7',
      '::ffff:c000:207',
      '64:ff9b::192.0.2.7',
      '2001:0db8::0007',
      '2001:db8::7%eth0',
    ]) {
      assert.equal(isOwnAddress(text, own), true, text);
    }
    for (const text of ['192.0.2.8', '2001:db8::8', '10.0.0.1', 'localhost'])
      assert.equal(isOwnAddress(text, own), false, text);
  });

  it('reads the addresses of the interfaces', () => {
    assert.ok(machineAddresses().includes('127.0.0.1'));
  });
});
