/** Settings of the WebSocket transport, and the frames it puts into messages. */
export interface WebSocketLimits {
  /** Streams that each side may have open: the control stream and lanes. More wait in `openStream`. */
  readonly streams: number;
  /** Bytes unread on one stream; the writer waits beyond it. All bulk of a direction is on one stream. */
  readonly streamWindowBytes: number;
  /** Bytes unread on all streams of a connection. Beyond it nothing more is read from the socket. */
  readonly unreadBytes: number;
  /** Largest message, bytes: a frame. Larger ones are sent in pieces; one that comes ends the connection with 1009. */
  readonly messageBytes: number;
  /** From a TLS connection until the WebSocket is open, ms. Then it is closed. */
  readonly handshakeTimeoutMs: number;
  /** For the last bytes, and the news that the connection ends, to reach the peer, ms. Then it is cut. */
  readonly closeTimeoutMs: number;
  /** How often the round trip is measured, ms. It also keeps NAT mappings and proxies from forgetting the connection. */
  readonly pingIntervalMs: number;
}

export const WEBSOCKET_LIMITS: WebSocketLimits = {
  streams: 16,
  streamWindowBytes: 16 << 20,
  unreadBytes: 32 << 20,
  messageBytes: 64 << 10,
  handshakeTimeoutMs: 10_000,
  closeTimeoutMs: 1_000,
  pingIntervalMs: 1_000,
};

/** Where the tunnel is, on the host `tunnel.<domain>`. */
export const WEBSOCKET_PATH = '/v1/ws';

/**
 * A binary message is one frame: kind (u8), stream id (u24, big-endian), and what the kind says. The dialler's streams
 * have odd ids, the acceptor's even ones, each 2 above the last; the first frame of an id opens its stream.
 *
 *     DATA    bytes of the stream
 *     FIN     nothing; the sender's direction has ended
 *     RESET   nothing; both directions are discarded
 *     WINDOW  u32, big-endian: so many bytes more may be sent
 */
export const WEBSOCKET_FRAME = { data: 0, fin: 1, reset: 2, window: 3 } as const;
/** Kind and stream id. */
export const FRAME_HEADER_BYTES = 4;
/** The last id that fits; `openStream` rejects beyond it, which a leg never gets near. */
export const MAX_STREAM_ID = 0xff_ffff;
