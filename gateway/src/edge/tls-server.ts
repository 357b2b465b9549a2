/** Terminates TLS on sockets that somebody else accepted. */
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { TicketKeys } from '../access/ticket-keys.ts';
import type { CertificateStore } from './certificates.ts';
import type { LiveCertificates } from './live-certificates.ts';
import type { Peer } from './connections.ts';
import type { EdgeLimits } from './edge.ts';
import { TLS_OPTIONS } from './tls-options.ts';

export interface TlsServer {
  accept(socket: Socket): void;
  close(): void;
}

export const createTlsServer = (deps: {
  readonly log: Logger;
  readonly limits: Pick<EdgeLimits, 'tlsHandshakeTimeoutMs'>;
  readonly certificates: CertificateStore & Partial<Pick<LiveCertificates, 'onChange'>>;
  readonly ticketKeys: Pick<TicketKeys, 'current' | 'onChange'> | undefined;
  readonly peerOf: (socket: Socket) => Peer;
  readonly onSecure: (socket: TLSSocket) => void;
}): TlsServer => {
  const { certificates, log, ticketKeys } = deps;
  const server = createServer({
    ...TLS_OPTIONS,
    ...certificates.fallback,
    SNICallback: (serverName, callback) => callback(null, certificates.contextFor(serverName)),
    ALPNProtocols: ['h2', 'http/1.1'],
    handshakeTimeout: deps.limits.tlsHandshakeTimeoutMs,
    ...(ticketKeys ? { ticketKeys: ticketKeys.current() } : {}),
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    socket.on('error', (error) => log.debug({ err: error }, 'connection failed'));
    deps.onSecure(socket);
  });
  server.on('tlsClientError', (error, socket) => {
    log.debug({ err: error, clientAddress: deps.peerOf(socket).address }, 'TLS handshake failed');
    socket.destroy();
  });
  const stopFollowing = ticketKeys?.onChange((key) => server.setTicketKeys(key));
  // For clients without a server name; the others get their context from the callback above.
  const stopReplacing = certificates.onChange?.(() => {
    server.setSecureContext({ ...TLS_OPTIONS, ...certificates.fallback });
    // A new context has made up keys of its own.
    if (ticketKeys) server.setTicketKeys(ticketKeys.current());
  });
  return {
    accept: (socket) => void server.emit('connection', socket),
    close() {
      stopFollowing?.();
      stopReplacing?.();
    },
  };
};
