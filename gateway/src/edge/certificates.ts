/** Certificates of the public listeners, picked by the server name of the TLS handshake. */
import type { SecureContext } from 'node:tls';

export interface CertificateStore {
  /** The context for a server name; the first certificate for a name that none covers, and for none. */
  contextFor(serverName: string | undefined): SecureContext;
}
