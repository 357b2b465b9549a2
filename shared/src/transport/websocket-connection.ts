/** A WebSocket as {@link Connection}: streams in the messages of one socket. */
import type { TLSSocket } from 'node:tls';
import type WebSocket from 'ws';
import { systemClock } from '../clock.ts';
import { TransportError, type EndedBy } from '../errors.ts';
import type { Connection, ConnectionEnd, ConnectionStats, TransportStream } from './connection.ts';
import { createQueue } from './queue.ts';
import { exporterOf, remoteAddressOf } from './tls-socket.ts';
import { FRAME_HEADER_BYTES, MAX_STREAM_ID, type WebSocketLimits } from './websocket-limits.ts';
import { createWebSocketStream, type StreamOwner, type WebSocketStream } from './websocket-stream.ts';

/** RFC 6455 section 7.4.1. */
const CLOSE_NORMAL = 1_000;
const CLOSE_PROTOCOL_ERROR = 1_002;

/**
 * Takes over an open WebSocket; call at once, before anything is read from it. `onEnd` is called once, when `closed`
 * settles. Throws {@link TransportError} when the socket is gone.
 */
export const createWebSocketConnection = (
  ws: WebSocket,
  socket: TLSSocket,
  options: { readonly isClient: boolean; readonly limits: WebSocketLimits; readonly onEnd: () => void },
): Connection => {
  const { limits } = options;
  const remoteAddress = remoteAddressOf(socket);
  const exporter = exporterOf(socket);
  const places = createQueue<true>();
  for (let place = 0; place < limits.streams; place++) places.put(true);
  const incoming = createQueue<TransportStream>();
  /** Streams with an id that have not ended in both directions. */
  const streams = new Map<number, WebSocketStream>();
  /** Own streams that have not sent anything. */
  const unseen = new Set<WebSocketStream>();
  const { promise: closed, resolve: resolveClosed } = Promise.withResolvers<ConnectionEnd>();
  let nextId = options.isClient ? 1 : 2;
  let nextPeerId = options.isClient ? 2 : 1;
  let peerStreams = 0;
  let unread = 0;
  let rttMs: number | undefined;
  let lastError: Error | undefined;
  let ended: { readonly failure: TransportError; readonly stats: ConnectionStats } | undefined;

  const currentStats = (): ConnectionStats => ({
    rttMs,
    received: socket.bytesRead,
    bytesSent: socket.bytesWritten,
    bytesReceived: socket.bytesRead,
  });
  const end = (by: EndedBy, error: Error | undefined): boolean => {
    if (ended !== undefined) return false;
    const failure = new TransportError('the connection ended', { by, cause: error });
    ended = { failure, stats: currentStats() };
    cancelPing();
    for (const stream of [...streams.values(), ...unseen]) stream.cut(failure);
    streams.clear();
    unseen.clear();
    places.fail(failure);
    incoming.fail(failure);
    resolveClosed(error === undefined ? { by } : { by, error });
    options.onEnd();
    return true;
  };
  const violated = (message: string): void => {
    if (end('local', new TransportError(message))) close(CLOSE_PROTOCOL_ERROR);
  };
  const close = (code: number): void => {
    // A socket that is not read would not see the peer's answer.
    ws.resume();
    ws.close(code);
  };

  const throwIfEnded = (): void => {
    if (ended !== undefined) throw ended.failure;
  };
  const isOwn = (id: number): boolean => id % 2 === nextId % 2;
  const owner: StreamOwner = {
    limits,
    send: (stream, kind, payload, onSent) => {
      if (ended !== undefined) return;
      if (stream.id === undefined) {
        stream.id = nextId;
        nextId += 2;
        unseen.delete(stream);
        streams.set(stream.id, stream);
      }
      // One piece of memory of our own: the caller's is free as soon as its write has resolved, and is never masked.
      const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + (payload?.length ?? 0));
      frame.writeUInt32BE(((kind << 24) | stream.id) >>> 0);
      if (payload !== undefined) frame.set(payload, FRAME_HEADER_BYTES);
      ws.send(frame, { binary: true, fin: true }, (error) => {
        if (!error && ended === undefined) onSent?.();
      });
    },
    unreadChanged: (bytes) => {
      unread += bytes;
      if (ended !== undefined) return;
      if (unread > limits.unreadBytes && !ws.isPaused) ws.pause();
      else if (unread <= limits.unreadBytes / 2 && ws.isPaused) ws.resume();
    },
    forget: ({ id }) => {
      if (id !== undefined && streams.delete(id) && !isOwn(id)) peerStreams -= 1;
    },
    release: (stream) => {
      unseen.delete(stream);
      if (stream.id === undefined || isOwn(stream.id)) places.put(true);
    },
  };

  const onFrame = (frame: Buffer): void => {
    if (ended !== undefined) return;
    if (frame.length < FRAME_HEADER_BYTES) return violated('a frame that is too short');
    const kind = frame[0]!;
    const id = frame.readUIntBE(1, 3);
    let stream = streams.get(id);
    if (stream === undefined) {
      // What was on its way when this side ended the stream.
      if (id > 0 && id < (isOwn(id) ? nextId : nextPeerId)) return;
      if (id !== nextPeerId || ++peerStreams > limits.streams) return violated(`a frame for stream ${id}`);
      nextPeerId += 2;
      stream = createWebSocketStream(owner);
      stream.id = id;
      streams.set(id, stream);
      incoming.put(stream.stream);
    }
    if (!stream.onFrame(kind, frame.subarray(FRAME_HEADER_BYTES))) violated(`a frame of kind ${kind} out of turn`);
  };

  let pingedAt = 0;
  let cancelPing = (): void => {};
  const ping = (): void => {
    pingedAt = systemClock.monotonic();
    ws.ping();
    cancelPing = systemClock.timer(limits.pingIntervalMs, ping);
  };
  ws.on('pong', () => {
    if (pingedAt > 0) rttMs = systemClock.monotonic() - pingedAt;
    pingedAt = 0;
  });
  ws.on('message', (message, isBinary) => {
    if (!isBinary) return violated('a text message');
    onFrame(message as Buffer);
  });
  ws.on('error', (error) => (lastError = error));
  ws.on('close', (code) => {
    const lost = new TransportError(`the connection to ${remoteAddress} was lost`, { cause: lastError });
    end('remote', code === CLOSE_NORMAL ? undefined : lost);
  });
  ping();

  return {
    transport: 'websocket',
    remoteAddress,
    peerKey: undefined,
    ...(exporter === undefined ? {} : { exporter }),
    openStream: async ({ signal }) => {
      throwIfEnded();
      if (nextId + 2 * limits.streams > MAX_STREAM_ID) {
        throw new TransportError('the streams of this connection are used up', { by: 'local' });
      }
      await places.next(signal);
      throwIfEnded();
      const stream = createWebSocketStream(owner);
      unseen.add(stream);
      return stream.stream;
    },
    acceptStream: ({ signal }) => (ended === undefined ? incoming.next(signal) : Promise.reject(ended.failure)),
    closed,
    stats: () => ended?.stats ?? currentStats(),
    close: (error) => {
      if (end('local', error)) close(CLOSE_NORMAL);
    },
  };
};
