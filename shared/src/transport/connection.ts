/**
 * What a transport gives: a connection that carries a handful of ordered byte streams. It knows nothing of messages,
 * frames or runners. One compliance suite (`test/compliance/connection.ts`) runs on every implementation.
 */
export type TransportName = 'memory' | 'quic' | 'webtransport' | 'websocket';

export interface TransportStream {
  /**
   * The next bytes, or null at a clean end. At most one read at a time. Rejects with {@link TransportError} when the
   * stream was reset or the connection ended. The returned memory belongs to the caller.
   */
  read(): Promise<Uint8Array | null>;
  /**
   * Resolves when the transport has taken the bytes and is ready for more (backpressure). At most one write at a time;
   * the caller leaves `bytes` alone until then.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends the writing direction after what was written. */
  finish(): Promise<void>;
  /** Discards both directions at once. May be called at any time and twice. */
  reset(): void;
}

export interface ConnectionEnd {
  readonly by: 'local' | 'remote';
  /** What went wrong, absent for an orderly end. */
  readonly error?: Error;
}

export interface ConnectionStats {
  /** Smoothed round-trip time in ms; undefined where the transport cannot tell. */
  readonly rttMs: number | undefined;
  /** A number that grows whenever anything at all arrives from the peer (datagrams, or bytes). */
  readonly received: number;
  /** Bytes on the wire where the transport knows them. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Packets that this side has sent, and those of them that were lost; absent where the transport cannot tell. */
  readonly packets?: { readonly sent: number; readonly lost: number };
}

export interface Connection {
  readonly transport: TransportName;
  /** `address:port` of the peer, IPv6 in brackets. For logs and limits, never for identity. */
  readonly remoteAddress: string;
  /**
   * The peer's Ed25519 public key (32 bytes) where the transport itself has proved its possession (QUIC, memory),
   * else undefined: then the tunnel handshake proves it with a signature.
   */
  readonly peerKey: Uint8Array | undefined;
  /**
   * Keying material of the TLS connection that this runs in, known to its two ends alone. Absent where the transport
   * proves keys itself, and where there is none to rely on.
   */
  readonly exporter?: Uint8Array;
  openStream(options: { signal: AbortSignal }): Promise<TransportStream>;
  /** The next stream that the peer opened. Rejects when the connection ends. */
  acceptStream(options: { signal: AbortSignal }): Promise<TransportStream>;
  /** Settles once, never rejects. */
  readonly closed: Promise<ConnectionEnd>;
  stats(): ConnectionStats;
  /** Ends the connection at once. `error` is what `closed` then tells; without it the end is an orderly one. */
  close(error?: Error): void;
}

/** Listens for connections. `create` functions of the transports return one, already listening. */
export interface ConnectionListener {
  readonly address: { readonly host: string; readonly port: number };
  /** Stops listening and ends every connection that came in here. */
  close(): Promise<void>;
}
