/** How client addresses are written, and which of them are one client. Pure. */
import { isIPv6 } from 'node:net';

/** Groups of 16 bits that one client owns in IPv6: a /64 (RFC 6177). */
const IPV6_CLIENT_GROUPS = 4;

/** The address as people write it: IPv4 clients of a dual-stack socket without `::ffff:`, no zone. */
export const plainAddress = (address: string | undefined): string =>
  (address ?? '').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '').replace(/%.*$/, '');

/** One way to write each address (RFC 5952), for what others have written; it has to be one, without a zone. */
export const canonicalAddress = (address: string): string => {
  if (!isIPv6(address)) return address;
  const text = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(text) ?? [];
  if (high === undefined || low === undefined) return text;
  return [high, low]
    .map((group) => parseInt(group, 16))
    .flatMap((group) => [group >> 8, group & 0xff])
    .join('.');
};

/** What counts as one client: an IPv4 address, or an IPv6 /64. */
export const clientKey = (address: string): string => {
  if (!isIPv6(address)) return address;
  const [left = '', right] = address.split('::');
  const head = left === '' ? [] : left.split(':');
  const tail = right === undefined || right === '' ? [] : right.split(':');
  const gap = right === undefined ? [] : Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => '0');
  return [...head, ...gap, ...tail].slice(0, IPV6_CLIENT_GROUPS).join(':');
};
