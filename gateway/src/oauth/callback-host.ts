/**
 * The hosts of runners, `https://<runner>.<domain>/oauth/<scm>/callback`: @fastify/http-proxy hands a callback to the
 * runner's own service, over a tunnel stream of its own. The code in it works once and is a secret:
 *
 *  - it is sent once, when the runner has a connection to that service; nothing is repeated after that, and no page
 *    that the gateway answers with asks again by itself;
 *  - it stays out of logs, error pages and caches, and the answer lets no `Referer` carry it on.
 */
import { Transform, pipeline, type Duplex } from 'node:stream';
import type { Socket } from 'node:net';
import type { EventEmitter } from 'node:events';
import httpProxy from '@fastify/http-proxy';
import type { FastifyRequest } from 'fastify';
import { Client, type Dispatcher } from 'undici';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, LegClosedError, StreamResetError } from '../../../shared/src/errors.ts';
import type { GatewayErrorCode } from '../errors.ts';
import { createFastifyHost, type ExchangeOf } from '../hosts/fastify-host.ts';
import type { GatewayLimits } from '../limits.ts';
import type { Logger } from '../observability/log.ts';
import type { Exchange } from '../proxy/exchange.ts';
import { MAX_HOPS, passedHops, requestHeaders, responseHeaders } from '../proxy/headers.ts';
import { ConnectionGoneError, GatewayFailure } from '../proxy/upstream-errors.ts';
import type { TraceParents } from '../proxy/trace-parent.ts';
import { CALLBACK_ROUTE, refuseCallback } from './callback-path.ts';
import { loginError } from './login-error.ts';
import { createRunnerStreams, type RunnerStreamsDeps } from './runner-streams.ts';

export interface CallbackHostDeps extends RunnerStreamsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly tracing?: TraceParents | undefined;
}

export type CallbackLimits = Pick<
  GatewayLimits,
  | 'maxCallbackBodyBytes'
  | 'callbackBodyTimeoutMs'
  | 'callbackWaitMs'
  | 'callbacksWaitingPerRunner'
  | 'connectTimeoutMs'
  | 'responseHeaderTimeoutMs'
  | 'maxResponseHeaderBytes'
>;

export interface CallbackHost {
  serve(exchange: Exchange, runnerId: string): void;
  /** Callbacks that wait for their runner. */
  readonly waiting: number;
  close(): Promise<void>;
}

type FieldMap = Record<string, string | string[]>;

const toMap = (lines: readonly string[]): FieldMap => {
  const byName = new Map<string, { name: string; values: string[] }>();
  for (let index = 0; index < lines.length; index += 2) {
    const name = lines[index]!;
    const entry = byName.get(name.toLowerCase()) ?? { name, values: [] };
    byName.set(name.toLowerCase(), entry);
    entry.values.push(lines[index + 1]!);
  }
  return Object.fromEntries(
    [...byName.values()].map(({ name, values }) => [name, values.length > 1 ? values : values[0]!]),
  );
};

const toLines = (fields: Readonly<Record<string, string | readonly string[] | undefined>>): string[] =>
  Object.entries(fields).flatMap(([name, value]) =>
    value === undefined ? [] : [value].flat().flatMap((one) => [name, one]),
  );

/** How the way to a runner is named in the chain of hops: like a port, and none that an environment can have. */
const hopOf = (runnerId: string): string => `0--${runnerId}`;

/** The client of each callback is found by this name, which is looked up nowhere (RFC 6761 section 6.4). */
const originOf = ({ requestId }: Exchange): string => `http://${requestId}.invalid`;
const requestIdOf = (origin: string): string => new URL(origin).hostname.split('.', 1)[0] ?? '';

interface Callback {
  readonly exchange: Exchange;
  readonly runnerId: string;
  readonly headers: FieldMap;
  readonly traceParent: string;
  /** Why there is no answer, before reply-from wraps it. */
  failure?: unknown;
}

const isCut = (error: Error | null): boolean => error instanceof StreamResetError || error instanceof LegClosedError;

/** What reply-from uses of undici. */
interface Requester {
  request(
    options: Dispatcher.RequestOptions & { origin: string },
    callback: (error: Error | null, data?: Dispatcher.ResponseData) => void,
  ): void;
}

export const createCallbackHost = async (deps: CallbackHostDeps, limits: CallbackLimits): Promise<CallbackHost> => {
  const { clock, log } = deps;
  const streams = createRunnerStreams(deps, limits);
  /** Callbacks under way, by request id. */
  const callbacks = new Map<string, Callback>();

  const fail = (exchange: Exchange, error: unknown): void => {
    if (exchange.signal.aborted) return;
    const code = loginError(error);
    const { requestId, record } = exchange;
    const reason = describeError(error);
    log.debug(
      { requestId, runnerId: record.runnerId, legId: record.legId, errorCode: code, error: reason },
      'a login was not finished',
    );
    // The error itself may carry bytes of the answer, and a cause of `internal` is logged whole.
    exchange.fail(code, { cause: new GatewayFailure(code, reason) });
  };

  /** An HTTP client for one request, over a tunnel stream of its own. */
  const createClient = (origin: string, { exchange, runnerId, traceParent }: Callback): Client => {
    const { record, requestId, signal } = exchange;
    let asked = false;
    const connect = async (): Promise<Duplex> => {
      // undici connects anew when a connection was lost; what was sent on it is not known then.
      if (asked) throw new ConnectionGoneError('the connection to the runner was cut');
      asked = true;
      record.edgeMs = clock.monotonic() - exchange.startedAt;
      const stream = await streams.open({ runnerId, requestId, traceParent }, { signal });
      record.legId = stream.leg.id;
      record.legTransport = stream.leg.transport;
      record.tunnelMs = clock.monotonic() - exchange.startedAt;
      // undici takes any close for the end of an answer without a length; it ends streams with errors of its own, too.
      stream.once('close', () => {
        if (isCut(stream.errored) && exchange.response.headersSent && !exchange.response.writableEnded) {
          exchange.fail('login_interrupted', { cause: stream.errored });
        }
      });
      return stream;
    };
    const client = new Client(origin, {
      connect(_options, callback) {
        // undici takes any duplex stream; its types name net.Socket.
        connect().then(
          (stream) => callback(null, stream as Socket),
          (error: Error) => callback(error, null),
        );
      },
      allowH2: false,
      pipelining: 1,
      maxHeaderSize: limits.maxResponseHeaderBytes,
      headersTimeout: limits.responseHeaderTimeoutMs,
      bodyTimeout: limits.responseHeaderTimeoutMs,
    });
    // An error in a handler; undici's types do not know the event.
    (client as EventEmitter).on('error', (error: Error) =>
      log.error({ error: describeError(error) }, 'the HTTP client failed'),
    );
    return client;
  };

  const requester: Requester = {
    request(options, callback) {
      const found = callbacks.get(requestIdOf(options.origin));
      if (!found) return callback(new GatewayFailure('internal', 'the callback is over'));
      const { exchange } = found;
      const client = createClient(options.origin, found);
      client.request({ ...options, signal: exchange.signal }, (error, data) => {
        if (error) {
          found.failure = error;
          return callback(error);
        }
        exchange.record.upstreamMs = clock.monotonic() - exchange.startedAt;
        const counted = new Transform({
          transform(chunk: Buffer, _encoding, done) {
            exchange.record.bytesSent += chunk.length;
            done(null, chunk);
          },
        });
        // reply-from reads status, headers and the body as a stream.
        callback(null, { ...data, body: pipeline(data.body, counted, () => undefined) as never });
      });
      // After its one request.
      client.close().catch(() => undefined);
    },
  };

  const host = createFastifyHost(
    (app, exchangeOf) => {
      const cancelTimers = new WeakMap<Exchange, () => void>();
      app.addContentTypeParser(
        'application/x-www-form-urlencoded',
        { parseAs: 'buffer', bodyLimit: limits.maxCallbackBodyBytes },
        (request, body, done) => {
          exchangeOf(request).record.bytesReceived += body.length;
          done(null, body);
        },
      );
      app.addHook('onRequest', (request, _reply, done) => {
        const exchange = exchangeOf(request);
        cancelTimers.set(
          exchange,
          clock.timer(limits.callbackBodyTimeoutMs, () => exchange.fail('request_timeout')),
        );
        done();
      });
      app.addHook('preHandler', (request, reply, done) => {
        const exchange = exchangeOf(request);
        cancelTimers.get(exchange)?.();
        // It was answered when it took too long.
        if (exchange.response.headersSent) reply.hijack();
        done();
      });
      void app.register(httpProxy, {
        prefix: CALLBACK_ROUTE,
        rewritePrefix: CALLBACK_ROUTE,
        routes: ['/'],
        httpMethods: ['GET', 'POST'],
        upstream: '',
        proxyPayloads: false,
        internalRewriteLocationHeader: false,
        undici: requester as never,
        // It would keep addresses of the last hundred requests.
        disableCache: true,
        disableRequestLogging: true,
        // By default an answer 503 to a GET is asked for again, ten times: the code would be sent as often.
        retryMethods: [],
        replyOptions: {
          getUpstream: (request) => originOf(exchangeOf(request as FastifyRequest)),
          rewriteRequestHeaders: (request) => callbackOf(request as FastifyRequest, exchangeOf).headers,
          rewriteHeaders: (headers, request) => {
            const { host: hostName, authority } = exchangeOf(request as FastifyRequest);
            const lines = responseHeaders(toLines(headers), { host: hostName, authority });
            const answer = Object.entries(toMap(lines)).map(([name, value]) => [name.toLowerCase(), value]);
            return {
              ...Object.fromEntries(answer),
              'cache-control': 'no-store',
              'referrer-policy': 'no-referrer',
            } as never;
          },
          onError(reply, { error }) {
            reply.hijack();
            const exchange = exchangeOf(reply.request as FastifyRequest);
            fail(exchange, callbacks.get(exchange.requestId)?.failure ?? error);
          },
        },
      });
    },
    { errorCode: loginError },
  );

  const callbackOf = (request: FastifyRequest, exchangeOf: ExchangeOf): Callback => {
    const callback = callbacks.get(exchangeOf(request).requestId);
    if (!callback) throw new GatewayFailure('internal', 'the callback is over');
    return callback;
  };

  const begin = (exchange: Exchange, runnerId: string): Callback => {
    const hop = hopOf(runnerId);
    const hops = passedHops(exchange.rawHeaders);
    if (hops.includes(hop) || hops.length >= MAX_HOPS)
      throw new GatewayFailure('loop', 'it has passed this runner before');
    const { headers, traceParent } = requestHeaders(exchange, {
      hop,
      traceParent: deps.tracing?.traceParent(exchange),
    });
    return { exchange, runnerId, traceParent, headers: toMap(headers) };
  };

  await host.app.ready();
  return {
    serve(exchange, runnerId) {
      exchange.record.runnerId = runnerId;
      const refusal: GatewayErrorCode | undefined = refuseCallback(exchange);
      if (refusal) return exchange.fail(refusal);
      let callback: Callback;
      try {
        callback = begin(exchange, runnerId);
      } catch (error) {
        return fail(exchange, error);
      }
      callbacks.set(exchange.requestId, callback);
      exchange.response.once('close', () => callbacks.delete(exchange.requestId));
      host.serve(exchange);
    },
    get waiting() {
      return streams.waiting;
    },
    close: () => host.app.close(),
  };
};
