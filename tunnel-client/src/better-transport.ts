/**
 * Looks for a better transport than the one in use, beside it: QUIC where UDP was blocked, WebTransport where only a
 * WebSocket came up. A leg of it comes up on standby, and is moved to when it has answered, stayed, and is not slower.
 *
 *     wait 1 min ──► dial ──► echo ──► 10 s ──► echo both ──► move
 *        ▲            │         │        │          │
 *        └── twice as long, up to 10 min ───────────┘
 */
import { type Clock, delay } from '../../shared/src/clock.ts';
import { echo } from '../../shared/src/protocol/echo.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { Logger } from './logger.ts';
import type { Legs, ManagedLeg } from './supervised-legs.ts';
import { type Transport, TRANSPORTS } from './transport.ts';
import type { DialGateway } from './transport-race.ts';

export interface BetterLimits {
  /** Until the first look, ms; doubled after each one that came to nothing. */
  readonly firstLookMs: number;
  /** ms. */
  readonly longestLookMs: number;
  /** Share of the wait by which it may be longer: runners that lost UDP together do not look together. */
  readonly lookJitter: number;
  /** How long a leg stays on standby before it serves, ms: a path that comes and goes is gone by then. */
  readonly trialMs: number;
  /** ms. */
  readonly echoTimeoutMs: number;
  /** Echoes on each of the two legs; the fastest counts. */
  readonly echoes: number;
  /** What a better transport may be slower by and still count as not slower, ms: two measurements differ as much. */
  readonly toleranceMs: number;
  /** From one move to the next, ms: each may be followed by the way back, so that there is one a minute at most. */
  readonly movesApartMs: number;
  /** A leg that was moved to and lost sooner than this was no good choice, ms: the next look is later, not sooner. */
  readonly stableMs: number;
}

export const BETTER_LIMITS: BetterLimits = {
  firstLookMs: 60_000,
  longestLookMs: 600_000,
  lookJitter: 0.2,
  trialMs: 10_000,
  echoTimeoutMs: 5_000,
  echoes: 3,
  toleranceMs: 10,
  movesApartMs: 120_000,
  stableMs: 600_000,
};

export interface BetterTransportDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly dial: DialGateway;
  readonly legs: Legs;
  /** Those that may be used. */
  readonly transports: readonly Transport[];
}

export interface BetterTransport {
  /**
   * Resolves with a leg on standby that is better than `current`; looks until then. Rejects when the signal is aborted;
   * what was being tried is closed.
   */
  find(gateway: GatewayAddress, current: ManagedLeg, options: { signal: AbortSignal }): Promise<ManagedLeg>;
  /** A leg serves; `moved` when it was found here. */
  serves(managed: ManagedLeg, options: { readonly moved: boolean }): void;
}

/** One for each gateway: it remembers when was moved last. */
export const createBetterTransport = (
  deps: BetterTransportDeps,
  limits: BetterLimits = BETTER_LIMITS,
): BetterTransport => {
  const { clock, dial, legs, log } = deps;
  let waitMs = limits.firstLookMs;
  let movedAt = -Infinity;
  let lastTransport: Transport | undefined;

  const rankOf = (transport: string): number => TRANSPORTS.indexOf(transport as Transport);
  const betterThan = (current: string): readonly Transport[] =>
    deps.transports.filter((each) => rankOf(each) < rankOf(current));

  const fastest = async (leg: Leg, signal: AbortSignal): Promise<number> => {
    const times: number[] = [];
    for (let count = 0; count < limits.echoes; count++) {
      times.push(await echo(leg, { clock }, { timeoutMs: limits.echoTimeoutMs, signal }));
    }
    return Math.min(...times);
  };

  /** A leg on standby that may serve, or undefined. */
  const look = async (
    gateway: GatewayAddress,
    current: ManagedLeg,
    signal: AbortSignal,
  ): Promise<ManagedLeg | undefined> => {
    const transports = betterThan(current.leg.transport);
    const { leg } = await dial(gateway, { signal, replaces: current.leg.id, transports });
    const candidate = legs.adopt({ leg, reason: 'better' }, current.gatewayId);
    const fields = { legId: leg.id, transport: leg.transport };
    try {
      // Several gateways may stand behind one address.
      if (leg.greeting.type === 'welcome' && leg.greeting.gatewayId !== current.gatewayId) return undefined;
      log.info(fields, 'a better transport works; it is tried beside the one in use');
      await fastest(leg, signal);
      await Promise.race([delay(clock, limits.trialMs, signal), leg.closed]);
      if (!leg.isOpen) return undefined;
      const [candidateMs, currentMs] = await Promise.all([fastest(leg, signal), fastest(current.leg, signal)]);
      log.info({ ...fields, candidateMs, currentMs }, 'a better transport was measured');
      return candidateMs <= currentMs + limits.toleranceMs && leg.isOpen ? candidate : undefined;
    } catch (error) {
      await leg.close('closed');
      throw error;
    }
  };

  return {
    async find(gateway, current, { signal }) {
      // There may be none, and never will be.
      if (betterThan(current.leg.transport).length === 0) await untilAborted(signal);
      for (;;) {
        const jittered = waitMs * (1 + limits.lookJitter * deps.random());
        const movableInMs = movedAt + limits.movesApartMs - limits.trialMs - clock.monotonic();
        await delay(clock, Math.max(jittered, movableInMs), signal);
        try {
          const candidate = await look(gateway, current, signal);
          if (candidate && !signal.aborted) return candidate;
          await candidate?.leg.close('closed');
        } catch (error) {
          signal.throwIfAborted();
          log.debug({ err: error }, 'no better transport works yet');
        }
        signal.throwIfAborted();
        waitMs = Math.min(waitMs * 2, limits.longestLookMs);
      }
    },
    serves({ leg }, { moved }) {
      const transport = leg.transport as Transport;
      const isFallback = lastTransport !== undefined && rankOf(transport) > rankOf(lastTransport);
      lastTransport = transport;
      const now = clock.monotonic();
      if (moved) movedAt = now;
      else if (isFallback && now - movedAt < limits.stableMs) waitMs = Math.min(waitMs * 2, limits.longestLookMs);
      else if (isFallback) waitMs = limits.firstLookMs;
    },
  };
};

/** Rejects with the signal's reason. */
const untilAborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
  });
