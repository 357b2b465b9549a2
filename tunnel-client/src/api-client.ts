/** The gateway's API over HTTPS: small JSON requests, each on a connection of its own. */
import { request } from 'node:https';
import type { Socket } from 'node:net';
import { connect as connectTls, getCACertificates } from 'node:tls';
import type * as z from 'zod';
import type { Clock } from '../../shared/src/clock.ts';
import { describeError, isRefusal, RefusedError } from '../../shared/src/errors.ts';
import { apiErrorSchema } from '../../shared/src/identity/enrolment.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';
import type { GatewayUrl } from './gateway-url.ts';
import { interleaveFamilies, MAX_ADDRESSES, raceAttempts, type ResolvedAddress } from './happy-eyeballs.ts';
import type { Resolver } from './resolver.ts';
import { connectTcp } from './upstream.ts';

/** From the look-up to the last byte of the answer, ms: two round trips, a signature and a write at the other end. */
const REQUEST_TIMEOUT_MS = 10_000;
/** Largest answer, bytes: a membership, a key set and 64 gateways are far below. A larger one is not the gateway's. */
const MAX_RESPONSE_BYTES = 1 << 20;

/** The gateway's API gave no answer that counts. The message says what was tried. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
}

export interface ApiClient {
  post<T>(path: string, body: unknown, schema: z.ZodType<T>, options: { signal: AbortSignal }): Promise<T>;
  get<T>(path: string, schema: z.ZodType<T>, options: { signal: AbortSignal }): Promise<T>;
}

const TLS_HINTS: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed; give it (or its root) with `ca`',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate comes from a root that is not trusted here; give the root with `ca`',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is not trusted here; give its root with `ca`',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    'its certificate comes from a root that is not trusted here; give the root with `ca`',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name; check the URL',
  CERT_HAS_EXPIRED: 'its certificate has expired, or the clock of this machine is wrong',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet, or the clock of this machine is wrong',
  // How a write fails when the first answer is no TLS record.
  EPROTO: 'something that does not speak TLS answers there; check host and port',
};

export interface ApiClientOptions {
  readonly url: GatewayUrl;
  /** PEM of roots that are trusted beside those of the system. */
  readonly ca: string | undefined;
  readonly userAgent: string;
}

interface RawAnswer {
  readonly status: number;
  readonly body: string;
}

export const createApiClient = (deps: { clock: Clock; resolver: Resolver }, options: ApiClientOptions): ApiClient => {
  const { url } = options;
  const roots = options.ca === undefined ? undefined : [...getCACertificates('default'), options.ca];

  /** Not Node's own race of addresses: it gives up the first after half a second, which a slow path may need. */
  const connectAny = (addresses: readonly ResolvedAddress[], signal: AbortSignal): Promise<Socket> =>
    raceAttempts(
      deps,
      interleaveFamilies(addresses).slice(0, MAX_ADDRESSES),
      ({ address }, options) => connectTcp({ address, port: url.port }, options),
      (late) => void late.destroy(),
      { signal },
    );

  const send = (
    method: 'GET' | 'POST',
    path: string,
    content: string | undefined,
    socket: Socket,
    signal: AbortSignal,
  ): Promise<RawAnswer> =>
    new Promise((resolve, reject) => {
      const outgoing = request({
        createConnection: () => connectTls({ socket, servername: url.host, ...(roots ? { ca: roots } : {}) }),
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
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
        );
      });
      outgoing.end(content);
    });

  const unreachable = (path: string, tried: readonly ResolvedAddress[], error: unknown): UnreachableError => {
    const where = tried.map(({ address }) => formatHostPort(address, url.port)).join(', ');
    const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
    const hint = errors.map((entry) => TLS_HINTS[(entry as NodeJS.ErrnoException).code ?? '']).find(Boolean);
    const reason = hint ?? describeError(error);
    return new UnreachableError(`${url.origin}${path}${where ? ` (tried ${where})` : ''}: ${reason}`, { cause: error });
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
    let addresses: readonly ResolvedAddress[] = [];
    let socket: Socket | undefined;
    let answer: RawAnswer;
    try {
      addresses = await deps.resolver.resolve(url.host, { signal: either });
      socket = await connectAny(addresses, either);
      answer = await send(method, path, content, socket, either);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      deps.resolver.forget(url.host);
      throw unreachable(path, addresses, limit.signal.aborted ? limit.signal.reason : error);
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
