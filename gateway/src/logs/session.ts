/**
 * The viewer's session: the token itself in a cookie that only this host gets, that no script can read, and that ends
 * with the token. So there is nothing to store, and every gateway of a cluster knows it.
 */
import type { ServerResponse } from 'node:http';
import * as z from 'zod';
import type { Clock } from '../../../shared/src/clock.ts';
import { isOwnRequest, LOGS_COOKIE, type LogCredential } from '../access/log-access.ts';
import { MAX_JWT_LENGTH } from '../access/signing-keys.ts';
import type { VerifiedToken } from '../access/tokens.ts';
import type { Exchange } from '../proxy/exchange.ts';

/** Who answers at the log port. */
export type LogSource = 'builtin' | 'upstream';

/** What the viewer is told. */
export interface LogSession {
  readonly environment: string;
  readonly source: LogSource;
  /** ms since the epoch. */
  readonly expiresAt: number;
}

/** Body of the exchange, bytes: a token in a little JSON. Beyond: 413. */
const MAX_BODY_BYTES = MAX_JWT_LENGTH + 256;
/** Until that body has arrived, ms; it is one packet. Beyond: 408. */
const BODY_TIMEOUT_MS = 10_000;

const bodySchema = z.object({ token: z.string().min(1).max(MAX_JWT_LENGTH) });

export const describeSession = (token: VerifiedToken, source: LogSource): LogSession => ({
  environment: token.environmentId,
  source,
  expiresAt: token.expiresAt,
});

const readBody = async (exchange: Exchange): Promise<string | undefined> => {
  const chunks: Buffer[] = [];
  let bytes = 0;
  // Left open: the rest is the edge's to throw away, and the answer goes out on the same connection.
  const body: AsyncIterable<Buffer> = exchange.request.iterator({ destroyOnReturn: false });
  for await (const chunk of body) {
    bytes += chunk.length;
    exchange.record.bytesReceived += chunk.length;
    if (bytes > MAX_BODY_BYTES) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
};

/** The token that a page of this host sent; undefined when the exchange was answered instead. */
export const openSession = async (
  exchange: Exchange,
  deps: { readonly clock: Clock },
): Promise<LogCredential | undefined> => {
  if (!isOwnRequest(exchange.rawHeaders)) {
    exchange.fail('cross_origin');
    return undefined;
  }
  let late = false;
  const cancel = deps.clock.timer(BODY_TIMEOUT_MS, () => {
    late = true;
    exchange.fail('request_timeout');
  });
  let text: string | undefined;
  try {
    text = await readBody(exchange);
  } catch (error) {
    if (exchange.signal.aborted || late) return undefined;
    throw error;
  } finally {
    cancel();
  }
  if (late) return undefined;
  if (text === undefined) {
    exchange.fail('body_too_large');
    return undefined;
  }
  const parsed = bodySchema.safeParse(parseJson(text));
  if (parsed.success) return { kind: 'authorization', token: parsed.data.token };
  exchange.fail('bad_request');
  return undefined;
};

/** Undefined for what is no JSON. The text is a secret: no error may repeat it. */
const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

export const answerSession = (
  response: ServerResponse,
  { session, token, now }: { readonly session: LogSession; readonly token: string | undefined; readonly now: number },
): void => {
  const body = `${JSON.stringify(session)}\n`;
  response.setHeader('Content-Type', 'application/json; charset=utf-8');
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('X-Content-Type-Options', 'nosniff');
  response.setHeader('Content-Length', String(Buffer.byteLength(body)));
  if (token !== undefined) {
    const maxAge = Math.max(0, Math.floor((session.expiresAt - now) / 1_000));
    response.setHeader(
      'Set-Cookie',
      `${LOGS_COOKIE}=${token}; Max-Age=${maxAge}; Path=/; Secure; HttpOnly; SameSite=Strict`,
    );
  }
  response.statusCode = 200;
  response.end(body);
};
