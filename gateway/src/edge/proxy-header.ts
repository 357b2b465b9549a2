/**
 * The PROXY protocol, versions 1 and 2: what a load balancer that passes a TCP connection on writes in front of its bytes,
 * to say whose they are ("The PROXY protocol", HAProxy's doc/proxy-protocol.txt). Pure.
 *
 *     v1 = "PROXY" SP ( "TCP4" | "TCP6" ) SP source SP destination SP source-port SP destination-port CRLF
 *        | "PROXY UNKNOWN" *any CRLF                                        section 2.1, at most 107 bytes
 *     v2 = signature(12) version+command(1) family+protocol(1) length(2) addresses TLV*       section 2.2
 *     TLV = type(1) length(2) value
 *
 * Of the TLVs only PP2_TYPE_SSL counts (section 2.2.5): it says whether the client's connection was encrypted.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { canonicalAddress } from './client-address.ts';

/** "PROXY UNKNOWN" with two IPv6 addresses and ports, section 2.1. Beyond: refused. */
export const MAX_V1_BYTES = 107;
/** A client certificate in a TLV has 2 KiB, everything else a few bytes. The format allows 64 KiB. Beyond: refused. */
export const MAX_V2_BYTES = 4_096;

export type ProxyHeader =
  /** A connection of the proxy's own, such as a health check (section 2.2, LOCAL). */
  | { readonly kind: 'local' }
  /** Somebody's, but it does not say whose: UNKNOWN, UNSPEC, or no TCP over IP. */
  | { readonly kind: 'unknown' }
  | {
      readonly kind: 'client';
      readonly address: string;
      readonly port: number;
      /** Where the client connected to. */
      readonly destinationPort: number;
      /** Whether it spoke TLS to the proxy; undefined: the header does not say. */
      readonly overTls: boolean | undefined;
    };

export type ProxyHeaderReading =
  | { readonly state: 'header'; readonly header: ProxyHeader; readonly length: number }
  /** It may become a header when more bytes have come. */
  | { readonly state: 'incomplete' }
  /** The bytes are something else. */
  | { readonly state: 'absent' }
  /** It began as a header, and is none. */
  | { readonly state: 'invalid' };

const V1_SIGNATURE = Buffer.from('PROXY ', 'latin1');
const V2_SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const V2_FIXED_BYTES = 16;
const V1_LINE = /^PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})$/;
const V1_UNKNOWN = /^PROXY UNKNOWN(?: [^\r\n]*)?$/;
const MAX_PORT = 65_535;

const COMMAND_LOCAL = 0x20;
const COMMAND_PROXY = 0x21;
const TCP_OVER_IPV4 = 0x11;
const TCP_OVER_IPV6 = 0x21;
/** Bytes of the addresses by the family, the upper half of its byte: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX. */
const ADDRESS_BYTES: readonly number[] = [0, 12, 36, 216];
const TLV_HEAD_BYTES = 3;
const PP2_TYPE_SSL = 0x20;
/** Bits for the kind of client, then a word for how its certificate was judged. */
const SSL_HEAD_BYTES = 5;
const PP2_CLIENT_SSL = 0x01;

const INCOMPLETE: ProxyHeaderReading = { state: 'incomplete' };
const ABSENT: ProxyHeaderReading = { state: 'absent' };
const INVALID: ProxyHeaderReading = { state: 'invalid' };

/** Whether `bytes` begin with as much of `signature` as they can. */
const beginsLike = (bytes: Buffer, signature: Buffer): boolean => {
  const length = Math.min(bytes.length, signature.length);
  return bytes.compare(signature, 0, length, 0, length) === 0;
};

const readV1 = (bytes: Buffer): ProxyHeaderReading => {
  const end = bytes.subarray(0, MAX_V1_BYTES).indexOf('\r\n');
  if (end < 0) return bytes.length >= MAX_V1_BYTES ? INVALID : INCOMPLETE;
  const line = bytes.toString('latin1', 0, end);
  const length = end + 2;
  if (V1_UNKNOWN.test(line)) return { state: 'header', header: { kind: 'unknown' }, length };
  const [, family, address = '', destination = '', port, destinationPort] = V1_LINE.exec(line) ?? [];
  const isAddress = family === 'TCP4' ? isIPv4 : isIPv6;
  if (!isAddress(address) || !isAddress(destination)) return INVALID;
  if (Number(port) > MAX_PORT || Number(destinationPort) > MAX_PORT) return INVALID;
  return {
    state: 'header',
    header: {
      kind: 'client',
      address: canonicalAddress(address),
      port: Number(port),
      destinationPort: Number(destinationPort),
      overTls: undefined,
    },
    length,
  };
};

/** What the TLVs say of TLS; `invalid` when they do not fill their space exactly. */
const readTlvs = (bytes: Buffer): { readonly overTls: boolean | undefined } | 'invalid' => {
  let overTls: boolean | undefined;
  for (let offset = 0; offset < bytes.length;) {
    if (offset + TLV_HEAD_BYTES > bytes.length) return 'invalid';
    const start = offset + TLV_HEAD_BYTES;
    const end = start + bytes.readUInt16BE(offset + 1);
    if (end > bytes.length) return 'invalid';
    if (bytes[offset] === PP2_TYPE_SSL) {
      // Two that differ could be read either way.
      if (end - start < SSL_HEAD_BYTES || overTls !== undefined) return 'invalid';
      overTls = ((bytes[start] ?? 0) & PP2_CLIENT_SSL) !== 0;
    }
    offset = end;
  }
  return { overTls };
};

const formatIPv4 = (bytes: Buffer): string => bytes.join('.');
const formatIPv6 = (bytes: Buffer): string => {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return canonicalAddress(groups.join(':'));
};

const readV2 = (bytes: Buffer): ProxyHeaderReading => {
  if (bytes.length < V2_FIXED_BYTES) return INCOMPLETE;
  const command = bytes[12] ?? 0;
  const family = bytes[13] ?? 0;
  const length = V2_FIXED_BYTES + bytes.readUInt16BE(14);
  if (length > MAX_V2_BYTES || (command !== COMMAND_LOCAL && command !== COMMAND_PROXY)) return INVALID;
  const addressBytes = ADDRESS_BYTES[family >> 4];
  if (addressBytes === undefined || (family & 0x0f) > 2) return INVALID;
  if (bytes.length < length) return INCOMPLETE;
  // Whatever a connection of the proxy's own says of addresses is to be skipped (section 2.2).
  if (command === COMMAND_LOCAL) return { state: 'header', header: { kind: 'local' }, length };
  if (length < V2_FIXED_BYTES + addressBytes) return INVALID;
  const tlvs = readTlvs(bytes.subarray(V2_FIXED_BYTES + addressBytes, length));
  if (tlvs === 'invalid') return INVALID;
  if (family !== TCP_OVER_IPV4 && family !== TCP_OVER_IPV6) {
    return { state: 'header', header: { kind: 'unknown' }, length };
  }
  const isV4 = family === TCP_OVER_IPV4;
  const addressLength = isV4 ? 4 : 16;
  const source = bytes.subarray(V2_FIXED_BYTES, V2_FIXED_BYTES + addressLength);
  const ports = V2_FIXED_BYTES + 2 * addressLength;
  return {
    state: 'header',
    header: {
      kind: 'client',
      address: isV4 ? formatIPv4(source) : formatIPv6(source),
      port: bytes.readUInt16BE(ports),
      destinationPort: bytes.readUInt16BE(ports + 2),
      overTls: tlvs.overTls,
    },
    length,
  };
};

/** Reads the header at the start of a connection. To be called again with all bytes when more have come. */
export const readProxyHeader = (bytes: Buffer): ProxyHeaderReading => {
  if (bytes.length === 0) return INCOMPLETE;
  if (beginsLike(bytes, V1_SIGNATURE)) return bytes.length < V1_SIGNATURE.length ? INCOMPLETE : readV1(bytes);
  if (beginsLike(bytes, V2_SIGNATURE)) return bytes.length < V2_SIGNATURE.length ? INCOMPLETE : readV2(bytes);
  return ABSENT;
};
