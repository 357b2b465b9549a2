/** The body of a client's request as undici takes it: pulled, chunk by chunk, only when the upstream takes more. */
import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';
import { GatewayFailure } from './upstream-errors.ts';

export interface RequestBody extends AsyncIterable<Uint8Array> {
  /** Something was taken from the client: the request cannot be sent a second time. */
  readonly started: boolean;
  /** The client has sent all of it. */
  readonly complete: boolean;
  /** Field lines of the trailer section, once complete. */
  readonly trailers: readonly string[];
  /** Hands over nothing more, the response is there or the request has failed: the rest is read away. */
  stop(): void;
}

export interface RequestBodyHooks {
  /** The upstream wants the first byte. */
  onWanted(): void;
  /** The upstream has taken everything so far, and the client has sent nothing more yet. */
  onWaiting(): void;
  onChunk(bytes: number): void;
  /** All was handed to the upstream. Called before undici writes the end of the body. */
  onEnd(): void;
}

type Settle = { resolve: (result: IteratorResult<Uint8Array>) => void; reject: (error: Error) => void };

export const createRequestBody = (
  request: IncomingMessage | Http2ServerRequest,
  hooks: RequestBodyHooks,
): RequestBody => {
  let started = false;
  let complete = false;
  let stopped = false;
  let failure: Error | undefined;
  let waiting: Settle | undefined;

  const onReadable = (): void => {
    if (!waiting) return;
    const { resolve } = waiting;
    const result = take();
    if (!result) return;
    waiting = undefined;
    resolve(result);
  };
  const onEnd = (): void => {
    complete = true;
    onReadable();
  };
  const onError = (error: Error): void => fail(error);
  const onClose = (): void => {
    if (!complete) fail(new GatewayFailure('bad_request', 'the client left before its request was complete'));
  };
  const detach = (): void => {
    request.off('readable', onReadable).off('end', onEnd).off('close', onClose);
    // The listener for errors stays: an error that nobody listens to would end the process.
  };
  const fail = (error: Error): void => {
    failure ??= error;
    detach();
    waiting?.reject(failure);
    waiting = undefined;
  };
  /** The next chunk or the end, when it is there. */
  const take = (): IteratorResult<Uint8Array> | undefined => {
    const chunk = request.read() as Buffer | null;
    if (chunk !== null) {
      hooks.onChunk(chunk.length);
      return { done: false, value: chunk };
    }
    if (!complete) return undefined;
    detach();
    hooks.onEnd();
    return { done: true, value: undefined };
  };
  const start = (): void => {
    started = true;
    request.on('readable', onReadable).on('end', onEnd).on('error', onError).on('close', onClose);
    if (request.readableEnded) complete = true;
    else if (request.destroyed) onClose();
    hooks.onWanted();
  };
  const stop = (): void => {
    if (stopped) return;
    stopped = true;
    fail(new GatewayFailure('bad_request', 'the rest of the request is not wanted'));
    // Node reads away what nobody has begun to read; here it was begun. The next request comes behind it.
    if (started && !complete) request.resume();
  };

  return {
    get started() {
      return started;
    },
    get complete() {
      return complete;
    },
    get trailers() {
      return complete ? request.rawTrailers : [];
    },
    stop,
    [Symbol.asyncIterator]: () => ({
      next() {
        if (!started && !stopped) start();
        if (failure) return Promise.reject(failure);
        const result = take();
        if (result) return Promise.resolve(result);
        hooks.onWaiting();
        return new Promise((resolve, reject) => {
          waiting = { resolve, reject };
        });
      },
      return() {
        stop();
        return Promise.resolve({ done: true, value: undefined });
      },
    }),
  };
};
