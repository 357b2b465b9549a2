/** How legs end without cutting what goes over them. */
import { type Clock, delay } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { Dialer } from './dialer.ts';
import type { LogServer } from './log-server/log-server.ts';

/** New streams are served until every gateway has taken note of `drain`, but no longer than this, ms. */
const DRAIN_GRACE_MS = 500;
/** How often it is looked whether the last stream has ended, ms. */
const DRAIN_CHECK_MS = 50;

/** Resolves when no leg has a stream any more, or after `limitMs`. */
export const untilStreamsEnd = async (
  clock: Clock,
  legs: () => readonly Leg[],
  limitMs: number,
  { signal, checkMs }: { signal: AbortSignal; checkMs: number },
): Promise<void> => {
  const end = clock.monotonic() + limitMs;
  while (legs().some((leg) => leg.stats().openStreams > 0) && clock.monotonic() < end) {
    await delay(clock, checkMs, signal);
  }
};

/** Tells the gateways, and waits until the last stream has ended or `drainMs` are over. */
export const drainLegs = async (
  clock: Clock,
  { dialer, logs }: { dialer: Dialer; logs: LogServer },
  legs: () => Leg[],
  drainMs: number,
): Promise<void> => {
  const { signal } = new AbortController();
  const end = clock.monotonic() + drainMs;
  for (const leg of legs()) leg.send({ type: 'drain', reason: 'shutdown', deadlineMs: drainMs });
  const known = Promise.all(legs().map((leg) => leg.roundTrip()));
  const grace = new AbortController();
  await Promise.race([known, delay(clock, Math.min(DRAIN_GRACE_MS, drainMs), grace.signal).catch(() => undefined)]);
  grace.abort();
  dialer.drain();
  // Who follows a log goes on elsewhere.
  logs.drain();
  await untilStreamsEnd(clock, legs, end - clock.monotonic(), { signal, checkMs: DRAIN_CHECK_MS });
};
