/** Connections to what runs in an environment: TCP, and TLS over it where the port speaks https. */
import { connect as connectSocket, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { StreamRefusal } from '../../shared/src/errors.ts';
import type { UpstreamConnection } from './splice.ts';

/** An upstream could not be reached; `code` is what the gateway is told. */
export class UpstreamError extends Error {
  override readonly name = 'UpstreamError';
  readonly code: StreamRefusal | 'upstream_reset';
  constructor(code: StreamRefusal | 'upstream_reset', message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}

/** By `errno` of connect(2); what is not listed counts as refused. */
const CONNECT_FAILURES: Readonly<Record<string, StreamRefusal>> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'refused',
  // Nothing on the way knows the address: the same for a person as no answer at all.
  EHOSTUNREACH: 'timeout',
  ENETUNREACH: 'timeout',
  EHOSTDOWN: 'timeout',
  ETIMEDOUT: 'timeout',
  // Out of descriptors, ports or memory: a limit of this machine, not a property of the upstream.
  EMFILE: 'limit',
  ENFILE: 'limit',
  EADDRNOTAVAIL: 'limit',
  ENOBUFS: 'limit',
  ENOMEM: 'limit',
};

const errorCode = (error: unknown): string => (error as NodeJS.ErrnoException | undefined)?.code ?? '';

/** The code of a failed race: of the first attempt that was plainly refused, else of the first. */
export const connectFailure = (error: unknown): StreamRefusal => {
  const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const codes = errors.map((entry) => CONNECT_FAILURES[errorCode(entry)] ?? 'refused');
  return codes.includes('refused') ? 'refused' : (codes[0] ?? 'refused');
};

/** Connects to an address (never a name). Rejects with the error of the socket or the signal's reason. */
export const connectTcp = (
  target: { address: string; port: number },
  { signal }: { signal: AbortSignal },
): Promise<Socket> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const socket = connectSocket({ host: target.address, port: target.port, allowHalfOpen: true, noDelay: true });
    const onAbort = (): void => {
      reject(signal.reason as Error);
      socket.destroy();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', (error) => {
      signal.removeEventListener('abort', onAbort);
      reject(error);
    });
    socket.once('connect', () => {
      signal.removeEventListener('abort', onAbort);
      socket.removeAllListeners('error');
      // Nobody listens between here and the splice; a loss then shows as `destroyed`.
      socket.on('error', () => undefined);
      resolve(socket);
    });
  });

export const plainConnection = (socket: Socket): UpstreamConnection => ({
  duplex: socket,
  reset: () => void socket.resetAndDestroy(),
});

/** What OpenSSL says when the first bytes are no TLS record. */
const NOT_TLS: ReadonlySet<string> = new Set([
  'ERR_SSL_WRONG_VERSION_NUMBER',
  'ERR_SSL_PACKET_LENGTH_TOO_LONG',
  'ERR_SSL_HTTP_REQUEST',
]);

const tlsFailure = (error: unknown, socket: Socket): UpstreamError => {
  const code = errorCode(error);
  // A clean end in the middle of the handshake: plain text shorter than a record header, or nothing at all.
  const endedEarly = code === 'ECONNRESET';
  if (NOT_TLS.has(code) || (endedEarly && socket.bytesRead > 0)) {
    return new UpstreamError('upstream_not_tls', 'the upstream does not speak TLS', { cause: error });
  }
  if (endedEarly)
    return new UpstreamError('refused', 'the upstream hung up before the TLS handshake', { cause: error });
  return new UpstreamError('upstream_reset', 'the TLS handshake with the upstream failed', { cause: error });
};

/**
 * Speaks TLS over a connected socket. `host` becomes the SNI where it is a name. Without `trust` the certificate is not
 * verified: it is the environment's own, behind a tunnel that has authenticated the runner.
 */
export const startTls = (
  socket: Socket,
  host: string,
  { signal, trust }: { signal: AbortSignal; trust?: readonly string[] | undefined },
): Promise<UpstreamConnection> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) {
      socket.destroy();
      return reject(signal.reason as Error);
    }
    const secure = connectTls({
      socket,
      ...(isIP(host) === 0 ? { servername: host } : { host }),
      ...(trust ? { ca: [...trust] } : { rejectUnauthorized: false }),
      ALPNProtocols: ['http/1.1'],
    });
    const onAbort = (): void => {
      reject(signal.reason as Error);
      secure.destroy();
      socket.destroy();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    secure.once('error', (error) => {
      signal.removeEventListener('abort', onAbort);
      reject(tlsFailure(error, socket));
      socket.destroy();
    });
    secure.once('secureConnect', () => {
      signal.removeEventListener('abort', onAbort);
      secure.removeAllListeners('error');
      secure.on('error', () => undefined);
      resolve({
        duplex: secure,
        reset() {
          // The socket below: TLSSocket.resetAndDestroy() throws on one that was wrapped.
          socket.resetAndDestroy();
          secure.destroy();
        },
      });
    });
  });
