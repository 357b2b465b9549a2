/** The answer the gateway gives by itself: which form a client gets, and the headers that go with it. */
import { GATEWAY_ERRORS, type GatewayErrorCode, type GatewayErrorEntry } from '../errors.ts';
import { isNavigation } from '../proxy/navigation.ts';
import { ERROR_PAGE_POLICY } from './error-page-assets.ts';
import { errorText, renderErrorPage } from './error-page.ts';

export interface ErrorAnswer {
  readonly status: number;
  /** Name and value; the length of the body among them. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

export interface ErrorAnswerInput {
  readonly code: GatewayErrorCode;
  readonly requestId: string;
  readonly host: string;
  readonly method: string;
  readonly rawHeaders: readonly string[];
  readonly port?: number | undefined;
  readonly environmentId?: string | undefined;
  /** Overrides the one of the table. */
  readonly retryAfterSeconds?: number | undefined;
  /** Further field lines. */
  readonly fields?: readonly (readonly [name: string, value: string])[] | undefined;
  /** Wall clock, ms. */
  readonly now: number;
}

type Form = 'html' | 'json' | 'text';

/** Programs that people read the output of. */
const TERMINAL_CLIENTS = /^(?:curl|wget|httpie|xh)\//i;

const lowerCaseFields = (rawHeaders: readonly string[]): Map<string, string> => {
  const fields = new Map<string, string>();
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = (rawHeaders[index] ?? '').toLowerCase();
    const value = rawHeaders[index + 1] ?? '';
    const before = fields.get(name);
    fields.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return fields;
};

const chooseForm = (method: string, rawHeaders: readonly string[]): Form => {
  if (isNavigation(method, rawHeaders)) return 'html';
  const fields = lowerCaseFields(rawHeaders);
  if (/\bjson\b/i.test(fields.get('accept') ?? '')) return 'json';
  return TERMINAL_CLIENTS.test(fields.get('user-agent') ?? '') ? 'text' : 'json';
};

const BEARER = 'Bearer realm="gateway"';
/** What RFC 6750 section 3.1 calls a token that was shown and did not do. */
const BEARER_ERRORS: Readonly<Partial<Record<GatewayErrorCode, string>>> = {
  token_invalid: `${BEARER}, error="invalid_token"`,
  token_expired: `${BEARER}, error="invalid_token"`,
  token_forbidden: `${BEARER}, error="insufficient_scope"`,
};

const CONTENT_TYPES: Readonly<Record<Form, string>> = {
  html: 'text/html; charset=utf-8',
  json: 'application/json; charset=utf-8',
  text: 'text/plain; charset=utf-8',
};

const renderBody = (form: Form, input: ErrorAnswerInput, retryAfterSeconds: number | undefined): string => {
  const { status, title, message } = errorText(input);
  if (form === 'json') {
    return `${JSON.stringify({ error: { code: input.code, message: `${title}. ${message}`, requestId: input.requestId } })}\n`;
  }
  if (form === 'text') {
    return `${status} ${title}\n${message}\n\nCode:    ${input.code}\nRequest: ${input.requestId}\n`;
  }
  // Asking again would send the body of a form anew, which is the visitor's decision.
  const mayRepeat = input.method === 'GET' || input.method === 'HEAD';
  return renderErrorPage({ ...input, retryAfterSeconds: mayRepeat ? retryAfterSeconds : undefined });
};

/**
 * Builds the answer. No header carries text of the client. With HEAD the body is there for its length only: the caller
 * sends none.
 */
export const buildErrorAnswer = (input: ErrorAnswerInput): ErrorAnswer => {
  const entry: GatewayErrorEntry = GATEWAY_ERRORS[input.code];
  const retryAfterSeconds = input.retryAfterSeconds ?? entry.retryAfterSeconds;
  const form = chooseForm(input.method, input.rawHeaders);
  const body = renderBody(form, input, retryAfterSeconds);
  const headers: [string, string][] = [
    ['Content-Type', CONTENT_TYPES[form]],
    ['Content-Length', String(Buffer.byteLength(body))],
    ['Gateway-Error', input.code],
    ['X-Request-Id', input.requestId],
    ['Cache-Control', 'no-store'],
    ['X-Content-Type-Options', 'nosniff'],
    ['Referrer-Policy', 'no-referrer'],
  ];
  if (retryAfterSeconds !== undefined) headers.push(['Retry-After', String(Math.ceil(retryAfterSeconds))]);
  if (form === 'html') {
    // A page that has a port in a frame may show what is wrong with it; nobody frames the gateway's own hosts.
    const framing = input.environmentId === undefined ? "; frame-ancestors 'none'" : '';
    headers.push(['Content-Security-Policy', ERROR_PAGE_POLICY + framing]);
  }
  // RFC 9110 sections 15.5.2 and 15.5.6 demand these; `Bearer` makes no browser ask for a password.
  const challenge = BEARER_ERRORS[input.code] ?? (entry.status === 401 ? BEARER : undefined);
  if (challenge !== undefined) headers.push(['WWW-Authenticate', challenge]);
  if (entry.allow !== undefined) headers.push(['Allow', entry.allow]);
  for (const [name, value] of input.fields ?? []) headers.push([name, value]);
  return { status: entry.status, headers, body };
};
