/** A native WebTransport stream as {@link TransportStream}. */
import { TransportError } from '../errors.ts';
import type { TransportStream } from './connection.ts';
import { createIncomingBytes } from './incoming-bytes.ts';
import type { LibrarySession, NativeStream } from './webtransport-native.ts';

/** What a stream needs to know of its connection. */
export interface StreamOwner {
  readonly session: LibrarySession;
  /** Why nothing can be sent any more, once the connection has ended. */
  failure(): TransportError | undefined;
  /** The peer sent more than it may. */
  violated(message: string): void;
  /** Calls back when HTTP/2 takes more, at once where it does so now. Never after the connection has ended. */
  whenWritable(callback: () => void): void;
}

export interface WebTransportStream {
  readonly stream: TransportStream;
  /** The connection ended. */
  cut(error: TransportError): void;
}

/** The code on the wire of every reset: reasons are the protocol's. */
const RESET_CODE = 0;

/** Takes over `native`. `onSeen` is called once, when anything has come from the peer. */
export const createWebTransportStream = (
  native: NativeStream,
  owner: StreamOwner,
  onSeen: () => void,
): WebTransportStream => {
  let failure: TransportError | undefined;
  let finishing: Promise<void> | undefined;
  let isFinished = false;
  let writing = false;
  let seen = false;
  /** What HTTP/2 has not been given, in order: at most one write, and the FIN. */
  const queued: (() => void)[] = [];
  /** Callers that wait for one of these, or for HTTP/2 to take more. */
  const waiting = new Set<(error: Error) => void>();

  const incoming = createIncomingBytes({
    onTaken: (bytes) => {
      // Credit that is given back after the end would be written to a stream that is gone.
      if (owner.failure() !== undefined) return;
      native.flowController.addBytesConsumed(bytes);
      native.sessionFlowController.addBytesConsumed(bytes);
    },
    onOver: () => {},
  });

  const see = (): void => {
    if (seen) return;
    seen = true;
    onSeen();
  };
  const fail = (error: TransportError): void => {
    if (failure !== undefined || (incoming.isOver && isFinished)) return;
    failure = error;
    // What waits for credit would go out after the reset.
    native.outgochunks.length = 0;
    incoming.fail(error);
    queued.length = 0;
    for (const reject of waiting) reject(error);
  };

  native.recvData = ({ data, fin }) => {
    const length = data?.byteLength ?? 0;
    // The library opens a stream with an empty capsule; the peer sees it with its first byte.
    if (length === 0 && !fin) return;
    if (data !== undefined && length > 0) {
      native.flowController.updateHighestReceivedOffset(length);
      native.sessionFlowController.updateHighestReceivedOffset(length);
      if (native.flowController.flowControlViolation() || native.sessionFlowController.flowControlViolation()) {
        return owner.violated(`stream ${native.streamid} carries more than it has credit for`);
      }
      incoming.push(data);
    }
    if (fin) incoming.end();
    see();
  };
  native.jsobj = {
    parentobj: owner.session,
    onStreamWrite: () => queued.shift()?.(),
    onStreamRecvSignal: () => {
      fail(new TransportError('the transport stream was reset', { by: 'remote' }));
      see();
    },
    onStreamNetworkFinish: () => {},
  };

  const taken = (act: () => void): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    queued.push(() => owner.whenWritable(resolve));
    waiting.add(reject);
    act();
    return promise.finally(() => waiting.delete(reject));
  };

  const write = async (bytes: Uint8Array): Promise<void> => {
    if (failure !== undefined) throw failure;
    if (finishing !== undefined) throw new TransportError('the writing direction is finished', { by: 'local' });
    if (writing) throw new TransportError('a write is under way', { by: 'local' });
    if (bytes.length === 0) return;
    writing = true;
    try {
      // HTTP/2 keeps what it was given until it is on the wire, and the caller's memory is to be free before that.
      await taken(() => native.writeChunk(new Uint8Array(bytes)));
    } finally {
      writing = false;
    }
  };

  return {
    stream: {
      read: () => incoming.read(),
      write,
      finish: async () => {
        if (failure !== undefined) throw failure;
        finishing ??= taken(() => native.streamFinal()).then(() => {
          isFinished = true;
        });
        await finishing;
      },
      reset: () => {
        if (failure !== undefined || (incoming.isOver && isFinished)) return;
        fail(new TransportError('the transport stream was reset', { by: 'local' }));
        if (owner.failure() !== undefined) return;
        native.stopSending(RESET_CODE);
        native.resetStream(RESET_CODE);
      },
    },
    cut: fail,
  };
};
