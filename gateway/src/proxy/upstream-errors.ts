/** From whatever ended a request at the upstream's side to the code that the client is told. */
import { errors } from 'undici';
import {
  LegClosedError,
  StreamRefusedError,
  StreamResetError,
  type StreamRefusal,
} from '../../../shared/src/errors.ts';
import type { GatewayErrorCode } from '../errors.ts';

/** A failure that the gateway itself found; `code` is what the client is told. */
export class GatewayFailure extends Error {
  override readonly name = 'GatewayFailure';
  readonly code: GatewayErrorCode;
  constructor(code: GatewayErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}

/** A kept connection was closed before the request was written to it: nothing of the request was sent. */
export class ConnectionGoneError extends Error {
  override readonly name = 'ConnectionGoneError';
}

const REFUSED: Readonly<Record<StreamRefusal, GatewayErrorCode>> = {
  refused: 'upstream_refused',
  timeout: 'upstream_connect_timeout',
  not_exposed: 'port_not_exposed',
  unknown_environment: 'unknown_environment',
  forbidden_target: 'upstream_forbidden',
  limit: 'overloaded',
  draining: 'draining',
  upstream_not_tls: 'upstream_speaks_plain',
};

const RESET: Readonly<Record<StreamResetError['code'], GatewayErrorCode>> = {
  cancelled: 'upstream_reset',
  upstream_reset: 'upstream_reset',
  forbidden: 'upstream_forbidden',
  internal: 'upstream_reset',
  idle: 'upstream_timeout',
  leg_lost: 'tunnel_lost',
};

/** What undici says of an answer that is not HTTP, or not one message (RFC 9112). */
const INVALID: ReadonlySet<string> = new Set([
  'UND_ERR_HEADERS_OVERFLOW',
  'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  'UND_ERR_RES_EXCEEDED_MAX_SIZE',
]);
/** A head that undici refuses to write; the edge should have refused it before. */
const NOT_SENDABLE: ReadonlySet<string> = new Set([
  'UND_ERR_INVALID_ARG',
  'UND_ERR_NOT_SUPPORTED',
  'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH',
]);

/** A TLS record at the beginning: type 20 to 23, version 3.x (RFC 8446 section 5.1). A server's alert is type 21. */
const TLS_RECORD = /^[\x14-\x17]\x03[\x00-\x04]/;

export const errorOf = (error: unknown, context: { upstreamEnded?: boolean } = {}): GatewayErrorCode => {
  if (error instanceof GatewayFailure) return error.code;
  if (error instanceof StreamRefusedError) return REFUSED[error.code];
  if (error instanceof StreamResetError) return RESET[error.code];
  if (error instanceof LegClosedError) return 'tunnel_lost';
  if (error instanceof ConnectionGoneError) return 'upstream_reset';
  if (error instanceof errors.HTTPParserError) {
    // The bytes where parsing stopped; not in undici's types.
    const { data } = error as { readonly data?: string };
    return TLS_RECORD.test(data ?? '') ? 'upstream_speaks_tls' : 'upstream_invalid';
  }
  const code = (error as { code?: unknown } | undefined)?.code;
  if (typeof code === 'string') {
    if (INVALID.has(code)) return 'upstream_invalid';
    if (NOT_SENDABLE.has(code)) return 'bad_request';
    // undici uses one code for a connection that the upstream ended and for an answer out of turn (a 100 or 101 that
    // was not asked for): the first comes with an end of the stream.
    if (code === 'UND_ERR_SOCKET') return context.upstreamEnded === false ? 'upstream_invalid' : 'upstream_reset';
    return 'upstream_reset';
  }
  // No socket, stream or HTTP error comes without a code: this is a fault of the gateway.
  return 'internal';
};
