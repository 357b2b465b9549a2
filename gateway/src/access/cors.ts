/**
 * CORS on private ports (Fetch standard, "CORS protocol"). A preflight carries no credentials, so that no application
 * could ever answer one behind an access check: the gateway does. Whether the request that follows is let in is decided
 * on that request; its answer has the application's own CORS fields. Pure.
 */
import { fieldValue } from './origins.ts';

/** Name and value. */
export type FieldLine = readonly [name: string, value: string];

/** How long a browser may remember a preflight, ms: the longest that Chromium keeps one is 2 h; rules change rarely. */
const PREFLIGHT_MAX_AGE_MS = 10 * 60 * 1_000;

/** What a script may read of the gateway's own refusal. */
const EXPOSED = 'Gateway-Error, WWW-Authenticate, X-Request-Id';

export const isPreflight = (method: string, lines: readonly string[]): boolean =>
  method === 'OPTIONS' &&
  fieldValue(lines, 'origin') !== undefined &&
  fieldValue(lines, 'access-control-request-method') !== undefined;

/** With the gateway's own answer, so that a script of a listed origin can read why it was refused. */
export const refusalFields = (origin: string): FieldLine[] => [
  ['Access-Control-Allow-Origin', origin],
  ['Access-Control-Allow-Credentials', 'true'],
  ['Access-Control-Expose-Headers', EXPOSED],
  ['Vary', 'Origin'],
];

/** With credentials, `*` means nothing: method and headers are named as they were asked for. */
export const preflightFields = (origin: string, lines: readonly string[]): FieldLine[] => {
  const headers = fieldValue(lines, 'access-control-request-headers');
  return [
    ['Access-Control-Allow-Origin', origin],
    ['Access-Control-Allow-Credentials', 'true'],
    ['Access-Control-Allow-Methods', fieldValue(lines, 'access-control-request-method') ?? ''],
    ...(headers === undefined ? [] : [['Access-Control-Allow-Headers', headers] as const]),
    ['Access-Control-Max-Age', String(PREFLIGHT_MAX_AGE_MS / 1_000)],
    ['Vary', 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers'],
  ];
};
