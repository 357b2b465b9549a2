import type { Duplex } from 'node:stream';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';

/** A connection to an upstream: the bytes, and how to end it so that the other side sees a reset. */
export interface UpstreamConnection {
  readonly duplex: Duplex;
  /** Ends both directions at once with a TCP RST. */
  reset(): void;
}

/**
 * Joins a tunnel stream and an upstream connection until both are done. An end of one direction is passed on as the end
 * of that direction alone; a reset or a loss on one side becomes a reset on the other.
 *
 * `pipe` and not `pipeline`: `pipeline` destroys both directions when one fails, but here an answer that is complete
 * must still be delivered when its upstream no longer takes the request (RFC 9112 section 9.6).
 */
export const splice = (stream: IncomingTunnelStream, upstream: UpstreamConnection, onDone: () => void): void => {
  const { duplex } = upstream;
  let open = 2;
  const onClose = (): void => {
    open -= 1;
    if (open === 0) onDone();
  };

  duplex.on('error', () => {
    if (!duplex.readableEnded) return stream.reset('upstream_reset');
    // The answer is complete and on its way; what the client still sends has no taker.
    stream.unpipe(duplex);
    stream.resume();
  });
  duplex.once('close', () => {
    if (!duplex.readableEnded && !stream.destroyed) stream.reset('upstream_reset');
    onClose();
  });
  // The reason is known to whoever ended the stream; here it only has to reach the upstream.
  stream.on('error', () => upstream.reset());
  stream.once('close', () => {
    if (!stream.readableEnded || !stream.writableFinished) upstream.reset();
    onClose();
  });

  stream.pipe(duplex);
  duplex.pipe(stream);
};
