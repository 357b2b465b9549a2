/**
 * IP addresses as bytes, so that one address has one form whatever its spelling, and the ranges that a tunnel client
 * never dials: what an announcement could otherwise reach with them belongs to the machine or the cloud, not to an
 * environment.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

const IPV4_BYTES = 4;
const IPV6_GROUPS = 8;

/** The 4 or 16 bytes of an address, or undefined for anything else. A zone (`%eth0`) is left out. */
export const parseIp = (text: string): Uint8Array | undefined => {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number);
  if (!isIPv6(text)) return undefined;
  let rest = text.split('%', 1)[0] ?? '';
  const dotted = /[0-9.]+$/.exec(rest)?.[0];
  if (dotted?.includes('.')) {
    const [a = 0, b = 0, c = 0, d = 0] = dotted.split('.').map(Number);
    rest = `${rest.slice(0, -dotted.length)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [head = '', tail] = rest.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = [...left, ...new Array<string>(IPV6_GROUPS - left.length - right.length).fill('0'), ...right];
  return Uint8Array.from(groups.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]));
};

export interface AddressRange {
  readonly prefix: Uint8Array;
  readonly bits: number;
}

/** `10.0.0.0/8`, or a single address; undefined for anything else. */
export const parseRange = (cidr: string): AddressRange | undefined => {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(cidr) ?? [];
  const prefix = parseIp(address);
  if (!prefix || Number(bits ?? 0) > prefix.length * 8) return undefined;
  return { prefix, bits: bits === undefined ? prefix.length * 8 : Number(bits) };
};

const range = (cidr: string): AddressRange => {
  const parsed = parseRange(cidr);
  if (!parsed) throw new TypeError(`not an address range: ${cidr}`);
  return parsed;
};

export const isInRange = (address: Uint8Array, { prefix, bits }: AddressRange): boolean => {
  if (address.length !== prefix.length) return false;
  const whole = bits >> 3;
  for (let index = 0; index < whole; index++) if (address[index] !== prefix[index]) return false;
  const mask = (0xff << (8 - (bits & 7))) & 0xff;
  return mask === 0 || ((address[whole] ?? 0) & mask) === ((prefix[whole] ?? 0) & mask);
};

/** Never dialled, whoever announces it. */
const FORBIDDEN: readonly AddressRange[] = [
  '0.0.0.0/8', // "this network": 0.0.0.0 reaches the machine itself on Linux
  '169.254.0.0/16', // link-local, and the metadata service of most clouds
  '168.63.129.16', // Azure: the host's own service
  '100.100.100.200', // Alibaba Cloud metadata
  '192.0.0.192', // Oracle Cloud metadata
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and 255.255.255.255
  '::', // unspecified
  'fe80::/10', // link-local
  'ff00::/8', // multicast
  'fd00:ec2::254', // Amazon EC2 metadata
  'fd20:ce::254', // Google Cloud metadata
].map(range);

const LOOPBACK: readonly AddressRange[] = ['127.0.0.0/8', '::1'].map(range);

/** IPv6 prefixes behind which an IPv4 address stands, and the byte it begins at. */
const EMBEDDING: readonly { readonly range: AddressRange; readonly at: number }[] = [
  { range: range('::ffff:0:0/96'), at: 12 }, // IPv4-mapped, RFC 4291
  { range: range('::ffff:0:0:0/96'), at: 12 }, // IPv4-translated, RFC 2765
  { range: range('64:ff9b::/96'), at: 12 }, // NAT64, RFC 6052
  { range: range('64:ff9b:1::/48'), at: 12 }, // NAT64 of a local network, RFC 8215
  { range: range('2002::/16'), at: 2 }, // 6to4, RFC 3056
  { range: range('::/96'), at: 12 }, // IPv4-compatible, RFC 4291
];

/** The address itself and the IPv4 addresses that it stands for. */
const forms = (address: Uint8Array): Uint8Array[] => {
  const isLoopbackOrUnspecified = address.length > IPV4_BYTES && address.subarray(0, 15).every((byte) => byte === 0);
  if (address.length === IPV4_BYTES || isLoopbackOrUnspecified) return [address];
  const embedded = EMBEDDING.filter((entry) => isInRange(address, entry.range));
  return [address, ...embedded.map(({ at }) => address.subarray(at, at + IPV4_BYTES))];
};

/** Whether an address must not be dialled. Text that is no address is forbidden too: only addresses are dialled. */
export const isForbiddenAddress = (text: string): boolean => {
  const address = parseIp(text);
  return !address || forms(address).some((form) => FORBIDDEN.some((entry) => isInRange(form, entry)));
};

/** Addresses of the machine's interfaces; read again at each use, because they change. */
export const machineAddresses = (): string[] =>
  Object.values(networkInterfaces()).flatMap((entries) => (entries ?? []).map(({ address }) => address));

/** Whether a connection to `text` ends at this machine. */
export const isOwnAddress = (text: string, ownAddresses: readonly string[]): boolean => {
  const address = parseIp(text);
  if (!address) return false;
  const own = ownAddresses.map(parseIp).filter((entry) => entry !== undefined);
  return forms(address).some(
    (form) =>
      LOOPBACK.some((entry) => isInRange(form, entry)) ||
      own.some((entry) => isInRange(form, { prefix: entry, bits: entry.length * 8 })),
  );
};
