/**
 * What follows a failed attempt. Pure.
 *
 * The next leg takes the request when this one refused it or was lost before the target was connected; another
 * connection does when a kept one turns out to be closed. Both only while the whole request is still here, and, once it
 * may have reached the application, only if it is idempotent (RFC 9110 section 9.2.2).
 */
import { LegClosedError, StreamRefusedError } from '../../../shared/src/errors.ts';
import type { UpstreamConnection } from './upstream-connection.ts';
import { errorOf } from './upstream-errors.ts';

/** Methods that do no more when they arrive twice (RFC 9110 section 9.2.2), without those that WebDAV locks with. */
const IDEMPOTENT: ReadonlySet<string> = new Set([
  'GET',
  'HEAD',
  'OPTIONS',
  'PUT',
  'DELETE',
  'PROPFIND',
  'REPORT',
  'SEARCH',
  'QUERY',
]);
export const isIdempotent = (method: string): boolean => IDEMPOTENT.has(method);

/** Tries of one request over all legs and connections: each ended at once, but together they must not take long. */
export const MAX_TRIES = 5;

export interface Attempt {
  /** Absent: there was none to be had. */
  readonly connection: Pick<UpstreamConnection, 'reused' | 'connected'> | undefined;
  /** The request began to be written. */
  readonly sent: boolean;
  /** Something of a response was there. */
  readonly answered: boolean;
}

export const nextStep = (
  failure: unknown,
  attempt: Attempt,
  request: {
    readonly repeatable: boolean;
    readonly whole: boolean;
    readonly tries: number;
    readonly moreLegs: boolean;
  },
): 'fail' | 'next_leg' | 'fresh_connection' => {
  if (!request.whole || attempt.answered || request.tries >= MAX_TRIES) return 'fail';
  const nextLeg = request.moreLegs ? 'next_leg' : 'fail';
  if (failure instanceof StreamRefusedError) {
    return failure.code === 'draining' || failure.code === 'limit' ? nextLeg : 'fail';
  }
  const { connection } = attempt;
  const code = failure instanceof LegClosedError ? 'tunnel_lost' : errorOf(failure);
  if (connection?.reused) {
    if (attempt.sent && !request.repeatable) return 'fail';
    if (code === 'tunnel_lost') return nextLeg;
    return code === 'upstream_reset' ? 'fresh_connection' : 'fail';
  }
  return code === 'tunnel_lost' && !connection?.connected ? nextLeg : 'fail';
};
