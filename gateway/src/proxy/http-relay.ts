/** One request on one connection to the upstream: written, answered, and the answer passed on as it comes. */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { GatewayLimits } from '../limits.ts';
import type { ClientResponse } from './client-response.ts';
import { createDeadline, watchFlow, type FlowWatch } from './deadline.ts';
import type { Exchange, UpgradeExchange } from './exchange.ts';
import { fieldValues, responseHeaders, trailerFields, type ResponseOptions } from './headers.ts';
import type { RequestBody } from './request-body.ts';
import { writeRequest, type RequestHead, type RequestWriter } from './request-head.ts';
import type { ResponseHead } from './response-parser.ts';
import type { ConnectionHandler, UpstreamConnection } from './upstream-connection.ts';
import { GatewayFailure } from './upstream-errors.ts';

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
  readonly body: RelayBody | undefined;
  readonly responseOptions: ResponseOptions;
  readonly onHead: () => void;
  /** Asks for WebSocket; called instead of a response when the upstream switches. The stream is then the caller's. */
  readonly onUpgrade?: (headers: string[], upstream: Duplex) => void;
}

export interface RelayBody {
  readonly source: RequestBody;
  /** What `Content-Length` says. */
  readonly length: number | undefined;
  /** The upstream is there for the first byte. */
  onWanted(): void;
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

const sizeOf = (lines: readonly string[]): number => lines.reduce((sum, text) => sum + text.length, 0);

/** Methods whose requests have a body (RFC 9110 section 9.3): servers answer 411 to those that do not say how long it is. */
const HAS_BODY: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

const headOf = ({ exchange, headers, body, onUpgrade }: RelayRequest): RequestHead => {
  const { method, target, protocol } = exchange;
  const isHttp2 = protocol === 'h2';
  const head = { method, target, headers, length: body?.length, upgrade: onUpgrade !== undefined };
  // HTTP/2: whether there is nothing, as it says, is known at the end of the stream.
  if (body?.length !== undefined) return { ...head, framing: body.length === 0 ? 'late' : 'length' };
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
    // Read by what is called back, once the request is written below.
    let writer = undefined as RequestWriter | undefined;
    let watch: FlowWatch | undefined;
    let connected = connection.reused;
    let sent = false;
    let answered = false;
    let hasHead = false;
    let listensForDrain = false;
    let waitingForClient = false;
    let interim = 0;
    let interimBytes = 0;
    let over = false;

    const finish = (): boolean => {
      if (over) return false;
      over = true;
      deadline.stop();
      watch?.stop();
      stopWatchingClient();
      body?.source.stop();
      return true;
    };
    const fail = (cause: unknown): void => {
      if (finish()) reject(new RelayError(cause, { sent, answered }));
    };
    /** Ends the request from this side: the tunnel stream is reset. */
    const abort = (error: Error): void => {
      fail(error);
      connection.destroy(error);
    };
    const failWith = (code: GatewayErrorCode, message: string): void => abort(new GatewayFailure(code, message));
    const stopWatchingClient = exchange.onGone((reason) => abort(reason));

    /** What is waited for now decides what happens when it does not come. */
    const arm = (): void => {
      if (over || hasHead) return;
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
    const startWatch = (): FlowWatch =>
      watchFlow(deps.clock, { idleMs: limits.idleStreamTimeoutMs, stalledMs: limits.stalledStreamTimeoutMs }, (why) =>
        failWith('upstream_timeout', why === 'idle' ? 'nothing moved for too long' : 'the client takes nothing'),
      );

    const onInformation = ({ status, headers }: ResponseHead): void => {
      interimBytes += sizeOf(headers);
      if (status === 101) failWith('upstream_invalid', 'the upstream switched protocols unasked');
      else if (++interim > limits.informationalResponses || interimBytes > limits.maxResponseHeaderBytes) {
        failWith('upstream_invalid', 'too many interim responses');
        // A 100 too: it is not the gateway that asked the upstream for it (RFC 9110 section 15.2).
      } else response.information(status, responseHeaders(headers, request.responseOptions));
    };
    /** Node refuses to send some heads and trailers: values or a status that it finds invalid. */
    const passOn = (what: string, send: () => void): boolean => {
      try {
        send();
        return true;
      } catch (error) {
        abort(new GatewayFailure('upstream_invalid', `${what} cannot be passed on`, { cause: error }));
        return false;
      }
    };

    const handler: ConnectionHandler = {
      onInformation(head) {
        answered = true;
        if (!over) passOn('an interim response', () => onInformation(head));
      },
      onHead({ status, reason, headers }) {
        answered = true;
        if (over) return;
        hasHead = true;
        deadline.stop();
        request.onHead();
        passOn('the response head', () =>
          response.head(status, reason, responseHeaders(headers, request.responseOptions)),
        );
      },
      onData(bytes) {
        if (over) return;
        exchange.record.bytesSent += bytes.length;
        watch?.moved();
        if (response.write(bytes)) return;
        watch ??= startWatch();
        watch.blocked();
        connection.pause();
        if (listensForDrain) return;
        listensForDrain = true;
        response.onDrain(() => {
          if (over) return;
          watch?.moved();
          connection.resume();
        });
      },
      onWaiting() {
        // Short answers are over by then, and need none of this.
        if (over || !hasHead || watch) return;
        response.flushHead();
        watch = startWatch();
      },
      onEnd(trailers, isLast) {
        if (over) return;
        const requestComplete = !body || body.source.complete;
        finish();
        if (!passOn('the trailers', () => response.end(trailerFields(trailers), { requestComplete }))) {
          return reject(new RelayError(new GatewayFailure('upstream_invalid', 'broken trailers'), { sent, answered }));
        }
        connection.release(!isLast && writer?.ended === true);
        resolve();
      },
      onSwitch({ headers }) {
        answered = true;
        if (!finish()) return void connection.stream.destroy();
        request.onHead();
        resolve();
        request.onUpgrade?.(headers, connection.stream);
      },
      onDrain() {
        waitingForClient = writer?.ended === false;
        arm();
        body?.source.resume();
      },
      onError: fail,
    };

    /** A body that is not as long as it says is broken off. */
    const guarded = <T>(act: () => T): T | undefined => {
      try {
        return act();
      } catch (error) {
        abort(error as Error);
        return undefined;
      }
    };
    const sendBody = ({ source, length, onWanted }: RelayBody, to: RequestWriter): void => {
      onWanted();
      waitingForClient = true;
      source.start({
        onChunk(bytes) {
          exchange.record.bytesReceived += bytes.length;
          watch?.moved();
          const more = guarded(() => to.chunk(bytes)) ?? true;
          // While the upstream does not take what is there, it is not the client that is waited for.
          waitingForClient = more;
          arm();
          return more;
        },
        onEnd() {
          guarded(() => to.end(length === undefined ? trailerFields(source.trailers) : []));
          waitingForClient = false;
          arm();
        },
        onError: abort,
      });
    };

    if (exchange.gone) return abort(new GatewayFailure('draining', 'the client is gone'));
    connection.begin({ method: exchange.method, upgrade: request.onUpgrade !== undefined }, handler);
    if (over) return;
    if (!connected) {
      connection.stream.connected.then(
        () => {
          connected = true;
          exchange.record.tunnelMs ??= deps.clock.monotonic() - exchange.startedAt;
          arm();
        },
        // The stream is destroyed with the same error, of which the handler is told.
        () => undefined,
      );
    }
    sent = true;
    writer = guarded(() => writeRequest(connection, headOf(request)));
    if (writer && body) sendBody(body, writer);
    arm();
  });
