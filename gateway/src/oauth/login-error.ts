/** What the client is told when a login could not be finished. */
import type { GatewayErrorCode } from '../errors.ts';
import { errorOf } from '../proxy/upstream-errors.ts';

/**
 * Codes for ports whose text speaks of ports, or whose page would ask again by itself: a login is started anew
 * instead, since its code works once (RFC 6749 section 4.1.2).
 */
const LOGIN_CODES: Readonly<Partial<Record<GatewayErrorCode, GatewayErrorCode>>> = {
  upstream_refused: 'login_service_unreachable',
  upstream_connect_timeout: 'login_service_unreachable',
  upstream_forbidden: 'login_not_configured',
  upstream_reset: 'login_interrupted',
  upstream_speaks_tls: 'upstream_invalid',
  upstream_speaks_plain: 'upstream_invalid',
  tunnel_lost: 'login_interrupted',
  runner_offline: 'login_runner_offline',
  draining: 'login_unavailable',
  overloaded: 'login_unavailable',
  too_many_requests: 'login_unavailable',
  directory_unavailable: 'login_unavailable',
};

/** Fastify's errors for a body that it does not take. */
const FASTIFY_CODES: Readonly<Record<string, GatewayErrorCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'body_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'bad_request',
  FST_REPLY_FROM_BAD_GATEWAY: 'upstream_invalid',
};
const codeOf = (error: unknown): string | undefined => {
  const code = (error as { readonly code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
};

export const loginError = (error: unknown): GatewayErrorCode => {
  const code = codeOf(error);
  const known = code === undefined ? undefined : FASTIFY_CODES[code];
  if (known) return known;
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') return 'upstream_timeout';
  if (code?.startsWith('FST_')) {
    const { statusCode } = error as { readonly statusCode?: number };
    return statusCode !== undefined && statusCode < 500 ? 'bad_request' : 'internal';
  }
  const found = errorOf(error);
  return LOGIN_CODES[found] ?? found;
};
