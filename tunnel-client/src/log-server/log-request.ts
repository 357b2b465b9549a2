/** `GET /logs?follow=…&tail=…&since=…`, with `Last-Event-ID`. */
import type { IncomingMessage } from 'node:http';
import type { LogStart } from './log-source.ts';

const LOG_PATH = '/logs';

export interface LogRequest {
  readonly format: 'text' | 'events';
  readonly follow: boolean;
  /** Last-Event-ID, else `since`, else `tail`, else all: who goes on somewhere gets all from there. */
  readonly start: LogStart;
}

export type LogRequestProblem = {
  readonly status: 400 | 404 | 405;
  readonly code: 'bad_request' | 'not_found' | 'method_not_allowed';
  readonly message: string;
};

const parseCount = (text: string): number | undefined => {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN;
  return Number.isSafeInteger(value) ? value : undefined;
};
const FLAGS: Readonly<Record<string, boolean>> = { true: true, 1: true, '': true, false: false, 0: false };

/** Whether `Accept` names the type with a weight above 0 (RFC 9110 section 12.5.1). */
const accepts = (header: string | undefined, type: string): boolean =>
  (header ?? '').split(',').some((entry) => {
    const [name = '', ...parameters] = entry.split(';').map((part) => part.trim().toLowerCase());
    return name === type && !parameters.some((parameter) => /^q=0(?:\.0*)?$/.test(parameter));
  });

const badRequest = (message: string): LogRequestProblem => ({ status: 400, code: 'bad_request', message });

export const parseLogRequest = (request: IncomingMessage): LogRequest | LogRequestProblem => {
  const [path, ...query] = (request.url ?? '').split('?');
  if (path !== LOG_PATH) return { status: 404, code: 'not_found', message: `the log is at ${LOG_PATH}` };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return { status: 405, code: 'method_not_allowed', message: 'a log can only be read' };
  }
  const parameters = new URLSearchParams(query.join('?'));
  const flag = parameters.get('follow') ?? 'true';
  if (!Object.hasOwn(FLAGS, flag)) return badRequest('follow must be true or false');
  const counts = { tail: parameters.get('tail'), since: parameters.get('since') };
  const [tail, since] = [counts.tail, counts.since].map((text) => (text === null ? undefined : parseCount(text)));
  if (counts.tail !== null && tail === undefined) return badRequest('tail must be a number of lines');
  if (counts.since !== null && since === undefined) return badRequest('since must be an offset in bytes');

  const lastEvent = parseCount(request.headers['last-event-id']?.toString() ?? '');
  const from = lastEvent ?? since;
  const start: LogStart =
    from !== undefined
      ? { kind: 'since', offset: from }
      : tail !== undefined
        ? { kind: 'tail', lines: tail }
        : { kind: 'all' };
  const format = accepts(request.headers.accept, 'text/event-stream') ? 'events' : 'text';
  return { format, follow: FLAGS[flag] === true, start };
};
