/** Counts the control messages of a peer, as two token buckets: number and bytes. */
import type { Clock } from '../clock.ts';
import type { LegLimits } from './limits.ts';

export interface MessageMeter {
  /** Counts one message of `bytes`; false when the peer sends more than it may. */
  take(bytes: number): boolean;
}

type MeterLimits = Pick<
  LegLimits,
  'messageBurst' | 'messagesPerSecond' | 'messageBurstBytes' | 'messageBytesPerSecond'
>;

export const createMessageMeter = (deps: { readonly clock: Clock }, limits: MeterLimits): MessageMeter => {
  let messages = limits.messageBurst;
  let bytesLeft = limits.messageBurstBytes;
  let filledAt = deps.clock.monotonic();
  return {
    take(bytes) {
      const now = deps.clock.monotonic();
      const seconds = (now - filledAt) / 1_000;
      filledAt = now;
      messages = Math.min(limits.messageBurst, messages + seconds * limits.messagesPerSecond) - 1;
      bytesLeft = Math.min(limits.messageBurstBytes, bytesLeft + seconds * limits.messageBytesPerSecond) - bytes;
      return messages >= 0 && bytesLeft >= 0;
    },
  };
};
