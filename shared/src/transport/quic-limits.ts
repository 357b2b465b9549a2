/** Settings of the QUIC transport, and the native configuration made of them. */
import type { IdentityKey } from '../identity/keys.ts';
import { encodePrivateKey } from './peer-id.ts';
import type { NativeConfig, NativeQuic } from './quic-native.ts';

export interface QuicLimits {
  /** ms without a datagram until a connection is lost. Long enough for two lost keep-alives of 1 s. */
  readonly idleTimeoutMs: number;
  /** ms until a dial fails, whatever has come back. Equal to the idle limit, which ends it where nothing does. */
  readonly handshakeTimeoutMs: number;
  /** ms between keep-alives of the dialler. The acceptor sends none: its peer's are answered. */
  readonly keepAliveMs: number;
  /**
   * Transport streams that the peer may have open: the control stream and lanes. More wait in `openStream`. The
   * binding gives a place back when more than an eighth of them have become free. Each reserves memory.
   */
  readonly streams: number;
  /** Bytes unread on one stream; the writer waits beyond it. Must exceed what credit allows on a lane. */
  readonly streamWindowBytes: number;
  /** Bytes unread on all streams of a connection; writers wait beyond it. Must exceed the credit of a leg. */
  readonly connectionWindowBytes: number;
  /**
   * Handshakes under way at once. Each holds one native `inboundConnection()` call (2.5 KB), a half-open one until the
   * idle limit. (There are no more calls than are needed, see `SPARE_CALLS`.) Beyond it new ones wait unanswered, so that runners come in over TCP.
   */
  readonly handshakes: number;
  /** Bytes of socket buffer of a dialer, cut to what the system allows. A listener's come from the system. */
  readonly socketBufferBytes: number;
  /**
   * ms that a dialer keeps a UDP socket at least; one on which a dial fails later is replaced. A stale NAT mapping
   * lives as long as dials from its port go on, so the port has to change; but a socket is freed by garbage
   * collection only, so it must not change with every dial.
   */
  readonly minSocketAgeMs: number;
}

export const QUIC_LIMITS: QuicLimits = {
  idleTimeoutMs: 5_000,
  handshakeTimeoutMs: 5_000,
  keepAliveMs: 1_000,
  streams: 16,
  streamWindowBytes: 4 << 20,
  connectionWindowBytes: 64 << 20,
  handshakes: 8_192,
  socketBufferBytes: 4 << 20,
  minSocketAgeMs: 60_000,
};

/** ms. Larger than any idle limit, so that no keep-alive is ever sent. */
export const KEEP_ALIVE_OFF_MS = 3_600_000;

export const createConfig = (
  quic: NativeQuic,
  key: IdentityKey,
  limits: QuicLimits,
  keepAliveMs: number,
): NativeConfig =>
  new quic.QuinnConfig({
    privateKeyProto: encodePrivateKey(key.secretKey),
    handshakeTimeout: limits.handshakeTimeoutMs,
    maxIdleTimeout: limits.idleTimeoutMs,
    keepAliveInterval: keepAliveMs,
    maxConcurrentStreamLimit: limits.streams,
    maxStreamData: limits.streamWindowBytes,
    maxConnectionData: limits.connectionWindowBytes,
    receiveBufferSize: limits.socketBufferBytes,
    sendBufferSize: limits.socketBufferBytes,
  });
