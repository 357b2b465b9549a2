/** Sums over legs that are and legs that were, for counters that must never fall. */
import type { LegStats } from '../../../shared/src/protocol/leg.ts';
import type { LegInfo } from './registry-status.ts';

export interface TunnelTotals {
  /** A leg is gone: its bytes stay counted. */
  add(stats: Pick<LegStats, 'bytesSent' | 'bytesReceived'>): void;
  snapshot(legs: readonly LegInfo[]): {
    readonly legs: ReadonlyMap<string, number>;
    readonly openStreams: number;
    readonly bytesSent: number;
    readonly bytesReceived: number;
  };
}

export const createTunnelTotals = (): TunnelTotals => {
  let goneSent = 0;
  let goneReceived = 0;
  return {
    add({ bytesSent, bytesReceived }) {
      goneSent += bytesSent;
      goneReceived += bytesReceived;
    },
    snapshot(legs) {
      const byTransport = new Map<string, number>();
      let [openStreams, bytesSent, bytesReceived] = [0, goneSent, goneReceived];
      for (const leg of legs) {
        byTransport.set(leg.transport, (byTransport.get(leg.transport) ?? 0) + 1);
        openStreams += leg.openStreams;
        bytesSent += leg.bytesSent;
        bytesReceived += leg.bytesReceived;
      }
      return { legs: byTransport, openStreams, bytesSent, bytesReceived };
    },
  };
};
