/** WebTransport over HTTP/2 by hand: capsules (RFC 9297) on a CONNECT stream, as a peer that breaks the rules sends them. */
import { once } from 'node:events';
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { WEBTRANSPORT_PATH } from '../../shared/src/transport/webtransport-limits.ts';
import { WEBTRANSPORT_SETTINGS } from '../../shared/src/transport/webtransport-native.ts';
import type { TlsEnds } from './tcp-pair.ts';

/** Types of capsules, as the library numbers them. */
export const CAPSULE = {
  datagram: 0x00n,
  close: 0x2843n,
  drain: 0x78aen,
  reset: 0x190b4d39n,
  stopSending: 0x190b4d3an,
  stream: 0x190b4d3bn,
  streamWithFin: 0x190b4d3cn,
  maxStreamData: 0x190b4d3en,
  streamsBlocked: 0x190b4d44n,
} as const;

/** RFC 9000 section 16. */
export const varint = (value: bigint | number): Buffer => {
  const number = BigInt(value);
  const size = number < 64n ? 1 : number < 16_384n ? 2 : number < 1_073_741_824n ? 4 : 8;
  const out = Buffer.alloc(8);
  out.writeBigUInt64BE(number);
  const bytes = out.subarray(8 - size);
  bytes[0]! |= Math.log2(size) << 6;
  return bytes;
};

export const capsule = (type: bigint, ...parts: (Buffer | string)[]): Buffer => {
  const value = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([varint(type), varint(value.length), value]);
};

/** A stream capsule with `bytes`. */
export const onStream = (id: bigint | number, bytes: Buffer | string = ''): Buffer =>
  capsule(CAPSULE.stream, varint(id), bytes);

export interface RawTunnel {
  readonly session: ClientHttp2Session;
  readonly stream: ClientHttp2Stream;
}

/** A CONNECT for the tunnel that was answered with 200. */
export const openRawTunnel = async (tls: TlsEnds): Promise<RawTunnel> => {
  const socket = await tls.connect();
  const session = connectHttp2(`https://${tls.authority}`, {
    createConnection: () => socket,
    settings: { customSettings: Object.fromEntries(Object.values(WEBTRANSPORT_SETTINGS).map((id) => [id, 1 << 20])) },
  });
  session.on('error', () => {});
  await once(session, 'remoteSettings');
  const stream = session.request({
    ':method': 'CONNECT',
    ':protocol': 'webtransport',
    ':scheme': 'https',
    ':authority': tls.authority,
    ':path': WEBTRANSPORT_PATH,
  });
  stream.on('error', () => {});
  await once(stream, 'response');
  return { session, stream };
};
