/**
 * Reads the first bytes of a connection that a trusted proxy made: the PROXY protocol's header, which is taken out, and
 * on plain listeners whether HTTP/2 follows, which stays.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../../shared/src/clock.ts';
import { readProxyHeader, type ProxyHeader } from './proxy-header.ts';

/**
 * From the acceptance of a connection until it is clear what it is. The header comes with the first packet. Beyond: the
 * connection is closed.
 */
export const START_TIMEOUT_MS = 5_000;
/** How a client begins that knows that the server speaks HTTP/2 (RFC 9113 section 3.4). */
const HTTP2_PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export interface ConnectionStart {
  /** Undefined: the connection has none. */
  readonly header: ProxyHeader | undefined;
  readonly isHttp2: boolean;
}

export interface StartOptions {
  /** HTTP without TLS is looked for behind the header. */
  readonly plain: boolean;
  /** A header may come. Else its bytes are the client's. */
  readonly header: boolean;
}

const NO_HEADER = { state: 'absent' } as const;

/** `undefined`: more bytes are needed. `invalid`: they are no header, although they begin like one. */
const readStart = (
  bytes: Buffer,
  { plain, header: mayHaveHeader }: StartOptions,
): { readonly start: ConnectionStart; readonly length: number } | 'invalid' | undefined => {
  const reading = mayHaveHeader ? readProxyHeader(bytes) : NO_HEADER;
  if (reading.state === 'incomplete') return undefined;
  if (reading.state === 'invalid') return 'invalid';
  const isHeader = reading.state === 'header';
  const header = isHeader ? reading.header : undefined;
  const length = isHeader ? reading.length : 0;
  if (!plain) return { start: { header, isHttp2: false }, length };
  const rest = bytes.subarray(length, length + HTTP2_PREFACE.length);
  const isAlike = rest.compare(HTTP2_PREFACE, 0, rest.length) === 0;
  if (isAlike && rest.length < HTTP2_PREFACE.length) return undefined;
  return { start: { header, isHttp2: isAlike }, length };
};

export interface ConnectionStarts {
  /**
   * Calls back once, with the socket as if nothing of it had been read but the header; `invalid` when it has a broken
   * one. Never, when the connection ends before or takes too long: it is destroyed then.
   */
  read(socket: Socket, options: StartOptions, callback: (start: ConnectionStart | 'invalid') => void): void;
}

export const createConnectionStarts = (deps: { readonly clock: Clock }): ConnectionStarts => ({
  read(socket, options, callback) {
    let bytes: Buffer = Buffer.alloc(0);
    const onReadable = (): void => {
      for (let chunk: Buffer | null; (chunk = socket.read() as Buffer | null) !== null;) {
        bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
        const found = readStart(bytes, options);
        if (found === undefined) continue;
        stop();
        if (found === 'invalid') return callback(found);
        const rest = bytes.subarray(found.length);
        if (rest.length > 0) socket.unshift(rest);
        return callback(found.start);
      }
    };
    const end = (): void => {
      stop();
      socket.destroy();
    };
    const cancel = deps.clock.timer(START_TIMEOUT_MS, end);
    const stop = (): void => {
      cancel();
      socket.off('readable', onReadable).off('end', end).off('error', end).off('close', end);
    };
    socket.on('readable', onReadable).on('end', end).on('error', end).on('close', end);
  },
});
