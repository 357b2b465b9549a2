/** One stream of a WebSocket connection as {@link TransportStream}. */
import { TransportError } from '../errors.ts';
import type { TransportStream } from './connection.ts';
import { createIncomingBytes } from './incoming-bytes.ts';
import { FRAME_HEADER_BYTES, WEBSOCKET_FRAME, type WebSocketLimits } from './websocket-limits.ts';

type Kind = (typeof WEBSOCKET_FRAME)[keyof typeof WEBSOCKET_FRAME];

/** What a stream needs to know of its connection. */
export interface StreamOwner {
  readonly limits: WebSocketLimits;
  /** Sends a frame. `onSent` is called when the system has taken it, never after the connection has ended. */
  send(stream: WebSocketStream, kind: Kind, payload?: Uint8Array, onSent?: () => void): void;
  /** Bytes came in (positive), or were read or discarded (negative). */
  unreadChanged(bytes: number): void;
  /** Both directions have ended on the wire: the id is done with. */
  forget(stream: WebSocketStream): void;
  /** The caller is done with a stream of its own: another may be opened. */
  release(stream: WebSocketStream): void;
}

export interface WebSocketStream {
  readonly stream: TransportStream;
  /** Undefined until the first frame. */
  id: number | undefined;
  /** False: the peer has broken the rules. */
  onFrame(kind: number, payload: Uint8Array): boolean;
  /** The connection ended. */
  cut(error: TransportError): void;
}

export const createWebSocketStream = (owner: StreamOwner): WebSocketStream => {
  const { streamWindowBytes, messageBytes } = owner.limits;
  const largestPayload = messageBytes - FRAME_HEADER_BYTES;
  /** Bytes that may be sent. */
  let credit = streamWindowBytes;
  /** Bytes that the peer may send, and those it may send again when it is told. */
  let granted = streamWindowBytes;
  let taken = 0;
  let failure: TransportError | undefined;
  let finishing: Promise<void> | undefined;
  let finSent = false;
  let finReceived = false;
  let writing: Promise<void> | undefined;
  let released = false;
  let onCredit = (): void => {};
  /** Callers that wait, for credit or for the socket. */
  const waiting = new Set<(error: Error) => void>();

  const incoming = createIncomingBytes({
    onTaken: (bytes) => {
      owner.unreadChanged(-bytes);
      taken += bytes;
      if (failure !== undefined || finReceived || taken < streamWindowBytes / 2) return;
      const more = Buffer.alloc(4);
      more.writeUInt32BE(taken);
      granted += taken;
      taken = 0;
      owner.send(self, WEBSOCKET_FRAME.window, more);
    },
    onOver: () => releaseIfDone(),
  });
  const releaseIfDone = (): void => {
    if (released || !(failure !== undefined || (incoming.isOver && finSent))) return;
    released = true;
    owner.release(self);
  };
  const fail = (error: TransportError): boolean => {
    if (failure !== undefined || (incoming.isOver && finSent)) return false;
    failure = error;
    incoming.fail(error);
    for (const reject of waiting) reject(error);
    owner.forget(self);
    releaseIfDone();
    return true;
  };

  const waitFor = (act: (resolve: () => void) => void): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    waiting.add(reject);
    act(resolve);
    return promise.finally(() => waiting.delete(reject));
  };
  /** Sends what credit allows; resolves when the system has taken all of it. */
  const sendAll = async (bytes: Uint8Array): Promise<void> => {
    for (let sent = 0; sent < bytes.length;) {
      if (credit === 0) {
        await waitFor((resolve) => {
          onCredit = resolve;
        });
      }
      const end = Math.min(bytes.length, sent + credit);
      credit -= end - sent;
      await waitFor((resolve) => {
        for (; sent < end; sent += largestPayload) {
          const piece = bytes.subarray(sent, Math.min(end, sent + largestPayload));
          owner.send(self, WEBSOCKET_FRAME.data, piece, sent + largestPayload >= end ? resolve : undefined);
        }
        sent = end;
      });
    }
  };

  const self: WebSocketStream = {
    id: undefined,
    onFrame: (kind, payload) => {
      switch (kind) {
        case WEBSOCKET_FRAME.data:
          granted -= payload.length;
          if (finReceived || granted < 0) return false;
          if (payload.length === 0) return true;
          owner.unreadChanged(payload.length);
          incoming.push(payload);
          return true;
        case WEBSOCKET_FRAME.fin:
          if (finReceived) return false;
          finReceived = true;
          incoming.end();
          if (finSent) owner.forget(self);
          return true;
        case WEBSOCKET_FRAME.reset:
          fail(new TransportError('the transport stream was reset', { by: 'remote' }));
          return true;
        case WEBSOCKET_FRAME.window: {
          if (payload.length !== 4) return false;
          credit += Buffer.from(payload.buffer, payload.byteOffset, 4).readUInt32BE();
          if (credit > streamWindowBytes) return false;
          onCredit();
          return true;
        }
        default:
          return false;
      }
    },
    cut: (error) => void fail(error),
    stream: {
      read: () => incoming.read(),
      write: async (bytes) => {
        if (failure !== undefined) throw failure;
        if (finishing !== undefined) throw new TransportError('the writing direction is finished', { by: 'local' });
        if (writing !== undefined) throw new TransportError('a write is under way', { by: 'local' });
        writing = sendAll(bytes);
        try {
          await writing;
        } finally {
          writing = undefined;
        }
      },
      finish: async () => {
        if (failure !== undefined) throw failure;
        finishing ??= (async () => {
          await writing;
          await waitFor((resolve) => owner.send(self, WEBSOCKET_FRAME.fin, undefined, resolve));
          finSent = true;
          if (finReceived) owner.forget(self);
          releaseIfDone();
        })();
        await finishing;
      },
      reset: () => {
        if (!fail(new TransportError('the transport stream was reset', { by: 'local' }))) return;
        if (self.id !== undefined) owner.send(self, WEBSOCKET_FRAME.reset);
      },
    },
  };
  return self;
};
