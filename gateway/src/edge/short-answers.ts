/** What the edge answers by itself: health checks, and the way to https. */
import type { ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';
import { publicUrl } from '../../../shared/src/hostname.ts';
import type { Exchange } from '../proxy/exchange.ts';
import type { GuardedRequest } from './request-guard.ts';

const HEALTH_PATH = '/_health';

export const isHealthCheck = (target: string): boolean =>
  target.startsWith(HEALTH_PATH) && (target.length === HEALTH_PATH.length || target[HEALTH_PATH.length] === '?');

export const answerShortly = (
  response: ServerResponse | Http2ServerResponse,
  status: number,
  headers: Readonly<Record<string, string>>,
  body = '',
): void => {
  // The two classes have the same methods with types that do not unite.
  const answer = response as ServerResponse;
  for (const [name, value] of Object.entries(headers)) answer.setHeader(name, value);
  answer.setHeader('Cache-Control', 'no-store');
  if (status !== 204) answer.setHeader('Content-Length', String(Buffer.byteLength(body)));
  answer.statusCode = status;
  answer.end(body);
};

export const redirectToHttps = (
  response: ServerResponse | Http2ServerResponse,
  { host, target }: Pick<Extract<GuardedRequest, { ok: true }>, 'host' | 'target'>,
  publicPort: number,
): void => {
  // Host and target have passed their grammars: neither can hold a line break.
  answerShortly(response, 308, { Location: publicUrl(host.host, publicPort, target === '*' ? '/' : target) });
};

export const answerHealth = (exchange: Pick<Exchange, 'method' | 'response' | 'fail'>): void => {
  if (exchange.method !== 'GET' && exchange.method !== 'HEAD') return exchange.fail('method_not_allowed');
  answerShortly(
    exchange.response,
    200,
    { 'Content-Type': 'text/plain; charset=utf-8' },
    exchange.method === 'HEAD' ? '' : 'ok\n',
  );
};
