/** What the sign-in answers on any host: a page, a redirect, a failure. Nothing of it is kept by anybody. */
import type { ServerResponse } from 'node:http';
import { GATEWAY_ERRORS, type GatewayErrorCode } from '../../errors.ts';
import type { Exchange } from '../../proxy/exchange.ts';
import { isNavigation } from '../../proxy/navigation.ts';
import { failedPage, type Page } from './pages.ts';

interface Options {
  readonly status?: number;
  readonly cookies?: readonly string[];
  readonly errorCode?: GatewayErrorCode;
}

const begin = (exchange: Exchange, status: number, cookies: readonly string[]): ServerResponse => {
  // The two classes have the same methods with types that do not unite.
  const response = exchange.response as ServerResponse;
  response.statusCode = status;
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('X-Content-Type-Options', 'nosniff');
  response.setHeader('X-Request-Id', exchange.requestId);
  if (cookies.length > 0) response.setHeader('Set-Cookie', [...cookies]);
  // Whatever body came is thrown away, so that the next request can follow.
  exchange.request.resume();
  return response;
};

export const answerPage = (exchange: Exchange, page: Page, { status = 200, cookies = [], errorCode }: Options = {}) => {
  const response = begin(exchange, status, cookies);
  if (errorCode !== undefined) {
    exchange.record.errorCode = errorCode;
    response.setHeader('Gateway-Error', errorCode);
  }
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.setHeader('Content-Security-Policy', page.policy);
  response.setHeader('Referrer-Policy', 'same-origin');
  response.setHeader('Content-Length', String(Buffer.byteLength(page.html)));
  if (exchange.method !== 'HEAD') exchange.record.bytesSent += Buffer.byteLength(page.html);
  response.end(exchange.method === 'HEAD' ? undefined : page.html);
};

/** The browser asks for the new address with GET, whatever it asked with (RFC 9110 section 15.4.4). */
export const answerRedirect = (exchange: Exchange, location: string, cookies: readonly string[] = []): void => {
  const isSafe = exchange.method === 'GET' || exchange.method === 'HEAD';
  const response = begin(exchange, isSafe ? 302 : 303, cookies);
  response.setHeader('Location', location);
  // Addresses of the sign-in have codes in them.
  response.setHeader('Referrer-Policy', 'no-referrer');
  response.setHeader('Content-Length', '0');
  response.end();
};

/** A page that offers to start again; for programs the error as everywhere. */
export const answerFailure = (
  exchange: Exchange,
  code: GatewayErrorCode,
  { again, cookies = [] }: { readonly again: string; readonly cookies?: readonly string[] },
): void => {
  if (!isNavigation(exchange.method, exchange.rawHeaders)) return exchange.fail(code);
  const { status, title, message } = GATEWAY_ERRORS[code];
  answerPage(exchange, failedPage({ title, message }, again, exchange.requestId), { status, cookies, errorCode: code });
};

/** A browser that shows the answer as a page of its own and runs scripts on it; all of them say so since 2023. */
export const isDocument = (exchange: Exchange): boolean =>
  fieldOf(exchange.rawHeaders, 'sec-fetch-dest') === 'document';

/** The value of a field; undefined where it is missing or comes twice. */
export const fieldOf = (rawHeaders: readonly string[], name: string): string | undefined => {
  const values = rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === name);
  return values.length === 1 ? values[0] : undefined;
};

export const queryOf = ({ target }: Exchange): URLSearchParams => {
  const start = target.indexOf('?');
  return new URLSearchParams(start < 0 ? '' : target.slice(start));
};
