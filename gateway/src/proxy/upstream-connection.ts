/** An HTTP/1.1 connection to an upstream over a tunnel stream of its own: one request at a time, and its response. */
import type { Leg, TunnelStream } from '../../../shared/src/protocol/leg.ts';
import { createResponseParser, ResponseFault, type ResponseHandler, type ResponseHead } from './response-parser.ts';
import { ConnectionGoneError, GatewayFailure } from './upstream-errors.ts';

/** Told of one response, and at last of either `onEnd`, `onSwitch` or `onError`. */
export interface ConnectionHandler extends Omit<ResponseHandler, 'onSwitch'> {
  /** 101, where it was asked for. The stream is the caller's, with what came behind the head still to be read. */
  onSwitch(head: ResponseHead): void;
  /** What came so far was handed over, and more is to come. */
  onWaiting(): void;
  /** The stream takes more, after a `write` that said no. */
  onDrain(): void;
  /** The response is not there, or not all of it. The connection is closed. */
  onError(error: Error): void;
}

export interface UpstreamConnection {
  readonly leg: Leg;
  readonly stream: TunnelStream;
  /** A request was answered on it before. */
  readonly reused: boolean;
  /** The target is connected: the other side has said so. */
  readonly connected: boolean;
  /** The upstream ended its direction, or the stream is closed. */
  isGone(): boolean;
  /** How long the upstream says that it keeps the connection, s. */
  keepAliveSeconds(): number | undefined;
  /** The next response goes to `handler`. What is written from now on is its request. */
  begin(request: { readonly method: string; readonly upgrade: boolean }, handler: ConnectionHandler): void;
  /** False: wait for `onDrain`. */
  write(bytes: string | Uint8Array): boolean;
  /** The same for a piece with something before and behind it. */
  writeBetween(before: string, bytes: Uint8Array, behind: string): boolean;
  pause(): void;
  resume(): void;
  /** Gives the connection back after its response; `reusable`: nothing stands against another request on it. */
  release(reusable: boolean): void;
  destroy(error: Error): void;
}

/** Fields, since accessors in a literal make every object a shape of its own. */
type Settable<T, K extends keyof T> = Omit<T, K> & { -readonly [key in K]: T[key] };

export interface ConnectionOwner {
  /** The connection is good for another request. */
  onFree(connection: UpstreamConnection): void;
  onClose(connection: UpstreamConnection): void;
}

/** A TLS record at the beginning: type 20 to 23, version 3.x (RFC 8446 section 5.1). A server's alert is type 21. */
const TLS_RECORD = /^[\x14-\x17]\x03[\x00-\x04]/;

const broken = (error: unknown): Error => {
  if (!(error instanceof ResponseFault)) return error as Error;
  const code = TLS_RECORD.test(error.begin) ? 'upstream_speaks_tls' : 'upstream_invalid';
  return new GatewayFailure(code, error.message, { cause: error });
};

export const createUpstreamConnection = (
  leg: Leg,
  stream: TunnelStream,
  owner: ConnectionOwner,
  limits: { readonly maxResponseHeaderBytes: number },
): UpstreamConnection => {
  const parser = createResponseParser({ maxHeadBytes: limits.maxResponseHeaderBytes });
  let handler: ConnectionHandler | undefined;
  let upstreamEnded = false;
  let closed = false;
  let switched = false;
  let isReading = false;

  const fail = (error: Error): void => {
    const current = takeHandler();
    stream.destroy(error);
    current?.onError(error);
  };
  const takeHandler = (): ConnectionHandler | undefined => {
    const current = handler;
    handler = undefined;
    return current;
  };
  const responses: ResponseHandler = {
    onInformation: (head) => handler?.onInformation(head),
    onHead: (head) => handler?.onHead(head),
    onData: (bytes) => handler?.onData(bytes),
    onEnd: (trailers, isLast) => takeHandler()?.onEnd(trailers, isLast),
    onSwitch(head, rest) {
      switched = true;
      stream.off('data', onData).pause();
      if (rest.length > 0) stream.unshift(rest);
      const current = takeHandler();
      if (current) current.onSwitch(head);
      else stream.destroy();
    },
  };
  const onData = (bytes: Buffer): void => {
    try {
      parser.push(bytes);
    } catch (error) {
      return fail(broken(error));
    }
    if (parser.isBusy()) handler?.onWaiting();
  };
  const onEnd = (): void => {
    upstreamEnded = true;
    let complete: boolean;
    try {
      complete = parser.end();
    } catch (error) {
      return fail(error as Error);
    }
    if (switched) return;
    if (complete) stream.destroy();
    else fail(new GatewayFailure('upstream_reset', 'the upstream ended the connection before its response'));
  };

  stream.once('end', onEnd).on('error', fail);
  stream.on('drain', () => handler?.onDrain());
  stream.once('close', () => {
    closed = true;
    owner.onClose(connection);
    if (handler) fail(new GatewayFailure('upstream_reset', 'the connection was closed before its response'));
  });
  stream.connected.then(
    () => (connection.connected = true),
    // The stream is destroyed with the same error.
    () => undefined,
  );

  const isGone = (): boolean => closed || upstreamEnded || stream.destroyed;

  const connection: Settable<UpstreamConnection, 'reused' | 'connected'> = {
    leg,
    stream,
    reused: false,
    connected: false,
    isGone,
    keepAliveSeconds: () => parser.keepAliveSeconds(),
    begin(request, given) {
      if (isGone()) {
        const cause = stream.errored ?? undefined;
        const gone = new ConnectionGoneError('the connection was closed before the request was sent', { cause });
        return given.onError(connection.reused ? gone : (cause ?? gone));
      }
      handler = given;
      parser.expect(request, responses);
      // An upstream that speaks before it is asked is read only then.
      if (!isReading) stream.on('data', onData);
      isReading = true;
    },
    write: (bytes) => stream.write(bytes, 'latin1'),
    writeBetween(before, bytes, behind) {
      stream.cork();
      stream.write(before, 'latin1');
      stream.write(bytes);
      const more = stream.write(behind, 'latin1');
      stream.uncork();
      return more;
    },
    pause: () => void stream.pause(),
    resume: () => void stream.resume(),
    release(reusable) {
      if (!reusable || isGone()) return void stream.destroy();
      connection.reused = true;
      // A slow client may have left it paused; an end and stray bytes must be noticed.
      if (stream.isPaused()) stream.resume();
      owner.onFree(connection);
    },
    destroy: (error) => void stream.destroy(error),
  };
  return connection;
};
