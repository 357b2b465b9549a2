/** A native QUIC connection as {@link Connection}. */
import { TransportError, type EndedBy } from '../errors.ts';
import { formatHostPort, unmapIPv4 } from './address.ts';
import type { Connection, ConnectionEnd, ConnectionStats, TransportStream } from './connection.ts';
import { parsePeerMultiaddr, publicKeyOfPeerId } from './peer-id.ts';
import type { NativeConnection, NativeStream } from './quic-native.ts';
import { createQuicStream } from './quic-stream.ts';

/**
 * Hands out native streams one by one. A native call for one cannot be cancelled, so a stream that arrives after its
 * caller has given up waits for the next caller. One call at a time: calls side by side settle in any order, and a
 * stream opens those with lower numbers with it (RFC 9000 section 2.1), which the peer would then see without a byte.
 *
 * With `onFailure` there is always a call, whose failure says that the connection has ended, and why. (The binding has a
 * call that waits for the end alone; each call that waits costs memory, and time whenever any other returns.) What arrives
 * meanwhile waits, within the number of streams that the peer may have open.
 */
const createStreamSource = (
  take: () => Promise<NativeStream>,
  wrap: (native: NativeStream) => TransportStream,
  failed: (cause: unknown) => TransportError,
  onFailure?: (cause: unknown) => void,
) => {
  interface Waiter {
    readonly resolve: (native: NativeStream) => void;
    readonly reject: (error: Error) => void;
  }
  const waiting = new Set<Waiter>();
  const spare: NativeStream[] = [];
  let calling = false;

  const settleFirst = (act: (waiter: Waiter) => void): boolean => {
    for (const waiter of waiting) {
      waiting.delete(waiter);
      act(waiter);
      return true;
    }
    return false;
  };
  const call = (): void => {
    if (calling || (waiting.size === 0 && !onFailure)) return;
    calling = true;
    take().then(
      (native) => {
        calling = false;
        if (!settleFirst((waiter) => waiter.resolve(native))) spare.push(native);
        call();
      },
      (cause: unknown) => {
        if (onFailure) return onFailure(cause);
        calling = false;
        settleFirst((waiter) => waiter.reject(failed(cause)));
        call();
      },
    );
  };
  call();

  return {
    next: (signal: AbortSignal): Promise<TransportStream> => {
      if (signal.aborted) return Promise.reject(signal.reason as Error);
      const ready = spare.shift();
      if (ready !== undefined) return Promise.resolve(wrap(ready));
      return new Promise((resolve, reject) => {
        const onAbort = (): void => {
          waiting.delete(waiter);
          reject(signal.reason as Error);
        };
        const settle = (act: () => void): void => {
          signal.removeEventListener('abort', onAbort);
          act();
        };
        const waiter: Waiter = {
          resolve: (native) => settle(() => resolve(wrap(native))),
          reject: (error) => settle(() => reject(error)),
        };
        waiting.add(waiter);
        signal.addEventListener('abort', onAbort, { once: true });
        call();
      });
    },
    fail: (error: TransportError): void => {
      spare.length = 0;
      while (settleFirst((waiter) => waiter.reject(error)));
    },
  };
};

interface Peer {
  readonly remoteAddress: string;
  readonly peerKey: Uint8Array;
}

/** Who is at the other end. Throws {@link TransportError} when the peer proved a key that is not Ed25519. */
const identifyPeer = (native: NativeConnection): Peer => {
  const multiaddr = native.remoteMultiaddr();
  const peer = parsePeerMultiaddr(multiaddr);
  const peerKey = peer && publicKeyOfPeerId(peer.peerId);
  if (peer === undefined || peerKey === undefined) {
    throw new TransportError(`the key of ${multiaddr} is not an Ed25519 key`);
  }
  return { remoteAddress: formatHostPort(unmapIPv4(peer.host), peer.port), peerKey };
};

/**
 * Takes over a native connection. Throws {@link TransportError}, and closes the connection, when the peer's key is not
 * an Ed25519 key. `onEnd` is called once, when `closed` settles.
 */
export const createQuicConnection = (native: NativeConnection, onEnd: () => void): Connection => {
  let peer: Peer;
  try {
    peer = identifyPeer(native);
  } catch (error) {
    native.abort();
    throw error;
  }
  const { remoteAddress, peerKey } = peer;
  /** Native streams in use; see {@link createQuicStream} for why they are kept. */
  const streams = new Set<NativeStream>();
  const { promise: closed, resolve: resolveClosed } = Promise.withResolvers<ConnectionEnd>();
  let ended: { readonly by: EndedBy; readonly failure: TransportError; readonly stats: ConnectionStats } | undefined;

  const endedBy = (): EndedBy => ended?.by ?? 'remote';
  const wrap = (stream: NativeStream): TransportStream => {
    streams.add(stream);
    return createQuicStream(stream, {
      endedBy,
      failure: () => ended?.failure,
      release: () => streams.delete(stream),
    });
  };
  const failed = (cause: unknown): TransportError =>
    ended?.failure ?? new TransportError('the connection ended', { by: endedBy(), cause });
  const opened = createStreamSource(() => native.outboundStream(), wrap, failed);
  const accepted = createStreamSource(
    () => native.inboundStream(),
    wrap,
    failed,
    (cause) => onNativeEnd(cause),
  );

  const currentStats = (): ConnectionStats => {
    const stats = native.stats();
    return {
      rttMs: native.rtt(),
      received: stats.udpRxDatagrams,
      bytesSent: stats.udpTxBytes,
      bytesReceived: stats.udpRxBytes,
      packets: { sent: stats.pathSentPackets, lost: stats.pathLostPackets },
    };
  };
  const end = (by: EndedBy, error: Error | undefined): void => {
    if (ended !== undefined) return;
    const failure = new TransportError('the connection ended', { by, cause: error });
    ended = { by, failure, stats: currentStats() };
    streams.clear();
    opened.fail(failure);
    accepted.fail(failure);
    resolveClosed(error === undefined ? { by } : { by, error });
    onEnd();
  };
  /** A CONNECTION_CLOSE frame (RFC 9000 section 10.2) makes it orderly; else `cause` tells what happened. */
  const onNativeEnd = (cause: unknown): void => {
    if (ended !== undefined) return;
    if (native.stats().frameRxConnectionClose > 0) return end('remote', undefined);
    end('remote', new TransportError(`the connection to ${remoteAddress} was lost`, { cause }));
  };

  const nextOf = (source: typeof opened, signal: AbortSignal): Promise<TransportStream> =>
    ended === undefined ? source.next(signal) : Promise.reject(ended.failure);

  return {
    transport: 'quic',
    remoteAddress,
    peerKey,
    openStream: ({ signal }) => nextOf(opened, signal),
    acceptStream: ({ signal }) => nextOf(accepted, signal),
    closed,
    stats: () => ended?.stats ?? currentStats(),
    close: (error) => {
      if (ended !== undefined) return;
      end('local', error);
      native.abort();
    },
  };
};
