/** What both TCP transports take from their TLS socket. */
import type { TLSSocket } from 'node:tls';
import { TransportError } from '../errors.ts';
import { formatHostPort, unmapIPv4 } from './address.ts';

/** RFC 5705 label of the keying material that ties a handshake to its TLS connection. */
const EXPORTER_LABEL = 'EXPORTER-gitpod-tunnel';
/** As long as the hash of the strongest of the usual cipher suites needs it; two parties never meet by chance. */
const EXPORTER_BYTES = 32;

/**
 * Keying material that only the two ends of this TLS connection have (RFC 5705, RFC 8446 section 7.5). Undefined below
 * TLS 1.3, where a third party can bring two connections to the same secrets (RFC 7627), and for a socket that is gone.
 */
export const exporterOf = (socket: TLSSocket): Uint8Array | undefined => {
  if (socket.getProtocol() !== 'TLSv1.3') return undefined;
  try {
    // The same context at both ends: none.
    return new Uint8Array(socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0)));
  } catch {
    return undefined;
  }
};

/** `address:port` of the peer. Throws {@link TransportError} for a socket that is gone. */
export const remoteAddressOf = (socket: TLSSocket): string => {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) {
    throw new TransportError('the connection ended at once');
  }
  return formatHostPort(unmapIPv4(remoteAddress), remotePort);
};
