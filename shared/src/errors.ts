/**
 * Errors that cross module borders. Decide on `code`, never on a message; `cause` is always kept.
 */

/** Which end of a leg or tunnel stream brought it to its end. */
export type EndedBy = 'local' | 'remote';

/**
 * Answer of the side that was asked to open a tunnel stream (STATUS frame). The number is what stands on the wire
 * and is never reused. A status other than `connected` promises that no byte reached the target.
 */
export const STREAM_STATUS = {
  connected: 0,
  refused: 1,
  timeout: 2,
  not_exposed: 3,
  unknown_environment: 4,
  forbidden_target: 5,
  limit: 6,
  draining: 7,
  /** TLS was asked for, and the upstream answered with something else. */
  upstream_not_tls: 8,
} as const;
export type StreamStatus = keyof typeof STREAM_STATUS;
export type StreamRefusal = Exclude<StreamStatus, 'connected'>;

/** Reason in a RESET frame. */
export const RESET_CODE = { cancelled: 0, upstream_reset: 1, forbidden: 2, internal: 3, idle: 4 } as const;
export type ResetCode = keyof typeof RESET_CODE;

/** Why a leg ended (`goodbye.code`). The first block is protocol faults, the second is refusals (see {@link REFUSALS}). */
export type LegCloseCode =
  | 'closed'
  | 'replaced'
  | 'lost'
  | 'handshake_timeout'
  | 'protocol_error'
  | 'flow_control'
  | 'frame_too_large'
  | 'limit'
  | 'data_path'
  | 'internal'
  | Refusal;

/**
 * Reasons a join, a renewal or a leg is refused with, and what a person does about each. `retry` says whether the
 * same attempt may succeed later without anybody acting.
 */
export const REFUSALS = {
  token_invalid: {
    retry: false,
    hint: 'The exchange token is not known to this gateway. Make a new one: gateway runner token ID',
  },
  token_expired: { retry: false, hint: 'Exchange tokens live for 24 hours. Make a new one: gateway runner token ID' },
  token_used: {
    retry: false,
    hint: 'The exchange token was used with another key. Make a new one: gateway runner token ID',
  },
  runner_unknown: {
    retry: false,
    hint: 'No runner has this id at this gateway. Check the runner id and the gateway URL',
  },
  runner_mismatch: { retry: false, hint: 'The token or membership belongs to another runner. Check the runner id' },
  key_mismatch: {
    retry: false,
    hint: 'The key is not the one on record. Use the state directory that joined, or make a new token: gateway runner token ID',
  },
  clock_skew: { retry: true, hint: 'The clocks of runner and gateway differ too much. Synchronise them (NTP)' },
  revoked: { retry: false, hint: 'The runner was revoked. An operator can enrol it again: gateway runner token ID' },
  membership_invalid: {
    retry: false,
    hint: 'The membership was not signed by the authority of this cluster, or is not for this role',
  },
  membership_expired: { retry: true, hint: 'The membership has expired. It is renewed with the key of the runner' },
  inspected_tls: {
    retry: false,
    hint: 'TLS is inspected on the way, which the organization does not allow. Except tunnel.<domain> from inspection',
  },
  environment_limit: { retry: false, hint: 'The runner has as many environments as it may have. Remove some' },
  protocol_version: { retry: false, hint: 'Gateway and tunnel client share no protocol version. Update the older one' },
  draining: {
    retry: true,
    hint: 'The gateway is shutting down. Another one, or this one after its restart, takes the leg',
  },
  limit: { retry: true, hint: 'Too many attempts at once. It is tried again after a pause' },
  unavailable: { retry: true, hint: 'The directory cannot be reached. It is tried again after a pause' },
} as const;
export type Refusal = keyof typeof REFUSALS;

export const isRefusal = (code: unknown): code is Refusal => typeof code === 'string' && Object.hasOwn(REFUSALS, code);

/** A join, renewal or leg was refused. `serverTime` (ms since the epoch) comes with `clock_skew`. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
  readonly code: Refusal;
  readonly by: EndedBy;
  readonly serverTime: number | undefined;
  readonly retryAfterMs: number | undefined;
  constructor(
    code: Refusal,
    options: { detail?: string; by?: EndedBy; serverTime?: number; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(`${code}: ${options.detail ?? REFUSALS[code].hint}`, { cause: options.cause });
    this.code = code;
    this.by = options.by ?? 'local';
    this.serverTime = options.serverTime;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** The other side answered STATUS other than `connected`: no byte reached the target. */
export class StreamRefusedError extends Error {
  override readonly name = 'StreamRefusedError';
  readonly code: StreamRefusal;
  constructor(code: StreamRefusal) {
    super(`the tunnel stream was refused: ${code}`);
    this.code = code;
  }
}

/** A tunnel stream ended before its time: RESET by one side, or its leg was lost. */
export class StreamResetError extends Error {
  override readonly name = 'StreamResetError';
  readonly code: ResetCode | 'leg_lost';
  readonly by: EndedBy;
  constructor(code: ResetCode | 'leg_lost', by: EndedBy, options: { cause?: unknown } = {}) {
    super(`the tunnel stream was reset by the ${by} side: ${code}`, options);
    this.code = code;
    this.by = by;
  }
}

/** A leg ended, with the code of its `goodbye` (or the code this side would have sent). */
export class LegClosedError extends Error {
  override readonly name = 'LegClosedError';
  readonly code: LegCloseCode;
  readonly by: EndedBy;
  constructor(code: LegCloseCode, by: EndedBy, reason?: string, options: { cause?: unknown } = {}) {
    super(`the leg was closed by the ${by} side: ${code}${reason ? ` (${reason})` : ''}`, options);
    this.code = code;
    this.by = by;
  }
}

/**
 * `no_http2`: TLS came up without HTTP/2. `refused`: what answered there did not take the tunnel (its status is in the
 * message). `not_available`: this machine lacks what the transport needs. `turned_away`: the connection was made, and the
 * peer ended it before the handshake without a word, as one does that has too many of them.
 */
export type TransportFailure = 'no_http2' | 'refused' | 'not_available' | 'turned_away';

/** A connection could not be made, or was lost, below the protocol. */
export class TransportError extends Error {
  override readonly name = 'TransportError';
  readonly by: EndedBy;
  /** What kind of failure, where somebody decides on it. */
  readonly code: TransportFailure | undefined;
  constructor(message: string, options: { by?: EndedBy; cause?: unknown; code?: TransportFailure } = {}) {
    super(message, { cause: options.cause });
    this.by = options.by ?? 'remote';
    this.code = options.code;
  }
}

/** The message of whatever was thrown, with those of its causes. */
export const describeError = (error: unknown): string => {
  const parts: string[] = [];
  for (let current = error, depth = 0; current !== undefined && current !== null && depth < 5; depth++) {
    if (!(current instanceof Error)) {
      parts.push(typeof current === 'string' ? current : JSON.stringify(current));
      break;
    }
    const inner = current instanceof AggregateError ? current.errors.map(describeError).join('; ') : current.message;
    // Many repeat what caused them.
    if (inner && !parts.some((part) => part.includes(inner))) parts.push(inner);
    current = current.cause;
  }
  return parts.join(': ') || 'unknown error';
};
