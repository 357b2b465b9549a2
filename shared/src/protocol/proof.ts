/**
 * How both sides show that they hold the keys of their memberships where the transport does not (WebTransport and
 * WebSocket). Each signs everything that was said so far, so that a signature is worth nothing anywhere else:
 *
 *     "gitpod-tunnel/1" | role of who signs | nonce of the dialler | nonce of the acceptor
 *       | id of the dialler | id of the acceptor | SHA-256 of the dialler's membership | of the acceptor's
 *       | transport | binding
 *
 * each behind its length (u16, big-endian). `binding` is the SHA-256 of the keying material that the signer's TLS
 * connection exports, empty where there is none; it is sent along. Where the binding of the peer is not this side's
 * own, TLS does not reach from one end to the other: somebody inspects it.
 */
import { createHash } from 'node:crypto';
import { RefusedError } from '../errors.ts';
import { verifySignature } from '../identity/keys.ts';
import { readMembership, type Membership } from '../identity/membership.ts';
import type { Connection, TransportName } from '../transport/connection.ts';

const CONTEXT = 'gitpod-tunnel/1';

/** What both sides know before the first of them signs. */
export interface Transcript {
  readonly diallerNonce: string;
  readonly acceptorNonce: string;
  readonly diallerMembership: string;
  readonly acceptorMembership: string;
  readonly transport: TransportName;
}

/** The fields that `challenge` and `proof` carry. */
export interface Proof {
  readonly signature?: string | undefined;
  readonly binding?: string | undefined;
}

export type Signer = (message: Uint8Array) => Uint8Array;

const sha256 = (text: string | Uint8Array): Buffer => createHash('sha256').update(text).digest();

/** Empty for what is no membership: its own check refuses it. */
const idIn = (membership: string): string => {
  try {
    return readMembership(membership).id;
  } catch {
    return '';
  }
};

const encode = (transcript: Transcript, role: 'acceptor' | 'dialler', binding: string | undefined): Buffer => {
  const parts = [
    CONTEXT,
    role,
    Buffer.from(transcript.diallerNonce, 'base64url'),
    Buffer.from(transcript.acceptorNonce, 'base64url'),
    idIn(transcript.diallerMembership),
    idIn(transcript.acceptorMembership),
    sha256(transcript.diallerMembership),
    sha256(transcript.acceptorMembership),
    transcript.transport,
    Buffer.from(binding ?? '', 'base64url'),
  ].map((part) => Buffer.from(part));
  return Buffer.concat(
    parts.flatMap((part) => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(part.length);
      return [length, part];
    }),
  );
};

const bindingOf = ({ exporter }: Pick<Connection, 'exporter'>): string | undefined =>
  exporter && sha256(exporter).toString('base64url');

/** This side's proof; nothing where the transport has proved its key. Throws RefusedError without a `sign`. */
export const makeProof = (
  connection: Pick<Connection, 'peerKey' | 'exporter'>,
  transcript: Transcript,
  role: 'acceptor' | 'dialler',
  sign: Signer | undefined,
): Proof => {
  if (connection.peerKey !== undefined) return {};
  if (sign === undefined) throw new RefusedError('key_mismatch', { detail: 'the transport proves no key' });
  const binding = bindingOf(connection);
  const signature = Buffer.from(sign(encode(transcript, role, binding))).toString('base64url');
  return { signature, ...(binding === undefined ? {} : { binding }) };
};

/**
 * The key that the membership of the peer has to name: the one that the transport has proved, else the one that it
 * names itself, which {@link checkProof} then has the peer prove.
 */
export const expectedKey = (connection: Pick<Connection, 'peerKey'>, membership: string): Uint8Array => {
  if (connection.peerKey !== undefined) return connection.peerKey;
  try {
    return readMembership(membership).publicKey;
  } catch (cause) {
    throw new RefusedError('membership_invalid', { detail: 'the membership cannot be read', cause });
  }
};

/**
 * Checks the proof of `peer`, who plays `role`. Says whether TLS is inspected on the way, which also counts as true
 * where that cannot be told. Throws RefusedError `key_mismatch`.
 */
export const checkProof = (
  connection: Pick<Connection, 'peerKey' | 'exporter'>,
  transcript: Transcript,
  role: 'acceptor' | 'dialler',
  peer: Membership,
  { signature, binding }: Proof,
): { readonly inspected: boolean } => {
  if (connection.peerKey !== undefined) return { inspected: false };
  const message = encode(transcript, role, binding);
  if (signature === undefined || !verifySignature(peer.publicKey, message, Buffer.from(signature, 'base64url'))) {
    throw new RefusedError('key_mismatch', { detail: 'the peer does not prove the key of its membership' });
  }
  const own = bindingOf(connection);
  return { inspected: own === undefined || own !== binding };
};
