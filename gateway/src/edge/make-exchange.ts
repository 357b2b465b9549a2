/** Makes the exchange of a request: what the layers behind the edge see of it, and what they answer errors with. */
import { randomUUID } from 'node:crypto';
import { ServerResponse, type IncomingMessage } from 'node:http';
import { constants, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayErrorCode } from '../errors.ts';
import {
  CLIENT_CLOSED_STATUS,
  type Exchange,
  type ExchangeRecord,
  type FailOptions,
  type UpgradeExchange,
} from '../proxy/exchange.ts';
import { buildErrorAnswer, type ErrorAnswer } from './error-answer.ts';
import { endGently, serializeAnswer } from './raw-answer.ts';

/** What is known of a request before it is clear what kind of answer it gets. */
export type ExchangeHead = Pick<
  Exchange,
  | 'host'
  | 'authority'
  | 'authorityPort'
  | 'method'
  | 'target'
  | 'rawHeaders'
  | 'clientAddress'
  | 'clientPort'
  | 'protocol'
>;

/** Why an exchange ended: all of it was sent, this side cut it, the client went away, or it broke the protocol. */
export type ExchangeEnd = 'sent' | 'cut' | 'gone' | 'violation';

export interface Tracked<E> {
  readonly exchange: E;
  /** Like `exchange.fail`, and ends the connection with the answer; the layers behind learn that the client is gone. */
  refuse(code: GatewayErrorCode): void;
}

export interface ExchangeDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly onEnd: (exchange: Exchange | UpgradeExchange, status: number, end: ExchangeEnd) => void;
}

/** How one kind of connection is answered on. */
interface Wire {
  begun(): boolean;
  answer(answer: ErrorAnswer, close: boolean): void;
  cut(): void;
  /** Status that was sent, if any. */
  status(): number | undefined;
}

interface Core<E> {
  readonly exchange: E;
  refuse(code: GatewayErrorCode): void;
  end(end: ExchangeEnd): void;
  wasCut(): boolean;
}

/** Who is told that a client is gone. One object a request; an AbortController costs several times as much. */
interface Gone {
  signal(): AbortSignal;
  on(callback: (reason: Error) => void): () => void;
  set(): void;
}

const createGone = (): Gone => {
  const callbacks: ((reason: Error) => void)[] = [];
  let controller: AbortController | undefined;
  let reason: Error | undefined;
  return {
    signal() {
      controller ??= new AbortController();
      if (reason && !controller.signal.aborted) controller.abort(reason);
      return controller.signal;
    },
    on(callback) {
      if (reason) return () => {};
      callbacks.push(callback);
      return () => {
        const index = callbacks.indexOf(callback);
        if (index >= 0) callbacks.splice(index, 1);
      };
    },
    set() {
      if (reason) return;
      reason = new DOMException('the client is gone', 'AbortError');
      // One may take another away.
      for (let next = callbacks.shift(); next; next = callbacks.shift()) next(reason);
      controller?.abort(reason);
    },
  };
};

type Common = Omit<Exchange, 'request' | 'response'>;

/**
 * What all exchanges have. A class for the sake of `signal`: an accessor in a literal is a function of its own each time,
 * and V8 keeps it with a shape that it makes for that one object, where only a full collection looks. So all exchanges
 * stayed until then, with everything that they lead to, and were copied on the way by two collections each.
 */
class CommonExchange implements Common {
  // Node draws UUIDs in advance: a tenth of the time of 16 random bytes.
  readonly requestId = randomUUID().replaceAll('-', '');
  readonly host: string;
  readonly authority: string;
  readonly authorityPort: number;
  readonly method: string;
  readonly target: string;
  readonly rawHeaders: readonly string[];
  readonly clientAddress: string;
  readonly clientPort: number;
  readonly protocol: Exchange['protocol'];
  readonly scheme = 'https';
  readonly startedAt: number;
  readonly record: ExchangeRecord = { bytesReceived: 0, bytesSent: 0 };
  openStream: Common['openStream'] = undefined;
  gone = false;
  readonly onGone: Common['onGone'];
  readonly fail: Common['fail'];
  readonly cut: Common['cut'];
  readonly #gone: Gone;

  constructor(head: ExchangeHead, startedAt: number, gone: Gone, { fail, cut }: Pick<Common, 'fail' | 'cut'>) {
    this.host = head.host;
    this.authority = head.authority;
    this.authorityPort = head.authorityPort;
    this.method = head.method;
    this.target = head.target;
    this.rawHeaders = head.rawHeaders;
    this.clientAddress = head.clientAddress;
    this.clientPort = head.clientPort;
    this.protocol = head.protocol;
    this.startedAt = startedAt;
    this.onGone = gone.on;
    this.fail = fail;
    this.cut = cut;
    this.#gone = gone;
  }

  get signal(): AbortSignal {
    return this.#gone.signal();
  }
}

const createCore = <
  P extends Pick<Exchange, 'request' | 'response'> | Pick<UpgradeExchange, 'request' | 'socket' | 'head'>,
>(
  deps: ExchangeDeps,
  head: ExchangeHead,
  wire: Wire,
  parts: P,
): Core<Common & P> => {
  const gone = createGone();
  let failed = false;
  let ended = false;
  let wasCut = false;
  let answered: number | undefined;

  const fail = (code: GatewayErrorCode, options: FailOptions = {}, close = false): void => {
    if (failed || ended) return;
    failed = true;
    const { requestId, record } = exchange;
    record.errorCode = code;
    if (code === 'internal') deps.log.error({ requestId, err: options.cause }, 'request failed');
    if (wire.begun()) {
      wasCut = true;
      return wire.cut();
    }
    const { retryAfterSeconds, fields } = options;
    const { environmentId, port } = record;
    const answer = buildErrorAnswer({
      ...head,
      code,
      requestId,
      environmentId,
      port,
      retryAfterSeconds,
      fields,
      now: deps.clock.now(),
    });
    answered = answer.status;
    if (head.method !== 'HEAD') record.bytesSent += Buffer.byteLength(answer.body);
    wire.answer(answer, close);
  };

  const common = new CommonExchange(head, deps.clock.monotonic(), gone, {
    fail: (code, options) => fail(code, options),
    cut(code) {
      fail(code);
      gone.set();
    },
  });
  const exchange = Object.assign(common, parts);
  const leave = (): void => {
    common.gone = true;
    gone.set();
  };
  return {
    exchange,
    refuse(code) {
      fail(code, {}, true);
      leave();
    },
    end(end) {
      if (ended) return;
      ended = true;
      if (end !== 'sent') leave();
      deps.onEnd(exchange, answered ?? wire.status() ?? CLIENT_CLOSED_STATUS, end);
    },
    wasCut: () => wasCut,
  };
};

const http1Wire = (request: IncomingMessage, response: ServerResponse, clock: Clock): Wire => ({
  begun: () => response.headersSent,
  answer(answer, close) {
    if (close) {
      const { socket } = request;
      response.once('close', () => request.destroy());
      return endGently(socket, serializeAnswer(answer, request.method ?? ''), clock);
    }
    response.writeHead(answer.status, answer.headers.flat());
    response.end(request.method === 'HEAD' ? undefined : answer.body);
    // Whatever is left of the body is read and thrown away, so that the next request can follow.
    request.unpipe();
    request.resume();
  },
  cut: () => request.socket.destroy(),
  status: () => (response.headersSent ? response.statusCode : undefined),
});

const http2Wire = (request: Http2ServerRequest, response: Http2ServerResponse): Wire => ({
  begun: () => response.headersSent,
  answer(answer) {
    const headers: Record<string, string> = {};
    for (const [name, value] of answer.headers) headers[name.toLowerCase()] = value;
    response.writeHead(answer.status, headers);
    response.end(request.method === 'HEAD' ? '' : answer.body);
    request.unpipe();
    request.resume();
  },
  // `close()` would end the body first: a reset behind a whole answer. An error is INTERNAL_ERROR (RFC 9113 section 7).
  cut: () => void request.stream.destroy(new Error('the gateway cut the exchange')),
  status: () => (response.headersSent ? response.statusCode : undefined),
});

/** Codes with which a stream is closed when its client broke the protocol on it (RFC 9113 section 7). */
const VIOLATIONS: ReadonlySet<number> = new Set([
  constants.NGHTTP2_PROTOCOL_ERROR,
  constants.NGHTTP2_FLOW_CONTROL_ERROR,
  constants.NGHTTP2_STREAM_CLOSED,
  constants.NGHTTP2_FRAME_SIZE_ERROR,
]);

export const trackRequest = (
  deps: ExchangeDeps,
  head: ExchangeHead,
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
): Tracked<Exchange> => {
  const isHttp1 = response instanceof ServerResponse;
  const wire = isHttp1
    ? http1Wire(request as IncomingMessage, response, deps.clock)
    : http2Wire(request as Http2ServerRequest, response);
  const core = createCore(deps, head, wire, { request, response });
  if (isHttp1) {
    response.once('close', () => core.end(response.writableFinished ? 'sent' : core.wasCut() ? 'cut' : 'gone'));
  } else {
    const { stream } = response;
    stream.once('close', () => {
      const { rstCode = constants.NGHTTP2_NO_ERROR } = stream;
      // Node finishes the stream of a client that resets it: only the response knows whether somebody has ended it.
      if (response.writableEnded && rstCode === constants.NGHTTP2_NO_ERROR) return core.end('sent');
      core.end(core.wasCut() ? 'cut' : VIOLATIONS.has(rstCode) ? 'violation' : 'gone');
    });
  }
  // A body that breaks off is an error of the request stream, which the forwarder may not be reading (yet).
  (request as IncomingMessage).on('error', () => {});
  (response as ServerResponse).on('error', () => {});
  return core;
};

export const trackUpgrade = (
  deps: ExchangeDeps,
  head: ExchangeHead,
  request: IncomingMessage,
  socket: Duplex,
  upgradeHead: Buffer,
): Tracked<UpgradeExchange> => {
  const written = (): number => (socket as Partial<TLSSocket>).bytesWritten ?? 0;
  const writtenBefore = written();
  const wire: Wire = {
    begun: () => core.exchange.record.status !== undefined || written() !== writtenBefore,
    answer: (answer) => endGently(socket, serializeAnswer(answer, request.method ?? ''), deps.clock),
    cut: () => socket.destroy(),
    status: () => core.exchange.record.status,
  };
  const core = createCore(deps, head, wire, { request, socket, head: upgradeHead });
  socket.on('error', () => {});
  socket.once('close', () => core.end(core.wasCut() ? 'cut' : 'gone'));
  return core;
};
