/** Terminates TLS on sockets that somebody else accepted. */
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { TicketKeys } from '../access/ticket-keys.ts';
import type { CertificateStore } from './certificates.ts';
import { plainAddress } from './connections.ts';
import type { EdgeLimits } from './edge.ts';
import { TLS_OPTIONS } from './tls-options.ts';

export interface TlsServer {
  accept(socket: Socket): void;
  close(): void;
}

export const createTlsServer = (deps: {
  readonly log: Logger;
  readonly limits: Pick<EdgeLimits, 'tlsHandshakeTimeoutMs'>;
  readonly certificates: CertificateStore;
  readonly ticketKeys: Pick<TicketKeys, 'current' | 'onChange'> | undefined;
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
    log.debug({ err: error, clientAddress: plainAddress(socket.remoteAddress) }, 'TLS handshake failed');
    socket.destroy();
  });
  const stopFollowing = ticketKeys?.onChange((key) => server.setTicketKeys(key));
  return {
    accept: (socket) => void server.emit('connection', socket),
    close: () => void stopFollowing?.(),
  };
};
