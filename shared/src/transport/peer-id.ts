/**
 * Peer ids: how the QUIC binding names the key of a peer. An Ed25519 one is the base58 text of an identity multihash
 * around the public key (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md):
 *
 *     00  identity    24  36 bytes follow    08 01  key type Ed25519    12 20  32 bytes follow    key
 */
import { base58 } from '@scure/base';

const PREFIX = Uint8Array.of(0x00, 0x24, 0x08, 0x01, 0x12, 0x20);
const KEY_BYTES = 32;
/** Base58 text of 38 bytes has at most 52 characters; decoding is quadratic, so nothing longer is decoded. */
const MAX_ID_LENGTH = 52;
const SECRET_KEY_BYTES = 64;
/** Private key message of the same specification: 08 01 key type Ed25519, 12 40 64 bytes follow. */
const SECRET_KEY_PREFIX = Uint8Array.of(0x08, 0x01, 0x12, 0x40);

/** The Ed25519 public key (32 bytes) that a peer id holds, or undefined where it names a key of another type. */
export const publicKeyOfPeerId = (peerId: string): Uint8Array | undefined => {
  if (peerId.length === 0 || peerId.length > MAX_ID_LENGTH) return undefined;
  let bytes: Uint8Array;
  try {
    bytes = base58.decode(peerId);
  } catch {
    return undefined;
  }
  if (bytes.length !== PREFIX.length + KEY_BYTES || !PREFIX.every((byte, index) => bytes[index] === byte)) {
    return undefined;
  }
  return bytes.slice(PREFIX.length);
};

/** An Ed25519 secret key (64 bytes: seed and public key, as tweetnacl keeps it) as the QUIC binding reads it. */
export const encodePrivateKey = (secretKey: Uint8Array): Uint8Array => {
  if (secretKey.length !== SECRET_KEY_BYTES) throw new RangeError('an Ed25519 secret key has 64 bytes');
  const encoded = new Uint8Array(SECRET_KEY_PREFIX.length + SECRET_KEY_BYTES);
  encoded.set(SECRET_KEY_PREFIX);
  encoded.set(secretKey, SECRET_KEY_PREFIX.length);
  return encoded;
};

export interface PeerAddress {
  readonly host: string;
  readonly port: number;
  readonly peerId: string;
}

/** `/ip4/192.0.2.1/udp/38006/quic-v1/p2p/12D3Koo…`, as the QUIC binding names a peer. */
export const parsePeerMultiaddr = (multiaddr: string): PeerAddress | undefined => {
  const match = /^\/ip[46]\/([^/]+)\/udp\/(\d{1,5})\/quic-v1\/p2p\/([^/]+)$/.exec(multiaddr);
  if (match === null) return undefined;
  return { host: match[1]!, port: Number(match[2]), peerId: match[3]! };
};
