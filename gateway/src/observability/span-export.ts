/**
 * Sends spans to an OTLP receiver in batches. Nothing waits for it: what does not fit in the queue, and what the
 * receiver does not take, is dropped and counted.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import { delay } from '../../../shared/src/clock.ts';
import type { Logger } from './log.ts';
import type { Span } from './otlp.ts';

/**
 * Spans that wait or are being sent. About 1 KiB each: 4 MiB at most. Beyond it new spans are dropped, so that a
 * receiver that is slow or away never takes the gateway's memory.
 */
export const MAX_WAITING_SPANS = 4_096;
/** Spans of one export, the default of OpenTelemetry's own batches: about 400 KiB. More leave in the next one. */
export const MAX_SPANS_PER_EXPORT = 512;
/** ms that a span waits for others at most; a full batch leaves at once. */
export const EXPORT_INTERVAL_MS = 5_000;
/** ms that the receiver has for its answer; then the export has failed and may be tried again. */
export const EXPORT_TIMEOUT_MS = 10_000;
/** Times that one batch is sent before it is given up: a receiver restarts within two pauses. */
export const EXPORT_ATTEMPTS = 3;
/** ms between them, unless the receiver asks for more. */
export const EXPORT_RETRY_MS = 5_000;
/** ms that a receiver may ask for (`Retry-After`); a longer wish is cut to this. */
export const MAX_RETRY_AFTER_MS = 60_000;
/** ms that what is left may take when the gateway ends; then it is dropped. Part of the second that the end may take. */
export const FLUSH_ON_CLOSE_MS = 500;
/** ms between two lines of the log about failed exports. */
export const FAILURE_LOG_INTERVAL_MS = 60_000;

export type SendResult =
  | { readonly kind: 'taken'; readonly rejected: number }
  /** `reason` is for the log: a status or an error code, nothing that the receiver wrote. */
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'later'; readonly reason: string; readonly afterMs: number | undefined };

/** One export. Rejects only when the signal is aborted. */
export type SendSpans = (spans: readonly Span[], options: { readonly signal: AbortSignal }) => Promise<SendResult>;

export interface SpanCounts {
  readonly exported: number;
  /** The receiver did not take them. */
  readonly failed: number;
  /** There was no room for them. */
  readonly dropped: number;
}

export interface SpanExport {
  add(spans: readonly Span[]): void;
  counts(): SpanCounts;
  /** Sends what waits, for {@link FLUSH_ON_CLOSE_MS} at most. May be called twice. */
  close(): Promise<void>;
}

export const createSpanExport = (deps: {
  readonly clock: Clock;
  readonly log: Logger;
  readonly send: SendSpans;
}): SpanExport => {
  const { clock, log } = deps;
  let waiting: Span[] = [];
  let sending = 0;
  let exported = 0;
  let failed = 0;
  let dropped = 0;
  let loggedAt: number | undefined;
  let notLogged = 0;
  let cancelTimer: (() => void) | undefined;
  let running: Promise<void> | undefined;
  let closing: Promise<void> | undefined;
  const ended = new AbortController();

  const lost = (count: number, reason: string): void => {
    notLogged += count;
    const now = clock.monotonic();
    if (loggedAt !== undefined && now - loggedAt < FAILURE_LOG_INTERVAL_MS) return;
    loggedAt = now;
    log.warn({ spans: notLogged, reason }, 'spans were lost on their way to the OTLP endpoint');
    notLogged = 0;
  };

  const sendOnce = async (batch: readonly Span[]): Promise<SendResult> => {
    const timeout = new AbortController();
    const cancel = clock.timer(EXPORT_TIMEOUT_MS, () => timeout.abort());
    try {
      return await deps.send(batch, { signal: AbortSignal.any([ended.signal, timeout.signal]) });
    } catch (error) {
      ended.signal.throwIfAborted();
      if (!timeout.signal.aborted) throw error;
      return { kind: 'later', reason: 'timeout', afterMs: undefined };
    } finally {
      cancel();
    }
  };

  const deliver = async (batch: readonly Span[]): Promise<void> => {
    for (let attempt = 1; ; attempt++) {
      const result = await sendOnce(batch);
      if (result.kind === 'taken') {
        const rejected = Math.min(result.rejected, batch.length);
        exported += batch.length - rejected;
        failed += rejected;
        if (rejected > 0) lost(rejected, 'rejected');
        return;
      }
      // When the gateway ends there is no time for another attempt.
      if (result.kind === 'refused' || attempt === EXPORT_ATTEMPTS || closing) {
        failed += batch.length;
        return lost(batch.length, result.reason);
      }
      await delay(clock, Math.min(result.afterMs ?? EXPORT_RETRY_MS, MAX_RETRY_AFTER_MS), ended.signal);
    }
  };

  const sendBatches = async (): Promise<void> => {
    do {
      const batch = waiting.slice(0, MAX_SPANS_PER_EXPORT);
      waiting = waiting.slice(MAX_SPANS_PER_EXPORT);
      sending = batch.length;
      try {
        await deliver(batch);
      } catch (error) {
        failed += batch.length;
        lost(batch.length, ended.signal.aborted ? 'closed' : 'internal');
        if (!ended.signal.aborted) log.error({ err: error }, 'spans could not be sent');
      }
      sending = 0;
    } while (waiting.length >= MAX_SPANS_PER_EXPORT && !ended.signal.aborted);
  };
  const start = (): void => {
    running ??= sendBatches().finally(() => {
      running = undefined;
      if (waiting.length > 0 && !closing) schedule();
    });
  };
  const schedule = (): void => {
    if (waiting.length >= MAX_SPANS_PER_EXPORT) return start();
    cancelTimer ??= clock.timer(EXPORT_INTERVAL_MS, () => {
      cancelTimer = undefined;
      if (waiting.length > 0) start();
    });
  };
  const flush = async (): Promise<void> => {
    cancelTimer?.();
    const cancel = clock.timer(FLUSH_ON_CLOSE_MS, () => ended.abort(new DOMException('closed', 'AbortError')));
    await running;
    while (waiting.length > 0 && !ended.signal.aborted) {
      start();
      await running;
    }
    cancel();
    dropped += waiting.length;
    if (waiting.length > 0) lost(waiting.length, 'closed');
    waiting = [];
  };

  return {
    add(spans) {
      if (closing || waiting.length + sending + spans.length > MAX_WAITING_SPANS) {
        dropped += spans.length;
        return lost(spans.length, 'queue_full');
      }
      waiting.push(...spans);
      if (!running) schedule();
    },
    counts: () => ({ exported, failed, dropped }),
    close() {
      closing ??= flush();
      return closing;
    },
  };
};
