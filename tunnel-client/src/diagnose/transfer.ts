/** A transfer over a real leg: it finds what handshakes do not, such as packets of full size that are lost on the way. */
import { randomBytes } from 'node:crypto';
import { type Clock, delay } from '../../../shared/src/clock.ts';
import { StreamRefusedError } from '../../../shared/src/errors.ts';
import { echo, ECHO_TARGET } from '../../../shared/src/protocol/echo.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';

/** Each way, bytes: some seven hundred packets of full size. */
export const TRANSFER_BYTES = 1 << 20;
/** Handed to the stream at once, bytes. */
const CHUNK_BYTES = 32 << 10;
/** Round trips that are measured; the fastest counts. */
const ECHOES = 3;
/** How often it is looked whether a leg has a lane, ms. */
const LANE_CHECK_MS = 20;
/** An echo takes one round trip; a longer one is a path that carries nothing, ms. */
const ECHO_TIMEOUT_MS = 5_000;
/**
 * Nothing came back for so long after echoes did, ms: what is lost is repeated a few times until then. Below the silence
 * after which a leg over TCP is lost, which would hide what is wrong.
 */
const STALL_MS = 4_000;

export interface Transfer {
  readonly rttMs: number;
  /** Until the last byte was back, ms. */
  readonly tookMs: number;
  /** Bytes a second each way, at the same time. */
  readonly goodput: number;
  /** Share of the packets sent that were lost; undefined where the transport cannot tell. */
  readonly loss: number | undefined;
}

/** How far a transfer came that did not end. */
export class TransferError extends Error {
  override readonly name = 'TransferError';
  readonly receivedBytes: number;
  /** Echoes were answered before, and then nothing came any more: small packets pass, those of full size do not. */
  readonly isStalled: boolean;
  constructor(message: string, receivedBytes: number, options: { cause?: unknown; isStalled?: boolean } = {}) {
    super(message, options);
    this.receivedBytes = receivedBytes;
    this.isStalled = options.isStalled ?? false;
  }
}

/** Aborts its signal when `reset` was not called for so long. */
const createStallLimit = (clock: Clock): { readonly signal: AbortSignal; reset(): void; end(): void } => {
  const limit = new AbortController();
  const abort = (): void => limit.abort(new Error(`nothing came for ${STALL_MS / 1_000} s`));
  let cancel = (): void => undefined;
  return {
    signal: limit.signal,
    reset() {
      cancel();
      cancel = clock.timer(STALL_MS, abort);
    },
    end: () => cancel(),
  };
};

/** The gateway opens the first lane together with its welcome: it may still be on the way. */
const untilLane = async (leg: Leg, deps: { clock: Clock }, signal: AbortSignal): Promise<void> => {
  const end = deps.clock.monotonic() + ECHO_TIMEOUT_MS;
  for (;;) {
    try {
      await echo(leg, deps, { timeoutMs: ECHO_TIMEOUT_MS, signal });
      return;
    } catch (error) {
      const isEarly = error instanceof StreamRefusedError && error.code === 'limit';
      if (!isEarly || deps.clock.monotonic() > end) throw error;
      await delay(deps.clock, LANE_CHECK_MS, signal);
    }
  }
};

/** Sends {@link TRANSFER_BYTES} to the gateway, which sends them back. Rejects with {@link TransferError}. */
export const transfer = async (
  leg: Leg,
  deps: { clock: Clock },
  options: { signal: AbortSignal },
): Promise<Transfer> => {
  const { clock } = deps;
  const { signal } = options;
  let rttMs = Infinity;
  let received = 0;
  const stall = createStallLimit(clock);
  try {
    await untilLane(leg, deps, signal);
    for (let count = 0; count < ECHOES; count++) {
      rttMs = Math.min(rttMs, await echo(leg, deps, { timeoutMs: ECHO_TIMEOUT_MS, signal }));
    }
    const before = leg.stats().packets;
    const content = randomBytes(TRANSFER_BYTES);
    const startedAt = clock.monotonic();
    stall.reset();
    const stream = leg.openStream(ECHO_TARGET, { signal: AbortSignal.any([signal, stall.signal]) });
    stream.connected.catch(() => undefined);
    const send = async (): Promise<void> => {
      for (let at = 0; at < content.length; at += CHUNK_BYTES) {
        if (stream.destroyed) return;
        if (stream.write(content.subarray(at, at + CHUNK_BYTES))) continue;
        await new Promise<void>((resolve) => {
          stream.once('drain', resolve).once('close', resolve);
        });
      }
      stream.end();
    };
    const sending = send();
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (!chunk.equals(content.subarray(received, received + chunk.length)))
        throw new Error('bytes came back changed');
      stall.reset();
      received += chunk.length;
    }
    await sending;
    if (received !== content.length) throw new Error('the answer ended early');
    const tookMs = clock.monotonic() - startedAt;
    const after = leg.stats().packets;
    const sent = before && after ? after.sent - before.sent : 0;
    return {
      rttMs,
      tookMs,
      goodput: (TRANSFER_BYTES * 1_000) / tookMs,
      loss: before && after && sent > 0 ? (after.lost - before.lost) / sent : undefined,
    };
  } catch (error) {
    const reason: unknown = stall.signal.aborted ? stall.signal.reason : error;
    throw new TransferError(reason instanceof Error ? reason.message : String(reason), received, {
      cause: error,
      isStalled: stall.signal.aborted,
    });
  } finally {
    stall.end();
  }
};
