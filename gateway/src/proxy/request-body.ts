/** The body of a client's request, read no faster than the upstream takes it. */
import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';
import { GatewayFailure } from './upstream-errors.ts';

/** Where a body goes. */
export interface BodySink {
  /** False: `resume` is called when more can be taken. */
  onChunk(bytes: Uint8Array): boolean;
  onEnd(): void;
  /** The rest of the body will not come. */
  onError(error: Error): void;
}

export interface RequestBody {
  /** Something was taken from the client: the request cannot be sent a second time. */
  readonly started: boolean;
  /** The client has sent all of it. */
  readonly complete: boolean;
  /** Field lines of the trailer section, once complete. */
  readonly trailers: readonly string[];
  /** Begins to read. Once. */
  start(sink: BodySink): void;
  resume(): void;
  /** Hands over nothing more, the response is there or the request has failed: the rest is read away. */
  stop(): void;
}

export const createRequestBody = (request: IncomingMessage | Http2ServerRequest): RequestBody => {
  let sink: BodySink | undefined;

  const onData = (chunk: Buffer): void => {
    if (sink && !sink.onChunk(chunk)) request.pause();
  };
  const onEnd = (): void => {
    body.complete = true;
    body.trailers = request.rawTrailers;
    detach()?.onEnd();
  };
  const fail = (error: Error): void => detach()?.onError(error);
  const onClose = (): void =>
    fail(new GatewayFailure('bad_request', 'the client left before its request was complete'));
  const detach = (): BodySink | undefined => {
    const current = sink;
    sink = undefined;
    // The listener for errors stays: an error that nobody listens to would end the process.
    request.off('data', onData).off('end', onEnd).off('close', onClose);
    return current;
  };

  // Fields and no accessors: see the exchange.
  const body = {
    started: false,
    complete: false,
    trailers: [] as readonly string[],
    start(given: BodySink): void {
      body.started = true;
      sink = given;
      if (request.readableEnded) return onEnd();
      if (request.destroyed) return onClose();
      request.on('end', onEnd).on('error', fail).on('close', onClose).on('data', onData);
    },
    resume: () => void request.resume(),
    stop(): void {
      if (!sink) return;
      detach();
      // Node reads away what nobody has begun to read; here it was begun. The next request comes behind it.
      request.resume();
    },
  };
  return body;
};
