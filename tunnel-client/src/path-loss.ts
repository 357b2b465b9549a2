/**
 * Whether the path of a leg loses packets for so long that another transport may carry more on it. QUIC has one
 * congestion control here, CUBIC, which takes every lost packet for a full queue; TCP has the one of the system.
 *
 *     span ──► span ──► span ──► lossy        a span is at least 10 s and 200 packets
 *      ▲        │        │
 *      └────────┴────────┴── one without loss, or on a short path
 */
import type { Clock } from '../../shared/src/clock.ts';
import type { Leg, LegStats } from '../../shared/src/protocol/leg.ts';

export interface PathLossLimits {
  /** How often the counters of a leg are read, ms: a call of less than a microsecond. */
  readonly sampleMs: number;
  /** Least time that a span lasts, ms. */
  readonly spanMs: number;
  /** Least packets sent in a span: at rest a leg sends one a second, which says little. */
  readonly spanPackets: number;
  /** Lossy spans in a row that make a lossy path: with {@link spanMs} 30 s. */
  readonly spans: number;
  /**
   * Share of the packets sent. At a tenth of a percent and 100 ms CUBIC carries 0.5 to 1 MB/s, and of a span of 9,000
   * packets 3 to 15 are lost: half as much, so that three such spans in a row are seen as what they are.
   */
  readonly lossShare: number;
  /** Round trip, ms: below it CUBIC makes up for its losses quickly. */
  readonly roundTripMs: number;
}

export const PATH_LOSS_LIMITS: PathLossLimits = {
  sampleMs: 1_000,
  spanMs: 10_000,
  spanPackets: 200,
  spans: 3,
  lossShare: 0.0005,
  roundTripMs: 20,
};

export interface PathLoss {
  /** Whose packets were lost. */
  readonly of: 'client' | 'gateway';
  /** Share of the packets that were sent in the lossy spans. */
  readonly loss: number;
  /** Of the last span, ms. */
  readonly rttMs: number;
}

const NONE = { sent: 0, lost: 0 };

/** One direction of a leg: `judge` gives the share that was lost once there were enough lossy spans in a row. */
const createSpans = (clock: Clock, limits: PathLossLimits, packets: LegStats['packets'] = NONE) => {
  let lossySpans = 0;
  let first = packets;
  let begin = packets;
  let begunAt = clock.monotonic();
  return {
    judge(now: LegStats['packets'], rttMs: number): number | undefined {
      if (!now) return undefined;
      const sent = now.sent - begin.sent;
      if (clock.monotonic() - begunAt < limits.spanMs || sent < limits.spanPackets) return undefined;
      const isLossy = rttMs > limits.roundTripMs && (now.lost - begin.lost) / sent > limits.lossShare;
      lossySpans = isLossy ? lossySpans + 1 : 0;
      begin = now;
      begunAt = clock.monotonic();
      if (!isLossy) first = now;
      return lossySpans < limits.spans ? undefined : (now.lost - first.lost) / (now.sent - first.sent);
    },
  };
};

/**
 * Resolves when the path of `leg` is a lossy one, in either direction: the gateway tells what it has lost. Never for a
 * transport that does not count its packets. Rejects when the signal is aborted.
 */
export const untilLossy = (
  leg: Pick<Leg, 'stats'>,
  deps: { readonly clock: Clock },
  options: { readonly limits: PathLossLimits; readonly signal: AbortSignal },
): Promise<PathLoss> =>
  new Promise((resolve, reject) => {
    const { clock } = deps;
    const { limits, signal } = options;
    const before = leg.stats();
    const client = createSpans(clock, limits, before.packets);
    const gateway = createSpans(clock, limits, before.peerPackets);
    let cancel = (): void => {};

    const sample = (): void => {
      cancel = clock.timer(limits.sampleMs, sample);
      const { packets, peerPackets, rttMs = 0 } = leg.stats();
      const ofClient = client.judge(packets, rttMs);
      const ofGateway = gateway.judge(peerPackets, rttMs);
      const loss = ofClient ?? ofGateway;
      if (loss === undefined) return;
      finish();
      resolve({ of: ofClient === undefined ? 'gateway' : 'client', loss, rttMs });
    };
    const finish = (): void => {
      cancel();
      signal.removeEventListener('abort', onAbort);
    };
    const onAbort = (): void => {
      finish();
      reject(signal.reason as Error);
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    cancel = clock.timer(limits.sampleMs, sample);
  });
