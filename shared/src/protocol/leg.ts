/**
 * A leg: one tunnel connection between two parties that have shown who they are. What the rest of the program uses of
 * the tunnel protocol is in this file; how it is carried is in `lanes.ts`.
 */
import type { Duplex } from 'node:stream';
import type { LegCloseCode, EndedBy, ResetCode, StreamRefusal } from '../errors.ts';
import type { Membership } from '../identity/membership.ts';
import type { ConnectionStats, TransportName } from '../transport/connection.ts';
import type { MessageOf, OutgoingMessage } from './messages.ts';
import type { Target } from './target.ts';

/**
 * A tunnel stream at the side that opened it. Payload may be written at once; what arrives follows the STATUS. Memory
 * that was written is not to be changed afterwards, not even after the callback of the write: it may still wait here.
 */
export interface TunnelStream extends Duplex {
  readonly target: Target;
  /** The leg that carries the stream. */
  readonly leg: Leg;
  /**
   * Settles with the STATUS: resolves when the target is connected, rejects with StreamRefusedError (no byte reached
   * the target) or with StreamResetError. The stream itself is destroyed with the same error.
   */
  readonly connected: Promise<void>;
  /** Bytes of payload that went out and came in. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Ends both directions at once and tells the other side why. `destroy(error)` does the same with `cancelled`. */
  reset(code: ResetCode): void;
}

/** A tunnel stream at the side that was asked to open it: it must be answered by `accept` or `refuse`, once. */
export interface IncomingTunnelStream extends Duplex {
  readonly target: Target;
  readonly leg: Leg;
  accept(): void;
  /** Promises that no byte reached the target. */
  refuse(code: StreamRefusal): void;
  reset(code: ResetCode): void;
}

export interface LegHandlers {
  /** The peer opened a stream. Absent: refused with RESET `forbidden`. `echo` never gets here; the leg answers it. */
  readonly onStream?: (stream: IncomingTunnelStream) => void;
  /** A control message for the layer above (`ping`, `pong` and `goodbye` never get here). */
  readonly onMessage?: (message: MessageOf<'activate' | 'environments' | 'environmentsResult' | 'drain'>) => void;
}

export interface LegEnd {
  readonly code: LegCloseCode;
  readonly by: EndedBy;
  readonly reason?: string;
  readonly error?: Error;
}

export interface LegStats {
  readonly rttMs: number | undefined;
  readonly openStreams: number;
  /** Grows whenever anything arrives, see ConnectionStats. */
  readonly received: number;
  /** Payload of tunnel streams. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** See ConnectionStats. */
  readonly packets?: ConnectionStats['packets'];
  /** The same of the peer, as it has told last. */
  readonly peerPackets?: ConnectionStats['packets'];
}

export interface Leg {
  readonly id: string;
  readonly transport: TransportName;
  readonly remoteAddress: string;
  /** Which side of the connection this is: the acceptor's streams have odd ids. */
  readonly role: 'acceptor' | 'dialler';
  /** Who the peer has shown itself to be. */
  readonly peer: Membership;
  /**
   * TLS does not reach from one end to the other, or that cannot be told: somebody between the two inspects it. Never
   * where the transport proves keys (QUIC).
   */
  readonly inspected: boolean;
  /** The peer's `hello` (acceptor) or `welcome` (dialler). */
  readonly greeting: MessageOf<'hello'> | MessageOf<'welcome'>;
  /** Must be called once, at once after the leg was made: frames are read from then on. */
  attach(handlers: LegHandlers): void;
  /**
   * Opens a tunnel stream without waiting for the other side. Throws StreamRefusedError `limit` at the leg's stream
   * limit and LegClosedError when the leg has ended. When `signal` is aborted the stream is reset.
   */
  openStream(target: Target, options: { signal: AbortSignal }): TunnelStream;
  send(message: OutgoingMessage): void;
  /** Resolves when the peer has taken every message that was sent before, or the leg has ended. Never rejects. */
  roundTrip(): Promise<void>;
  stats(): LegStats;
  /** Settles once, never rejects. Every stream of the leg has been destroyed before. */
  readonly closed: Promise<LegEnd>;
  /** False once it has ended, or `close` was called. */
  readonly isOpen: boolean;
  /** Says `goodbye` and closes when that is flushed (at most 1 s later). Streams still open are cut. */
  close(code: LegCloseCode, reason?: string): Promise<void>;
  /** Ends the leg at once. */
  abort(code: LegCloseCode, error?: Error): void;
}
