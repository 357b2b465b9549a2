/** Terminates TLS on sockets that somebody else accepted. */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { Clock } from '../../../shared/src/clock.ts';
import type { CertificateStore } from './certificates.ts';
import { plainAddress } from './connections.ts';
import type { EdgeLimits } from './edge.ts';
import { TICKET_KEY_BYTES, TICKET_KEY_ROTATION_MS, TLS_OPTIONS } from './tls-options.ts';

export interface TlsServer {
  accept(socket: Socket): void;
  close(): void;
}

export const createTlsServer = (deps: {
  readonly clock: Clock;
  readonly log: Logger;
  readonly limits: Pick<EdgeLimits, 'tlsHandshakeTimeoutMs'>;
  readonly certificates: CertificateStore;
  readonly onSecure: (socket: TLSSocket) => void;
}): TlsServer => {
  const { certificates, clock, log } = deps;
  const server = createServer({
    ...TLS_OPTIONS,
    ...certificates.fallback,
    SNICallback: (serverName, callback) => callback(null, certificates.contextFor(serverName)),
    ALPNProtocols: ['h2', 'http/1.1'],
    handshakeTimeout: deps.limits.tlsHandshakeTimeoutMs,
    ticketKeys: randomBytes(TICKET_KEY_BYTES),
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    socket.on('error', (error) => log.debug({ err: error }, 'connection failed'));
    deps.onSecure(socket);
  });
  server.on('tlsClientError', (error, socket) => {
    log.debug({ err: error, clientAddress: plainAddress(socket.remoteAddress) }, 'TLS handshake failed');
    socket.destroy();
  });
  let cancelRotation = (): void => {};
  const rotate = (): void => {
    cancelRotation = clock.timer(TICKET_KEY_ROTATION_MS, () => {
      server.setTicketKeys(randomBytes(TICKET_KEY_BYTES));
      rotate();
    });
  };
  rotate();
  return {
    accept: (socket) => void server.emit('connection', socket),
    close: () => cancelRotation(),
  };
};
