/** The gateway's API over HTTPS: small JSON requests, each on a connection of its own. */
import { request } from 'node:https';
import type { TLSSocket } from 'node:tls';
import type * as z from 'zod';
import type { Clock } from '../../shared/src/clock.ts';
import { describeError, isRefusal, RefusedError } from '../../shared/src/errors.ts';
import { apiErrorSchema } from '../../shared/src/identity/enrolment.ts';
import type { GatewayUrl } from './gateway-url.ts';
import { type Outbound, OutboundError } from './outbound.ts';

/** From the look-up to the last byte of the answer, ms: two round trips, a signature and a write at the other end. */
const REQUEST_TIMEOUT_MS = 10_000;
/** Largest answer, bytes: a membership, a key set and 64 gateways are far below. A larger one is not the gateway's. */
const MAX_RESPONSE_BYTES = 1 << 20;

/** Longest reason of a refusal that is passed on, characters; that of a `goodbye` is as long. */
const MAX_REASON_LENGTH = 1_024;

/** The gateway's API gave no answer that counts. The message says what was tried. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
}

export interface ApiClient {
  post<T>(path: string, body: unknown, schema: z.ZodType<T>, options: { signal: AbortSignal }): Promise<T>;
  get<T>(path: string, schema: z.ZodType<T>, options: { signal: AbortSignal }): Promise<T>;
}

export interface ApiClientOptions {
  readonly url: GatewayUrl;
  readonly userAgent: string;
  /** Called with each answer: its `Date`, and when the request went out and the answer came in, ms. */
  readonly onDate?: (date: string, sentAt: number, receivedAt: number) => void;
}

interface RawAnswer {
  readonly status: number;
  readonly date: string | undefined;
  readonly body: string;
}

export interface ApiClientDeps {
  readonly clock: Clock;
  readonly outbound: Outbound;
  /** Address of a gateway that is well; where the API's name means several, it is tried first. */
  readonly preferredAddress?: () => string | undefined;
}

export const createApiClient = (deps: ApiClientDeps, options: ApiClientOptions): ApiClient => {
  const { url } = options;

  const send = (
    method: 'GET' | 'POST',
    path: string,
    content: string | undefined,
    socket: TLSSocket,
    signal: AbortSignal,
  ): Promise<RawAnswer> =>
    new Promise((resolve, reject) => {
      const outgoing = request({
        createConnection: () => socket,
        host: url.host,
        port: url.port,
        method,
        path,
        signal,
        headers: {
          accept: 'application/json',
          'user-agent': options.userAgent,
          ...(content === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) }),
        },
      });
      outgoing.once('error', reject);
      outgoing.once('response', (response) => {
        const chunks: Buffer[] = [];
        let size = 0;
        response.once('error', reject);
        response.on('data', (chunk: Buffer) => {
          size += chunk.length;
          if (size > MAX_RESPONSE_BYTES) return void response.destroy(new RangeError('the answer is too large'));
          chunks.push(chunk);
        });
        response.once('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            date: response.headers.date,
            body: Buffer.concat(chunks).toString('utf8'),
          }),
        );
      });
      outgoing.end(content);
    });

  const unreachable = (path: string, error: unknown): UnreachableError => {
    const isOutbound = error instanceof OutboundError;
    const reason = isOutbound ? error.told : describeError(error);
    return new UnreachableError(`${url.origin}${path}${isOutbound ? error.way : ''}: ${reason}`, { cause: error });
  };

  const refusal = (path: string, { status, body }: RawAnswer): Error => {
    const parsed = apiErrorSchema.safeParse(parseJson(body));
    if (!parsed.success) {
      return new UnreachableError(
        `${url.origin}${path}: answered ${status} with something that is not the gateway's API; check the URL`,
      );
    }
    const { code, message, serverTime, retryAfterMs } = parsed.data.error;
    if (!isRefusal(code)) return new UnreachableError(`${url.origin}${path}: answered ${status} ${code}: ${message}`);
    return new RefusedError(code, {
      by: 'remote',
      // As on a leg: what the gateway says of it, which may be more than the code does.
      detail: message.replace(`${code}: `, '').slice(0, MAX_REASON_LENGTH),
      ...(serverTime === undefined ? {} : { serverTime }),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    });
  };

  const call = async <T>(
    method: 'GET' | 'POST',
    path: string,
    content: string | undefined,
    schema: z.ZodType<T>,
    signal: AbortSignal,
  ): Promise<T> => {
    const limit = new AbortController();
    const cancel = deps.clock.timer(REQUEST_TIMEOUT_MS, () =>
      limit.abort(new Error(`no answer within ${REQUEST_TIMEOUT_MS / 1_000} s`)),
    );
    const either = AbortSignal.any([signal, limit.signal]);
    let socket: TLSSocket | undefined;
    let answer: RawAnswer;
    try {
      const { host, port } = url;
      const preferred = deps.preferredAddress?.();
      socket = await deps.outbound.connectTls(
        { host, port, servername: host, alpn: ['http/1.1'], ...(preferred === undefined ? {} : { preferred }) },
        { signal: either },
      );
      const sentAt = deps.clock.now();
      answer = await send(method, path, content, socket, either);
      if (answer.date !== undefined) options.onDate?.(answer.date, sentAt, deps.clock.now());
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw unreachable(path, limit.signal.aborted ? limit.signal.reason : error);
    } finally {
      cancel();
      socket?.destroy();
    }
    if (answer.status < 200 || answer.status > 299) throw refusal(path, answer);
    const parsed = schema.safeParse(parseJson(answer.body));
    if (!parsed.success) {
      throw new UnreachableError(
        `${url.origin}${path}: the answer is not what the gateway's API gives; check the URL`,
        {
          cause: parsed.error,
        },
      );
    }
    return parsed.data;
  };

  return {
    post: (path, body, schema, { signal }) => call('POST', path, JSON.stringify(body), schema, signal),
    get: (path, schema, { signal }) => call('GET', path, undefined, schema, signal),
  };
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};
