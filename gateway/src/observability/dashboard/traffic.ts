/** What the charts of the dashboard show: counters that only grow, read at even steps and kept for a while. */
import type { Clock } from '../../../../shared/src/clock.ts';

/** Between two readings, ms: as often as an open page asks. */
export const SAMPLE_INTERVAL_MS = 2_000;
/** Readings that are kept: ten minutes, about 30 kB. The oldest goes first. */
export const MAX_SAMPLES = 300;

export interface TunnelReading {
  readonly openStreams: number;
  /** Payload since the gateway started. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** One reading: time (ms since the epoch), requests, errors, open streams, bytes to runners, bytes from runners. */
export type Sample = readonly [
  at: number,
  requests: number,
  errors: number,
  openStreams: number,
  bytesSent: number,
  bytesReceived: number,
];

export interface Traffic {
  requestEnded(status: number, errorCode: string | undefined): void;
  /** The oldest first; the last one is of now. */
  samples(): readonly Sample[];
  /** How often the gateway answered with each of its error codes, the most frequent first. */
  errors(): readonly (readonly [code: string, count: number])[];
  close(): void;
}

/** What the visitor sees as a fault of the service, whoever made the answer. */
const isError = (status: number): boolean => status >= 500;

export const createTraffic = (deps: { readonly clock: Clock; readonly tunnels: () => TunnelReading }): Traffic => {
  const { clock } = deps;
  const samples: Sample[] = [];
  // The codes are those of the table of errors: their number is bounded.
  const byCode = new Map<string, number>();
  let requests = 0;
  let errors = 0;

  const read = (): Sample => {
    const { openStreams, bytesSent, bytesReceived } = deps.tunnels();
    return [clock.now(), requests, errors, openStreams, bytesSent, bytesReceived];
  };
  let cancel: () => void = () => {};
  const sample = (): void => {
    samples.push(read());
    if (samples.length > MAX_SAMPLES) samples.shift();
    cancel = clock.timer(SAMPLE_INTERVAL_MS, sample);
  };
  // The tunnels are there only when the parts have been joined.
  cancel = clock.timer(0, sample);

  return {
    requestEnded(status, errorCode) {
      requests += 1;
      if (isError(status)) errors += 1;
      if (errorCode !== undefined) byCode.set(errorCode, (byCode.get(errorCode) ?? 0) + 1);
    },
    samples: () => [...samples, read()],
    errors: () => [...byCode].sort(([, a], [, b]) => b - a),
    close: () => cancel(),
  };
};
