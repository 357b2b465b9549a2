/** Limits of a leg. Each has a unit, a reason, and what happens beyond it; `docs/limits.md` lists them for operators. */
export interface LegLimits {
  /** Tunnel streams open at once in one leg. Beyond it a new one is refused with `limit`. */
  readonly streamsPerLeg: number;
  /** From the connection until its `hello`, ms: a connection that says nothing holds a place. Then it is closed. */
  readonly helloTimeoutMs: number;
  /** From the connection until `welcome`, ms. Then it is closed. */
  readonly handshakeTimeoutMs: number;
  /** Credit of a new tunnel stream and direction, bytes: fills 100 ms × 20 Mbit/s. A frame beyond it closes the leg. */
  readonly initialCreditBytes: number;
  /** Credit of a new stream once half of {@link grantedBytesPerLeg} is out, and what may be sent before the STATUS. */
  readonly reducedCreditBytes: number;
  /** Credit of a new stream once three quarters are out. */
  readonly smallestCreditBytes: number;
  /** Largest credit of a stream, bytes; it doubles up to here while the reader keeps pace. 100 ms × 320 Mbit/s. */
  readonly largestCreditBytes: number;
  /** Credit that is out in all streams of a leg, bytes: what a peer can make this side hold. */
  readonly grantedBytesPerLeg: number;
  /** Small lanes that the accepting side opens. */
  readonly smallLanes: number;
  /** Open streams a small lane, above which the next lane is opened. */
  readonly streamsPerSmallLane: number;
  /** Bulk lanes that each side opens where the transport has streams that do not hold each other up (QUIC). */
  readonly bulkLanes: number;
  /** A direction that uses up its credit twice within this time moves to a bulk lane, ms. */
  readonly bulkAfterMs: number;
  /**
   * A direction that has sent so much without a pause of `bulkIdleMs`, and without a byte from the other direction
   * (answers on a kept connection are not bulk), moves too: many streams that share a lane never use up their credit.
   * Two initial credits.
   */
  readonly bulkAfterBytes: number;
  /** A direction on a bulk lane that sent nothing for so long goes back, ms. */
  readonly bulkIdleMs: number;
  /**
   * Control messages that a peer may send at once, those of unknown type too: all environments of a runner set one by
   * one and deleted again, twice. Beyond it, with what {@link messagesPerSecond} gives back: the leg closes with `limit`.
   */
  readonly messageBurst: number;
  /** Control messages a second in the long run. A busy runner announces a few; parsing 50 takes a thousandth of a core. */
  readonly messagesPerSecond: number;
  /** Bytes of control messages at once: one announcement of the largest size there is. Beyond: `limit`. */
  readonly messageBurstBytes: number;
  /** Bytes of control messages a second in the long run: to parse 1 MiB of JSON takes 5 to 10 ms. */
  readonly messageBytesPerSecond: number;
  /** Time for a `goodbye` to reach the peer before the connection is closed, ms. */
  readonly goodbyeTimeoutMs: number;
  /** Silence before a `ping`, where the transport itself sends nothing to keep a connection alive, ms. Whole seconds. */
  readonly pingAfterMs: number;
  /** Silence after which such a leg is lost, ms. Whole seconds. */
  readonly deadAfterMs: number;
}

export const LEG_LIMITS: LegLimits = {
  streamsPerLeg: 4_096,
  helloTimeoutMs: 5_000,
  handshakeTimeoutMs: 10_000,
  initialCreditBytes: 256 << 10,
  reducedCreditBytes: 64 << 10,
  smallestCreditBytes: 4 << 10,
  largestCreditBytes: 4 << 20,
  grantedBytesPerLeg: 64 << 20,
  smallLanes: 4,
  streamsPerSmallLane: 32,
  bulkLanes: 4,
  bulkAfterMs: 1_000,
  bulkAfterBytes: 512 << 10,
  bulkIdleMs: 1_000,
  messageBurst: 4_096,
  messagesPerSecond: 50,
  messageBurstBytes: 64 << 20,
  messageBytesPerSecond: 1 << 20,
  goodbyeTimeoutMs: 1_000,
  pingAfterMs: 2_000,
  deadAfterMs: 5_000,
};

/** Largest `hello`, `challenge` or `proof`, bytes: from a peer that has not yet shown who it is. */
export const MAX_HANDSHAKE_MESSAGE_BYTES = 32 << 10;
/** What a lane hands to its transport in one write, bytes: large enough for full speed, small enough to stay fair. */
export const MAX_BATCH_BYTES = 128 << 10;
/**
 * What a tunnel stream takes from its writer, beyond one batch, before it has to wait, bytes; and holds for its reader
 * beyond the credit.
 */
export const STREAM_BUFFER_BYTES = 64 << 10;
/** Control frames (WINDOW, STATUS, RESET …) that wait in one lane. Beyond it the peer does not read: the leg closes. */
export const MAX_QUEUED_FRAMES = 65_536;
