/**
 * Loads `@fails-components/webtransport` 1.6.8 and types what is used of it. Its public interface (WHATWG streams) is
 * passed by: it buffers what nobody reads without end, copies each chunk, and leaves 4.5 KB a stream. What is used is
 * the boundary below it, between its session and stream objects ("native") and their event handlers (`jsobj`); an
 * update may move that, so the version is exact and `test/unit/webtransport-native.test.ts` fails when it does.
 *
 * Not used is its HTTP/3 half, a native package that comes from GitHub at install time.
 */
import type { Http2SecureServer, ServerHttp2Session, ClientHttp2Session, ServerHttp2Stream } from 'node:http2';
import { registerHooks } from 'node:module';
import { TransportError } from '../errors.ts';
import type { WebTransportLimits } from './webtransport-limits.ts';

const LIBRARY = '@fails-components/webtransport';
/** What the library imports and tells on the console about when it is missing. */
const HTTP3_PACKAGE = `${LIBRARY}-transport-http3-quiche`;

/** Credit of one stream, or of all of them. Counts from the beginning of the session. */
export interface NativeFlowController {
  updateHighestReceivedOffset(bytes: number): boolean;
  flowControlViolation(): boolean;
  /** Sends new credit when half of it is used. */
  addBytesConsumed(bytes: number): void;
}

/** One stream, without the WHATWG streams on top of it. */
export interface NativeStream {
  readonly streamid: bigint;
  jsobj: NativeStreamEvents;
  /** Called by the parser with what arrived; replaced by ours. */
  recvData: (part: { readonly data?: Uint8Array | undefined; readonly fin: boolean }) => void;
  readonly flowController: NativeFlowController;
  readonly sessionFlowController: NativeFlowController;
  /** What was handed to `writeChunk` and not sent. */
  readonly outgochunks: unknown[];
  /** Keeps `bytes` until they are sent. `onStreamWrite` tells that HTTP/2 has them. Never with no bytes. */
  writeChunk(bytes: Uint8Array): void;
  /** Also ends in `onStreamWrite`. */
  streamFinal(): void;
  stopSending(code: number): void;
  resetStream(code: number): void;
}

export interface NativeStreamEvents {
  readonly parentobj: LibrarySession;
  onStreamWrite(): void;
  onStreamRecvSignal(signal: { readonly nettask: 'resetStream' | 'stopSending' }): void;
  /** `stopSending` or `resetStream` went out. */
  onStreamNetworkFinish(): void;
}

/** Reads capsules (RFC 9297) from the HTTP/2 stream and writes them to it. */
export interface NativeParser {
  readonly stream: {
    readonly session: (ServerHttp2Session | ClientHttp2Session) & { WTrtt?: number };
    on(event: 'drain', listener: () => void): unknown;
  };
  /** The HTTP/2 stream has more than it wants to hold; reset when it has drained. */
  readonly blocked: boolean;
  /** A capsule of which the head is not complete. */
  readonly saveddata?: Uint8Array;
  parseData: (bytes: Uint8Array) => void;
  newStream: (id: bigint, priority: unknown) => NativeStream | undefined;
  onCloseWebTransportSession: (close: { readonly code: number; readonly reason: string }) => void;
  onDrain: () => void;
}

export interface NativeSession {
  readonly capsParser: NativeParser;
  readonly streamIdMngrBi: { canOpenNextOutgoingStream(): boolean; getNextOutgoingStreamId(): bigint };
  /** Calls `onStream` before it returns, where a stream may be opened. */
  orderBidiStream(options: { readonly waitUntilAvailable: boolean }): boolean;
  close(info: { readonly code: number; readonly reason: string }): void;
}

/** The library's session above the native one. */
export interface LibrarySession {
  readonly objint?: NativeSession;
  readonly ready: Promise<void>;
  readonly closed: Promise<unknown>;
  readonly state: 'connecting' | 'connected' | 'draining' | 'closed' | 'failed';
  setSessionObj: (native: NativeSession, reliable: boolean) => void;
  onStream: (event: { readonly stream: NativeStream; readonly incoming: boolean }) => void;
  onClose: (event: { readonly errorcode?: number; readonly error?: string }) => void;
  onDatagramReceived: (event: unknown) => void;
}

export interface LibraryServer {
  readonly transportInt: {
    readonly serverInt: Http2SecureServer;
    addPath(path: string): void;
  };
  /** Where sessions of a path are put. */
  readonly sessionController: Record<string, { enqueue(session: LibrarySession): void }>;
  createTransportInt(): Promise<void>;
}

/** What the library makes of its options and hands to `createTransport` of ours. */
export interface LibraryClient {
  readonly args: { createReliableClient: (owner: LibraryClient) => NativeClient };
  onClientConnected(event: { readonly success: boolean }): void;
  onClientWebTransportSupport(event: object): void;
}

export interface NativeClient {
  clientInt?: ClientHttp2Session & { WTrtt?: number };
  createTransport: () => void;
}

export interface LibraryWebTransport {
  readonly sessionint: LibrarySession;
}
type WebTransportClass = new (
  url: string,
  options: object,
) => LibraryWebTransport & {
  createClient(options: object): { client: LibraryClient; sessionint: LibrarySession };
};

export interface WebTransportLibrary {
  readonly Http2Server: new (options: object) => LibraryServer;
  readonly WebTransport: WebTransportClass;
}

/**
 * Rejects with {@link TransportError} when the package is not installed. The library prints five lines to the console
 * when its HTTP/3 package is missing: an empty module stands in for it.
 */
export const loadWebTransport = async (): Promise<WebTransportLibrary> => {
  const hooks = registerHooks({
    resolve: (specifier, context, next) => {
      if (specifier !== HTTP3_PACKAGE) return next(specifier, context);
      try {
        return next(specifier, context);
      } catch {
        return { url: 'data:text/javascript,export{}', format: 'module', shortCircuit: true };
      }
    },
  });
  try {
    const library = (await import(LIBRARY)) as WebTransportLibrary & { quicheLoaded: Promise<void> };
    await library.quicheLoaded;
    return library;
  } catch (cause) {
    throw new TransportError(`the package ${LIBRARY} cannot be loaded`, { by: 'local', cause });
  } finally {
    hooks.deregister();
  }
};

/** SETTINGS of WebTransport over HTTP/2 (draft-ietf-webtrans-http2), as the library numbers them. */
export const WEBTRANSPORT_SETTINGS = {
  maxData: 0x2b61,
  maxStreamDataUni: 0x2b62,
  maxStreamDataBidi: 0x2b63,
  maxStreamsUni: 0x2b64,
  maxStreamsBidi: 0x2b65,
} as const;

/** Options of the library, the same at both ends. A size limit equal to the initial size keeps windows as they are. */
export const libraryOptions = (limits: WebTransportLimits) => ({
  initialStreamFlowControlWindow: limits.streamWindowBytes,
  streamFlowControlWindowSizeLimit: limits.streamWindowBytes,
  initialSessionFlowControlWindow: limits.sessionWindowBytes,
  sessionFlowControlWindowSizeLimit: limits.sessionWindowBytes,
  // Two names for what the peer may open: the server's and the client's.
  initialBidirectionalStreams: limits.streams,
  initialBidirectionalSendStreams: limits.streams,
});

/** Any stream of the library's own HTTP/2 server. */
export type LibraryStreamListener = (stream: ServerHttp2Stream, headers: object, flags: number, raw: string[]) => void;
