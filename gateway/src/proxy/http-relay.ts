/** One request on one connection to the upstream: written, answered, and the answer passed on as it comes. */
import type { Duplex } from 'node:stream';
import type { Dispatcher } from 'undici';
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { GatewayLimits } from '../limits.ts';
import type { ClientResponse } from './client-response.ts';
import { createDeadline, watchFlow, type FlowWatch } from './deadline.ts';
import type { Exchange, UpgradeExchange } from './exchange.ts';
import { fieldValues, responseHeaders, trailerFields, type ResponseOptions } from './headers.ts';
import type { RequestBody } from './request-body.ts';
import { sendHead, type RequestHead } from './request-head.ts';
import { GatewayFailure } from './upstream-errors.ts';
import type { UpstreamConnection } from './upstream-pool.ts';

export type RelayLimits = Pick<
  GatewayLimits,
  | 'connectTimeoutMs'
  | 'responseHeaderTimeoutMs'
  | 'maxResponseHeaderBytes'
  | 'informationalResponses'
  | 'idleStreamTimeoutMs'
  | 'stalledStreamTimeoutMs'
  | 'stalledUploadTimeoutMs'
>;

export interface RelayRequest {
  readonly exchange: Exchange | UpgradeExchange;
  readonly response: ClientResponse;
  readonly headers: string[];
  /** What the body's hooks call; set for as long as a relay runs. */
  readonly body: RelayBody | undefined;
  readonly responseOptions: ResponseOptions;
  readonly onHead: () => void;
  /** Asks for WebSocket; called instead of a response when the upstream switches. The stream is then the caller's. */
  readonly onUpgrade?: (headers: string[], upstream: Duplex) => void;
}

/** The body, and where its progress is told: a request that is sent a second time has another relay. */
export interface RelayBody {
  readonly source: RequestBody;
  readonly hasLength: boolean;
  progress: { onWaiting(): void; onChunk(): void; onEnd(): void } | undefined;
}

/** The request did not get its answer, or not all of it. */
export class RelayError extends Error {
  override readonly name = 'RelayError';
  /** The request began to be written. */
  readonly sent: boolean;
  /** Something of the response was there. */
  readonly answered: boolean;
  constructor(cause: unknown, state: { sent: boolean; answered: boolean }) {
    super('the request was not answered', { cause });
    this.sent = state.sent;
    this.answered = state.answered;
  }
}

const latin1 = (raw: Dispatcher.DispatchController['rawHeaders']): string[] => {
  if (!Array.isArray(raw)) return [];
  return (raw as (Buffer | string)[]).map((entry) => (typeof entry === 'string' ? entry : entry.toString('latin1')));
};
const sizeOf = (lines: readonly string[]): number => lines.reduce((sum, text) => sum + text.length, 0);

/** Methods whose requests have a body (RFC 9110 section 9.3): servers answer 411 to those that do not say how long it is. */
const HAS_BODY: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

const headOf = ({ exchange, headers, body, onUpgrade }: RelayRequest): RequestHead => {
  const { method, target, protocol } = exchange;
  const isHttp2 = protocol === 'h2';
  const head = { method, target, headers, upgrade: onUpgrade !== undefined };
  // HTTP/2: whether there is nothing, as it says, is known at the end of the stream.
  const isEmpty = fieldValues(headers, 'content-length').every((value) => Number(value) === 0);
  if (body?.hasLength) return { ...head, framing: isEmpty ? 'late' : 'length' };
  // HTTP/2 clients may tell the end of a request without a body in a frame of its own.
  if (body) return { ...head, framing: isHttp2 && !HAS_BODY.has(method) ? 'late' : 'chunked' };
  const lacksLength = isHttp2 && HAS_BODY.has(method) && fieldValues(headers, 'content-length').length === 0;
  return { ...head, framing: 'none', headers: lacksLength ? [...headers, 'Content-Length', '0'] : headers };
};

/**
 * Resolves when the whole response was handed to the client's connection. Rejects with {@link RelayError}; then nothing
 * of this relay happens any more, and the connection is closed.
 */
export const relay = (
  request: RelayRequest,
  connection: UpstreamConnection,
  deps: { clock: Clock },
  limits: RelayLimits,
): Promise<void> =>
  new Promise((resolve, reject) => {
    const { exchange, response, body } = request;
    const deadline = createDeadline(deps.clock);
    let controller: Dispatcher.DispatchController | undefined;
    let watch: FlowWatch | undefined;
    let connected = connection.reused;
    let sent = false;
    let answered = false;
    let waitingForClient = false;
    let interim = 0;
    let interimBytes = 0;
    let over = false;

    const finish = (): boolean => {
      if (over) return false;
      over = true;
      deadline.stop();
      watch?.stop();
      exchange.signal.removeEventListener('abort', onClientGone);
      if (body) {
        body.progress = undefined;
        if (answered || body.source.started) body.source.stop();
      }
      return true;
    };
    const fail = (cause: unknown): void => {
      if (finish()) reject(new RelayError(cause, { sent, answered }));
    };
    /** Ends the request from this side: the tunnel stream is reset. */
    const abort = (error: Error): void => {
      fail(error);
      controller?.abort(error);
      connection.destroy(error);
    };
    const failWith = (code: GatewayErrorCode, message: string): void => abort(new GatewayFailure(code, message));
    const onClientGone = (): void => abort(exchange.signal.reason as Error);

    /** What is waited for now decides what happens when it does not come. */
    const arm = (): void => {
      if (over || watch) return;
      if (!connected) {
        deadline.start(limits.connectTimeoutMs, () =>
          failWith('upstream_connect_timeout', 'the tunnel stream was not connected in time'),
        );
      } else if (waitingForClient) {
        deadline.start(limits.stalledUploadTimeoutMs, () =>
          failWith('request_timeout', 'the request stopped arriving'),
        );
      } else {
        deadline.start(limits.responseHeaderTimeoutMs, () =>
          failWith('upstream_timeout', 'the upstream did not begin to answer in time'),
        );
      }
    };

    const onInformation = (status: number, headers: string[]): void => {
      interimBytes += sizeOf(headers);
      if (status === 101) failWith('upstream_invalid', 'the upstream switched protocols unasked');
      else if (++interim > limits.informationalResponses || interimBytes > limits.maxResponseHeaderBytes) {
        failWith('upstream_invalid', 'too many interim responses');
      } else response.information(status, responseHeaders(headers, request.responseOptions));
    };
    const onHead = (status: number, reason: string, headers: string[]): void => {
      deadline.stop();
      request.onHead();
      watch = watchFlow(
        deps.clock,
        { idleMs: limits.idleStreamTimeoutMs, stalledMs: limits.stalledStreamTimeoutMs },
        (why) =>
          failWith('upstream_timeout', why === 'idle' ? 'nothing moved for too long' : 'the client takes nothing'),
      );
      response.head(status, reason, responseHeaders(headers, request.responseOptions));
      response.onDrain(() => {
        if (over) return;
        watch?.moved();
        controller?.resume();
      });
    };

    const handler: Dispatcher.DispatchHandler = {
      onRequestStart(current) {
        controller = current;
        if (over) return current.abort(new GatewayFailure('internal', 'the exchange was over'));
        sent = true;
        sendHead(connection.stream, headOf(request), () =>
          body && !body.hasLength ? trailerFields(body.source.trailers) : [],
        );
      },
      onResponseStarted() {
        answered = true;
      },
      onResponseStart(current, status, _headers, reason) {
        if (over) return;
        const headers = latin1(current.rawHeaders);
        try {
          if (status < 200) onInformation(status, headers);
          else onHead(status, reason ?? '', headers);
        } catch (error) {
          // Node refuses to send such a head: values or a status that it finds invalid.
          abort(new GatewayFailure('upstream_invalid', 'the response head cannot be passed on', { cause: error }));
        }
      },
      onResponseData(current, chunk) {
        if (over) return;
        exchange.record.bytesSent += chunk.length;
        watch?.moved();
        if (response.write(chunk)) return;
        watch?.blocked();
        current.pause();
      },
      onResponseEnd(current) {
        if (over) return;
        // undici takes any close for the end of a body without a length.
        if (connection.cut) return fail(new GatewayFailure('upstream_reset', 'the connection was cut in the response'));
        const requestComplete = !body || body.source.complete;
        finish();
        try {
          response.end(trailerFields(latin1(current.rawTrailers)), { requestComplete });
        } catch (error) {
          connection.destroy(error as Error);
          reject(
            new RelayError(new GatewayFailure('upstream_invalid', 'broken trailers', { cause: error }), {
              sent,
              answered,
            }),
          );
          return;
        }
        connection.release();
        resolve();
      },
      onResponseError(_controller, error) {
        fail(error);
      },
    };
    if (request.onUpgrade) {
      const { onUpgrade } = request;
      handler.onRequestUpgrade = (current, _status, _headers, upstream) => {
        answered = true;
        if (!finish()) return void upstream.destroy();
        request.onHead();
        resolve();
        onUpgrade(latin1(current.rawHeaders), upstream);
      };
    }

    if (exchange.signal.aborted) return onClientGone();
    exchange.signal.addEventListener('abort', onClientGone, { once: true });
    if (!connected) {
      connection.stream.connected.then(
        () => {
          connected = true;
          arm();
        },
        // The stream is destroyed with the same error, of which undici tells the handler.
        () => undefined,
      );
    }
    if (body) {
      body.progress = {
        onWaiting() {
          waitingForClient = true;
          arm();
        },
        onChunk() {
          waitingForClient = false;
          if (watch) watch.moved();
          else arm();
        },
        onEnd() {
          waitingForClient = false;
          arm();
        },
      };
    }
    arm();
    connection.client.dispatch(
      {
        path: exchange.target,
        method: exchange.method,
        // The head that it would write is replaced; of the fields it needs the one that frames the body.
        headers: body?.hasLength ? ['content-length', ...fieldValues(request.headers, 'content-length')] : [],
        // undici takes any async iterable; its types know streams only.
        body: (body?.source ?? null) as Dispatcher.DispatchOptions['body'],
        // undici would close the connection after HEAD, and after a body where the method has none by default.
        ...(request.onUpgrade ? { upgrade: 'websocket' } : { reset: false }),
      } as Dispatcher.DispatchOptions,
      handler,
    );
  });
