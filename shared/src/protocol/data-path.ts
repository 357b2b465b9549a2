/**
 * Data-path health of a leg: an `echo` stream now and then. Liveness of the connection is the transport's business;
 * this finds the leg whose connection lives while its lanes carry nothing.
 */
import type { Clock } from '../clock.ts';
import { ECHO_PAYLOAD, ECHO_TARGET } from './echo.ts';
import type { Leg, TunnelStream } from './leg.ts';

/** From one echo to the next at each side, ms: with 1,000 legs 143 a second, one per mille of what a core carries. */
export const ECHO_INTERVAL_MS = 7_000;
/**
 * Echoes are sent together at multiples of it, ms. Each call that waits in the QUIC binding has a handle in the event loop,
 * and libuv looks at all of them whenever any returns: with 5,000 legs that is 0.1 ms, so answers had better come together.
 * Those of 5,000 legs are 36 at a time.
 */
const ECHO_STEP_MS = 50;
/** Until an echo counts as missed, ms. Below the interval, so that there is never more than one. */
export const ECHO_TIMEOUT_MS = 5_000;
/** Misses in a row until the data path counts as dead: one may be a busy machine. */
export const ECHO_MISSES = 2;

export interface HealthHandlers {
  /** {@link ECHO_MISSES} in a row, and again with each further miss. */
  readonly onDead: () => void;
  /** An echo was answered, or there was traffic. `rttMs` is from echo to answer. */
  readonly onAlive: (rttMs: number | undefined) => void;
}

/** In place of what is over. Not written where it is needed: a function keeps all alive that the code around it can see. */
const nothing = (): void => {};

/** Begins watching, with an echo after `firstInMs`; returns what ends it. */
export const watchDataPath = (
  leg: Leg,
  deps: { readonly clock: Clock },
  options: HealthHandlers & { readonly firstInMs: number },
): (() => void) => {
  /** Of the echo under way: a leg at rest, of which there are thousands, holds none. */
  let current: AbortController | undefined;
  let hasEnded = false;
  let misses = 0;
  let cancelNext: () => void = nothing;
  let cancelTimeout: () => void = nothing;

  const open = (signal: AbortSignal): TunnelStream | undefined => {
    try {
      return leg.openStream(ECHO_TARGET, { signal });
    } catch {
      // At its stream limit (a leg full of traffic), or ended: neither says anything of the data path.
      return undefined;
    }
  };

  const echoIn = (delayMs: number): void => {
    const now = deps.clock.monotonic();
    cancelNext = deps.clock.timer(Math.ceil((now + delayMs) / ECHO_STEP_MS) * ECHO_STEP_MS - now, echo);
  };
  const echo = (): void => {
    echoIn(ECHO_INTERVAL_MS);
    const sentAt = deps.clock.monotonic();
    const receivedBefore = leg.stats().bytesReceived;
    const ended = new AbortController();
    const stream = open(ended.signal);
    if (!stream) return;
    current = ended;
    let answered = false;
    const finish = (alive: boolean, rttMs?: number): void => {
      if (answered) return;
      answered = true;
      current = undefined;
      cancelTimeout();
      cancelTimeout = nothing;
      stream.destroy();
      if (hasEnded) return;
      misses = alive ? 0 : misses + 1;
      if (alive) options.onAlive(rttMs);
      else if (misses >= ECHO_MISSES) options.onDead();
    };
    cancelTimeout = deps.clock.timer(ECHO_TIMEOUT_MS, () => finish(leg.stats().bytesReceived > receivedBefore));
    // A refusal is an answer too. When the leg ends, its end is told elsewhere.
    stream.on('error', () => finish(true));
    stream.connected.catch(nothing);
    stream.once('data', () => finish(true, deps.clock.monotonic() - sentAt));
    stream.write(ECHO_PAYLOAD);
  };

  echoIn(options.firstInMs);
  return () => {
    hasEnded = true;
    current?.abort();
    cancelNext();
    cancelTimeout();
  };
};
