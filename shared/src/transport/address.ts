/**
 * `host:port` as people write it and as logs show it: an IPv6 address stands in brackets.
 *
 *     127.0.0.1:4242   [::1]:4242   api.gateway.localhost:8443
 */
import { isIP, isIPv4, isIPv6 } from 'node:net';

export interface HostPort {
  /** IP address (IPv6 without brackets) or host name. */
  readonly host: string;
  /** 0..65535; 0 asks the system for a free port. */
  readonly port: number;
}

const MAX_PORT = 65_535;
/** RFC 1035 section 2.3.4: a name has at most 253 characters without its final dot. */
const MAX_NAME_LENGTH = 253;
/** RFC 1123 section 2.1, and `_`, which names of internal networks use. */
const NAME_LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/i;

/** Whether `text` may be a host: an IP address without brackets, or a name. */
export const isHost = (text: string): boolean => {
  if (isIP(text) !== 0) return true;
  const name = text.endsWith('.') ? text.slice(0, -1) : text;
  if (name.length === 0 || name.length > MAX_NAME_LENGTH) return false;
  const labels = name.split('.');
  // A name whose last label is a number is a broken IPv4 address, whatever a resolver makes of it (RFC 3696 section 2).
  return labels.every((label) => NAME_LABEL.test(label)) && !/^\d+$/.test(labels.at(-1)!);
};

const split = (text: string): { host: string; port: string } => {
  if (text.startsWith('[')) {
    const end = text.indexOf(']');
    if (end === -1) throw new RangeError(`"${text}" has no closing bracket: write [address]:port`);
    const host = text.slice(1, end);
    if (!isIPv6(host)) throw new RangeError(`"${text}" has no IPv6 address in its brackets`);
    if (text[end + 1] !== ':') throw new RangeError(`"${text}" has no port: write [address]:port`);
    return { host, port: text.slice(end + 2) };
  }
  if (isIPv6(text)) throw new RangeError(`"${text}" is an IPv6 address: write [address]:port`);
  const colon = text.lastIndexOf(':');
  if (colon === -1) throw new RangeError(`"${text}" has no port: write host:port`);
  return { host: text.slice(0, colon), port: text.slice(colon + 1) };
};

/** Parses `host:port` or `[ipv6]:port`. Throws RangeError with a sentence for the person who wrote it. */
export const parseHostPort = (text: string): HostPort => {
  const { host, port } = split(text);
  if (!isHost(host)) throw new RangeError(`"${text}" has no valid host: write host:port or [ipv6]:port`);
  if (!/^\d{1,5}$/.test(port) || Number(port) > MAX_PORT) {
    throw new RangeError(`"${text}" has no valid port: it is a number from 0 to ${MAX_PORT}`);
  }
  return { host, port: Number(port) };
};

/** `host:port`, with brackets around an IPv6 address. */
export const formatHostPort = (host: string, port: number): string =>
  isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;

/** An IPv4 address that a dual-stack socket shows as `::ffff:192.0.2.1` (RFC 4291 section 2.5.5.2) as plain IPv4. */
export const unmapIPv4 = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  return mapped !== undefined && isIPv4(mapped) ? mapped : address;
};
