/** Headers of the PROXY protocol, well made and broken. */
import { isIPv6 } from 'node:net';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');

export interface ProxyHeaderParts {
  readonly source?: string;
  readonly destination?: string;
  readonly port?: number;
  readonly destinationPort?: number;
  readonly tlvs?: readonly Buffer[];
  /** Version and command, 0x21: version 2, PROXY. */
  readonly command?: number;
  /** Family and protocol; by default those of `source` over TCP. */
  readonly family?: number;
  /** Instead of addresses and ports. */
  readonly addresses?: string;
}

const PORT = 56_324;
const HTTPS_PORT = 443;

const ipv6Bytes = (address: string): Buffer => {
  const [left = '', right] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split('::');
  const groups = (part: string | undefined): string[] => (part ? part.split(':') : []);
  const [head, tail] = [groups(left), groups(right)];
  const all = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => '0'), ...tail];
  return Buffer.from(all.map((group) => group.padStart(4, '0')).join(''), 'hex');
};
const bytesOf = (address: string): Buffer =>
  isIPv6(address) ? ipv6Bytes(address) : Buffer.from(address.split('.').map(Number));

const uint16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);

export const tlv = (type: number, value: string): Buffer => {
  const bytes = Buffer.from(value, 'latin1');
  return Buffer.concat([Buffer.from([type]), uint16(bytes.length), bytes]);
};
/** PP2_TYPE_SSL: the client spoke TLS 1.3, without a certificate of its own; and: it did not speak TLS. */
export const TLS_TLV = tlv(0x20, `\x01\0\0\0\0${tlv(0x21, 'TLSv1.3').toString('latin1')}`);
export const PLAIN_TLV = tlv(0x20, '\0\0\0\0\0');

export const proxyV1 = (source: string, parts: ProxyHeaderParts = {}): Buffer => {
  const { destination = isIPv6(source) ? '::1' : '127.0.0.1', port = PORT, destinationPort = HTTPS_PORT } = parts;
  return Buffer.from(`PROXY TCP${isIPv6(source) ? 6 : 4} ${source} ${destination} ${port} ${destinationPort}\r\n`);
};

export const proxyV2 = (parts: ProxyHeaderParts): Buffer => {
  const { source = '192.0.2.1', port = PORT, destinationPort = HTTPS_PORT, tlvs = [], command = 0x21 } = parts;
  const { destination = isIPv6(source) ? '::1' : '127.0.0.1', family = isIPv6(source) ? 0x21 : 0x11 } = parts;
  const body = Buffer.concat([
    ...(parts.addresses === undefined
      ? [bytesOf(source), bytesOf(destination), uint16(port), uint16(destinationPort)]
      : [Buffer.from(parts.addresses, 'latin1')]),
    ...tlvs,
  ]);
  return Buffer.concat([SIGNATURE, Buffer.from([command, family]), uint16(body.length), body]);
};
