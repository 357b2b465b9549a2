/**
 * Brings the two directions of a connection together: which response answers which request (RFC 9112 section 9.3.2), and
 * where HTTP ends. A connection that breaks the rules is watched no longer, and goes on as it is.
 */
import { createMessageReader, MessageFault, type MessageHead } from './message-reader.ts';

/** Requests on a connection that wait for their response. Beyond it the connection is no longer read. */
export const MAX_WAITING_REQUESTS = 64;

export interface RequestLine {
  readonly method: string;
  readonly target: string;
  readonly version: string;
}
export interface StatusLine {
  readonly status: number;
  readonly reason: string;
}
export type Direction = 'request' | 'response';

/** Where one request and its response are written down. */
export interface Exchange {
  readonly id: string;
  body(direction: Direction, bytes: Buffer): void;
  requestEnd(): void;
  interim(status: number): void;
  responseHead(line: StatusLine, fields: readonly string[]): void;
  /** The response is complete. */
  end(trailers: readonly string[]): void;
  /** From here on another protocol is spoken, of which only bytes are counted. */
  upgraded(line: StatusLine, fields: readonly string[]): void;
  passed(direction: Direction, bytes: number): void;
  /** It cannot be followed any further, or was never HTTP. */
  unreadable(why: string): void;
  /** The connection is closed. */
  closed(): void;
}

export interface ExchangeSink {
  begin(line: RequestLine, fields: readonly string[]): Exchange;
  /** The connection carries something that is no HTTP/1.1. */
  beginOther(): Exchange;
}

export interface ExchangeObserver {
  /** Never throws. */
  push(direction: Direction, bytes: Buffer): void;
  /** The upstream has ended its direction. */
  responseEnded(): void;
  closed(): void;
}

const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP\/(1\.[01])$/;
const STATUS_LINE = /^HTTP\/1\.[01] ([1-9]\d\d)(?: (.*))?$/;

const parseStatusLine = ({ startLine }: MessageHead): StatusLine => {
  const [, status, reason = ''] = STATUS_LINE.exec(startLine) ?? [];
  if (status === undefined) throw new MessageFault('the answer is no HTTP/1.1');
  return { status: Number(status), reason };
};

interface Waiting {
  readonly exchange: Exchange;
  readonly method: string;
  isRequestEnded: boolean;
  isAnswered: boolean;
}

/** `onFault`: an error of this program, after which the connection is watched no longer. */
export const createExchangeObserver = (sink: ExchangeSink, onFault: (error: unknown) => void): ExchangeObserver => {
  const waiting: Waiting[] = [];
  /** The request that is still being sent; its response may be complete by now. */
  let sending: Waiting | undefined;
  /** Takes the bytes of a connection that is no longer read as HTTP. */
  let other: Exchange | undefined;
  let isBroken = false;

  const requests = createMessageReader('request', {
    onHead({ startLine, fields }) {
      const [, method, target, version] = REQUEST_LINE.exec(startLine) ?? [];
      if (method === undefined || target === undefined || version === undefined)
        throw new MessageFault('the request is no HTTP/1.1');
      if (waiting.length >= MAX_WAITING_REQUESTS) throw new MessageFault('too many requests wait for their response');
      const exchange = sink.begin({ method, target, version }, fields);
      sending = { exchange, method, isRequestEnded: false, isAnswered: false };
      waiting.push(sending);
      return 'framed';
    },
    onData: (bytes) => sending?.exchange.body('request', bytes),
    onEnd() {
      if (sending) sending.isRequestEnded = true;
      sending?.exchange.requestEnd();
      sending = undefined;
    },
    onSwitched: () => undefined,
  });

  const responses = createMessageReader('response', {
    onHead(head) {
      const line = parseStatusLine(head);
      const [first] = waiting;
      if (!first) throw new MessageFault('a response to no request');
      const { exchange, method } = first;
      if (line.status === 101 || (method === 'CONNECT' && line.status < 300 && line.status >= 200)) {
        exchange.upgraded(line, head.fields);
        other = exchange;
        return 'switched';
      }
      if (line.status < 200) {
        exchange.interim(line.status);
        first.isAnswered = false;
        return 'none';
      }
      first.isAnswered = true;
      exchange.responseHead(line, head.fields);
      return method === 'HEAD' || line.status === 204 || line.status === 304 ? 'none' : 'framed';
    },
    onData: (bytes) => waiting[0]?.exchange.body('response', bytes),
    onEnd(trailers) {
      // An interim response ends too.
      if (!waiting[0]?.isAnswered) return;
      waiting.shift()?.exchange.end(trailers);
    },
    onSwitched: (bytes) => other?.passed('response', bytes.length),
  });

  const breakOff = (error: unknown): void => {
    if (!(error instanceof MessageFault)) {
      isBroken = true;
      return onFault(error);
    }
    const broken = waiting.splice(0).map(({ exchange }) => exchange);
    if (sending && !broken.includes(sending.exchange)) broken.push(sending.exchange);
    if (broken.length === 0) broken.push(sink.beginOther());
    for (const exchange of broken) exchange.unreadable(error.message);
    [other] = broken;
    sending = undefined;
  };

  const guarded = (act: () => void): void => {
    if (isBroken) return;
    try {
      act();
    } catch (error) {
      breakOff(error);
    }
  };

  return {
    push(direction, bytes) {
      if (!other) guarded(() => (direction === 'request' ? requests : responses).push(bytes));
      // What could not be read is counted whole; what came with the head of an upgrade was counted by `onSwitched`.
      else guarded(() => other?.passed(direction, bytes.length));
    },
    responseEnded() {
      if (!other) guarded(() => responses.end());
    },
    closed() {
      guarded(() => {
        for (const { exchange } of waiting.splice(0)) exchange.closed();
        other?.closed();
      });
    },
  };
};
