/** Settings of the WebTransport transport. */
export interface WebTransportLimits {
  /**
   * Streams that each side may open in the life of a connection: the library never gives a place back. A leg has ten
   * (control stream and lanes). Beyond it `openStream` rejects, and a peer that opens more is cut off. Each leaves
   * some KB until the connection ends, and a peer may name them in any order, which costs as many steps.
   */
  readonly streams: number;
  /**
   * Bytes unread on one stream; the writer waits beyond it. All bulk of a direction is on one stream, and the library
   * gives credit back by halves: 35 MB/s at a round trip of 100 ms were measured, 20 MB/s with 4 MiB.
   */
  readonly streamWindowBytes: number;
  /** Bytes unread on all streams of a connection; writers wait beyond it. */
  readonly sessionWindowBytes: number;
  /**
   * Window of the HTTP/2 stream that carries everything, bytes. The library leaves it at 64 KiB: 0.4 MB/s at a round
   * trip of 100 ms. What arrives is read at once, so the windows above are what bounds it.
   */
  readonly http2StreamWindowBytes: number;
  /** The same of the HTTP/2 connection. */
  readonly http2ConnectionWindowBytes: number;
  /** From a TLS connection until its tunnel is open, ms. Then it is closed. */
  readonly handshakeTimeoutMs: number;
  /** For the last bytes, and the news that the connection ends, to reach the peer, ms. Then it is cut. */
  readonly closeTimeoutMs: number;
  /** Requests on one connection that are refused before it is cut: each costs next to nothing, a flood does not. */
  readonly refusedRequests: number;
}

export const WEBTRANSPORT_LIMITS: WebTransportLimits = {
  streams: 256,
  streamWindowBytes: 16 << 20,
  sessionWindowBytes: 32 << 20,
  http2StreamWindowBytes: 16 << 20,
  http2ConnectionWindowBytes: 32 << 20,
  handshakeTimeoutMs: 10_000,
  closeTimeoutMs: 1_000,
  refusedRequests: 16,
};

/** Where the tunnel is, on the host `tunnel.<domain>`. */
export const WEBTRANSPORT_PATH = '/v1/wt';
