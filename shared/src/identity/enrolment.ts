/**
 * The requests by which a runner gets its membership, and the bytes that it signs. Both travel over HTTPS to
 * `https://api.<domain>`; the signature proves possession of the runner's Ed25519 key.
 *
 *     POST /v1/runners/join    first time, with an exchange token: pins the key
 *     POST /v1/runners/renew   from half-life on, with the pinned key alone
 */
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { gatewayAddressSchema } from '../protocol/messages.ts';

export const JOIN_PATH = '/v1/runners/join';
export const RENEW_PATH = '/v1/runners/renew';
export const GATEWAYS_PATH = '/v1/gateways';

const bytes32 = z.string().regex(/^[A-Za-z0-9_-]{43}$/, 'must be 32 bytes in base64url');
const bytes64 = z.string().regex(/^[A-Za-z0-9_-]{86}$/, 'must be 64 bytes in base64url');

export const renewRequestSchema = z.object({
  runnerId: z.string().min(1).max(64),
  /** Wall clock of the runner, ms since the epoch. */
  time: z.number().int().nonnegative(),
  /** 32 random bytes, remembered by the gateway for two minutes. */
  nonce: bytes32,
  signature: bytes64,
});
export type RenewRequest = z.output<typeof renewRequestSchema>;

export const joinRequestSchema = renewRequestSchema.extend({
  exchangeToken: z.string().min(1).max(256),
  /** Ed25519, base64url. */
  publicKey: bytes32,
});
export type JoinRequest = z.output<typeof joinRequestSchema>;

/** A JSON Web Key Set (RFC 7517): the public keys of the authority, current and previous. */
const jwksSchema = z.object({ keys: z.array(z.record(z.string(), z.unknown())).min(1).max(16) });
export type JsonWebKeySet = z.output<typeof jwksSchema>;

export const enrolmentResponseSchema = z.object({
  runnerId: z.string(),
  organization: z.string().optional(),
  /** JWT, see membership.ts. */
  membership: z.string(),
  /** `iss` of every membership of this cluster. */
  issuer: z.string(),
  trust: jwksSchema,
  gateways: z.array(gatewayAddressSchema).max(64),
});
export type EnrolmentResponse = z.output<typeof enrolmentResponseSchema>;

/** `GET /v1/gateways`: where gateways are, and who signs their memberships. All of it is public. */
export const gatewaysResponseSchema = enrolmentResponseSchema
  .pick({ gateways: true })
  .extend({ issuer: z.string().optional(), trust: jwksSchema.optional() });

/** Body of every answer of the API that is not 2xx. */
export const apiErrorSchema = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    requestId: z.string().optional(),
    /** With `clock_skew`: the gateway's wall clock, ms since the epoch. */
    serverTime: z.number().optional(),
    retryAfterMs: z.number().optional(),
  }),
});
export type ApiError = z.output<typeof apiErrorSchema>;

const payload = (kind: string, fields: readonly (string | number)[]): Uint8Array =>
  new TextEncoder().encode([`gitpod-gateway/${kind}/1`, ...fields].join('\n'));

/**
 * What a runner signs to join. `audience` is the host name of the API, lower-case and without a port, so that an
 * answer given to one cluster is worth nothing at another.
 */
export const joinPayload = (audience: string, request: Omit<JoinRequest, 'signature'>): Uint8Array =>
  payload('join', [
    audience,
    request.runnerId,
    request.publicKey,
    createHash('sha256').update(request.exchangeToken).digest('base64url'),
    request.time,
    request.nonce,
  ]);

/** What a runner signs to renew its membership. */
export const renewPayload = (audience: string, request: Omit<RenewRequest, 'signature'>): Uint8Array =>
  payload('renew', [audience, request.runnerId, request.time, request.nonce]);
