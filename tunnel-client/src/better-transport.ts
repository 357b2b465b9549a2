/**
 * Looks for a better transport than the one in use, beside it: QUIC where UDP was blocked, WebTransport where only a
 * WebSocket came up, and where QUIC loses packets. A leg of it comes up on standby, and is moved to when it has answered,
 * stayed, and is not slower.
 *
 *     wait 1 min ──► dial ──► echo ──► 10 s ──► echo both ──► move        off QUIC; after a loss a transfer decides too
 *        ▲            │         │        │          │
 *        └── twice as long, up to 10 min ───────────┘
 *     packets are lost for 30 s ──► dial ──► a transfer over both ──► move        on QUIC
 *        ▲                           │              │
 *        └── not for 1 min, then twice as long ─────┘
 */
import { type Clock, delay } from '../../shared/src/clock.ts';
import { echo } from '../../shared/src/protocol/echo.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { measureGoodput } from './goodput.ts';
import type { Logger } from './logger.ts';
import { PATH_LOSS_LIMITS, type PathLossLimits, untilLossy } from './path-loss.ts';
import type { Legs, ManagedLeg } from './supervised-legs.ts';
import { type Transport, type TransportReason, TRANSPORTS } from './transport.ts';
import type { DialGateway } from './transport-race.ts';

/** The limits of `path-loss.ts` say when a path counts as lossy. */
export interface BetterLimits extends PathLossLimits {
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
  /**
   * From one change of transport to the next, ms, whatever the reason. Until then a leg in trouble is replaced by one of
   * the same transport only; one that is dead leaves no choice.
   */
  readonly changesApartMs: number;
  /** A leg that was moved to and lost sooner than this was no good choice, ms: the next look is later, not sooner. */
  readonly stableMs: number;
  /** Transfers over each of two legs that are compared on a lossy path; the slowest counts. */
  readonly transfers: number;
  /** Of one transfer, ms; it counts with what it moved until then. */
  readonly transferTimeoutMs: number;
  /** How much more WebTransport must carry to be moved to from QUIC: the measurement is short, and QUIC the first choice. */
  readonly gain: number;
  /** The share of what WebTransport carries with which QUIC is good enough to be moved back to. */
  readonly goodEnough: number;
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
  changesApartMs: 60_000,
  stableMs: 600_000,
  ...PATH_LOSS_LIMITS,
  transfers: 2,
  transferTimeoutMs: 10_000,
  gain: 1.5,
  goodEnough: 0.9,
};

/** What carries more than QUIC where packets are lost: a WebSocket does no better than WebTransport, with more work. */
const AROUND_LOSS: readonly Transport[] = ['webtransport'];

export interface BetterTransportDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly dial: DialGateway;
  readonly legs: Legs;
  /** Absent: by a transfer. */
  readonly measure?: typeof measureGoodput;
  /** Those that may be used. */
  readonly transports: readonly Transport[];
}

export interface BetterTransport {
  /**
   * Resolves with a leg on standby that is better than `current`; looks until then. Rejects when the signal is aborted;
   * what was being tried is closed.
   */
  find(gateway: GatewayAddress, current: ManagedLeg, options: { signal: AbortSignal }): Promise<ManagedLeg>;
  /** Whether a leg that still lives may be replaced by one of another transport. */
  mayChange(): boolean;
  /** A leg serves; `moved` when it was found here. */
  serves(managed: ManagedLeg, options: { readonly moved: boolean }): void;
}

/** One for each gateway: it remembers when was moved last. */
export const createBetterTransport = (
  deps: BetterTransportDeps,
  limits: BetterLimits = BETTER_LIMITS,
): BetterTransport => {
  const { clock, dial, legs, log, measure = measureGoodput } = deps;
  let waitMs = limits.firstLookMs;
  let movedAt = -Infinity;
  let changedAt = -Infinity;
  let lastTransport: Transport | undefined;

  /** Monotonic ms. */
  const movableAt = (): number => Math.max(movedAt + limits.movesApartMs, changedAt + limits.changesApartMs);
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

  /** Of the slowest transfer over each, one after the other by turns: what they carry besides is theirs too. */
  const compare = async (
    candidate: Leg,
    current: Leg,
    signal: AbortSignal,
  ): Promise<{ readonly candidateGoodput: number; readonly currentGoodput: number }> => {
    const options = { timeoutMs: limits.transferTimeoutMs, signal };
    let [candidateGoodput, currentGoodput] = [Infinity, Infinity];
    for (let count = 0; count < limits.transfers; count++) {
      candidateGoodput = Math.min(candidateGoodput, await measure(candidate, { clock }, options));
      currentGoodput = Math.min(currentGoodput, await measure(current, { clock }, options));
    }
    return { candidateGoodput: Math.round(candidateGoodput), currentGoodput: Math.round(currentGoodput) };
  };

  /** Dials beside `current`; a leg that `judge` does not find fit to serve is closed. */
  const tryBeside = async (
    gateway: GatewayAddress,
    current: ManagedLeg,
    options: { transports: readonly Transport[]; reason: TransportReason; signal: AbortSignal },
    judge: (leg: Leg) => Promise<boolean>,
  ): Promise<ManagedLeg | undefined> => {
    const { transports, reason, signal } = options;
    const { leg } = await dial(gateway, { signal, replaces: current.leg.id, transports });
    const candidate = legs.adopt({ leg, reason }, current.gatewayId);
    // Several gateways may stand behind one address.
    const isElsewhere = leg.greeting.type === 'welcome' && leg.greeting.gatewayId !== current.gatewayId;
    let isTaken = false;
    try {
      isTaken = !isElsewhere && (await judge(leg)) && leg.isOpen && !signal.aborted;
      return isTaken ? candidate : undefined;
    } finally {
      if (!isTaken) await leg.close('closed');
    }
  };

  /** A leg on standby that carries more than QUIC on this path, or undefined. */
  const lookAround = async (
    gateway: GatewayAddress,
    current: ManagedLeg,
    signal: AbortSignal,
  ): Promise<ManagedLeg | undefined> => {
    const options = { transports: AROUND_LOSS, reason: 'lossy', signal } as const;
    const measured = await tryBeside(gateway, current, options, async (leg) => {
      const figures = await compare(leg, current.leg, signal);
      const isBetter = figures.candidateGoodput >= limits.gain * figures.currentGoodput;
      log.info(
        { legId: leg.id, transport: leg.transport, ...figures },
        isBetter
          ? 'another transport carries more on this lossy path; it serves from now on'
          : 'no other transport carries much more on this lossy path',
      );
      return isBetter;
    });
    if (!measured) return undefined;
    // What BBR learns of the path from so short a transfer would hold the leg back for ten seconds: a new one serves.
    try {
      return await tryBeside(gateway, current, options, () => Promise.resolve(true));
    } finally {
      await measured.leg.close('closed');
    }
  };

  /** Resolves with a leg that carries more; not before packets were lost for a while. */
  const findAround = async (gateway: GatewayAddress, current: ManagedLeg, signal: AbortSignal): Promise<ManagedLeg> => {
    for (let pauseMs = limits.firstLookMs; ; pauseMs = Math.min(pauseMs * 2, limits.longestLookMs)) {
      const path = await untilLossy(current.leg, { clock }, { limits, signal });
      log.info({ legId: current.leg.id, ...path }, 'the path loses packets; another transport is tried beside QUIC');
      await delay(clock, Math.max(0, movableAt() - clock.monotonic()), signal);
      try {
        const candidate = await lookAround(gateway, current, signal);
        if (candidate) return candidate;
      } catch (error) {
        signal.throwIfAborted();
        log.info({ err: error }, 'the path loses packets, and no other transport could be measured');
      }
      await delay(clock, pauseMs, signal);
    }
  };

  /** A leg on standby that may serve, or undefined. */
  const look = (gateway: GatewayAddress, current: ManagedLeg, signal: AbortSignal): Promise<ManagedLeg | undefined> => {
    const transports = betterThan(current.leg.transport);
    return tryBeside(gateway, current, { transports, reason: 'better', signal }, async (leg) => {
      const fields = { legId: leg.id, transport: leg.transport };
      log.info(fields, 'a better transport works; it is tried beside the one in use');
      await fastest(leg, signal);
      await Promise.race([delay(clock, limits.trialMs, signal), leg.closed]);
      if (!leg.isOpen) return false;
      const [candidateMs, currentMs] = await Promise.all([fastest(leg, signal), fastest(current.leg, signal)]);
      log.info({ ...fields, candidateMs, currentMs }, 'a better transport was measured');
      if (candidateMs > currentMs + limits.toleranceMs) return false;
      if (current.reason !== 'lossy') return true;
      const figures = await compare(leg, current.leg, signal);
      log.info({ ...fields, ...figures }, 'the transport that lost packets was measured again');
      return figures.candidateGoodput >= limits.goodEnough * figures.currentGoodput;
    });
  };

  return {
    async find(gateway, current, { signal }) {
      const mayGoAround = AROUND_LOSS.every((each) => deps.transports.includes(each));
      if (current.leg.transport === 'quic' && mayGoAround) return findAround(gateway, current, signal);
      // There may be none, and never will be.
      if (betterThan(current.leg.transport).length === 0) await untilAborted(signal);
      for (;;) {
        const jittered = waitMs * (1 + limits.lookJitter * deps.random());
        const movableInMs = movableAt() - limits.trialMs - clock.monotonic();
        await delay(clock, Math.max(jittered, movableInMs), signal);
        try {
          const candidate = await look(gateway, current, signal);
          if (candidate) return candidate;
        } catch (error) {
          signal.throwIfAborted();
          log.debug({ err: error }, 'no better transport works yet');
        }
        signal.throwIfAborted();
        waitMs = Math.min(waitMs * 2, limits.longestLookMs);
      }
    },
    mayChange: () => clock.monotonic() - changedAt >= limits.changesApartMs,
    serves({ leg }, { moved }) {
      const transport = leg.transport as Transport;
      const isChange = lastTransport !== undefined && transport !== lastTransport;
      const isFallback = lastTransport !== undefined && rankOf(transport) > rankOf(lastTransport);
      lastTransport = transport;
      const now = clock.monotonic();
      if (isFallback && now - movedAt < limits.stableMs) waitMs = Math.min(waitMs * 2, limits.longestLookMs);
      else if (isFallback) waitMs = limits.firstLookMs;
      if (moved) movedAt = now;
      if (isChange) changedAt = now;
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
