/** What a leg carries at this moment: a transfer over it, together with the traffic that it has besides. */
import type { Clock } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { transfer, TransferError } from './diagnose/transfer.ts';

/**
 * Payload bytes a second in the direction that carries more, while 1 MiB goes to the gateway and back: where a download
 * fills one direction, the other one says nothing. A transfer that takes longer than `timeoutMs` is given up, and counts
 * with what it moved. Rejects when the leg ends, or with the signal's reason.
 */
export const measureGoodput = async (
  leg: Leg,
  deps: { readonly clock: Clock },
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<number> => {
  const { clock } = deps;
  const limit = new AbortController();
  const cancel = clock.timer(options.timeoutMs, () =>
    limit.abort(new DOMException('the transfer took too long', 'TimeoutError')),
  );
  const before = leg.stats();
  const startedAt = clock.monotonic();
  try {
    await transfer(leg, deps, { signal: AbortSignal.any([options.signal, limit.signal]) });
  } catch (error) {
    options.signal.throwIfAborted();
    const isStalled = error instanceof TransferError && error.isStalled;
    if (!(limit.signal.aborted || isStalled) || !leg.isOpen) throw error;
  } finally {
    cancel();
  }
  const tookMs = Math.max(1, clock.monotonic() - startedAt);
  const after = leg.stats();
  const carried = Math.max(after.bytesSent - before.bytesSent, after.bytesReceived - before.bytesReceived);
  return (carried * 1_000) / tookMs;
};
