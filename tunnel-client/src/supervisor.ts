/**
 * Keeps legs up: one to each of up to four gateways.
 *
 *     dial ──► up ──► suspect   nothing heard for 2.5 s: a replacement is dialled beside it. If the leg is heard again
 *      ▲       │                first, the replacement is given up
 *      │       ├────► drained   the gateway asks for a replacement: it is dialled first
 *      │       │        └─────► left: the replacement serves; no new streams, ends with its last stream
 *      └───────┴──────────────► closed: dial again, after a pause with jitter
 */
import { type Backoff, createBackoff, RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import type { Clock } from '../../shared/src/clock.ts';
import { delay } from '../../shared/src/clock.ts';
import { REFUSALS, RefusedError } from '../../shared/src/errors.ts';
import type { Leg, LegEnd } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress, MessageOf } from '../../shared/src/protocol/messages.ts';
import { PERSON_RETRY_MS } from './enrolment.ts';
import type { DialGateway } from './leg-dialer.ts';
import type { Logger } from './logger.ts';
import { createWaker } from './waker.ts';

export interface SupervisorLimits {
  /** Gateways that a runner has legs to: more than two nodes may fail, fewer than all are bothered. */
  readonly gateways: number;
  /** Between the first legs to different gateways, ms: a start is no burst. */
  readonly spreadMs: number;
  /** How often legs are looked at, ms. */
  readonly tickMs: number;
  /** Nothing heard for as long makes a leg suspect, ms: two keep-alives (1 s each) and some delay. */
  readonly silenceMs: number;
  /** A left leg without streams stays as long, ms: streams that were opened before the gateway knew still arrive. */
  readonly leftGraceMs: number;
  /** Left legs that stay as long as their streams; beyond it the oldest gets {@link leftDeadlineMs}. */
  readonly leftLegs: number;
  /** ms. */
  readonly leftDeadlineMs: number;
}

export const SUPERVISOR_LIMITS: SupervisorLimits = {
  gateways: 4,
  spreadMs: 1_000,
  tickMs: 250,
  silenceMs: 2_500,
  leftGraceMs: 2_000,
  leftLegs: 2,
  leftDeadlineMs: 3_600_000,
};

/** Failed attempts to one gateway after which the list of gateways is asked for again. */
const ATTEMPTS_BEFORE_REFRESH = 4;

export type LegState = 'up' | 'suspect' | 'drained' | 'left';

export interface SupervisedLeg {
  readonly leg: Leg;
  readonly gatewayId: string;
  readonly state: LegState;
  /** Monotonic ms. */
  readonly upSince: number;
}

export interface SupervisorDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly dial: DialGateway;
  /** Called before anything else happens on the leg: it must `attach`, and hand `drain` to the returned function's caller. */
  readonly onUp: (leg: Leg, onDrain: (message: MessageOf<'drain'>) => void) => void;
  readonly onState: (leg: Leg, state: LegState) => void;
  readonly onDown: (leg: Leg, end: LegEnd) => void;
  /** An attempt failed; it is repeated after `retryInMs`. */
  readonly onError: (error: Error, retryInMs: number) => void;
  /** A gateway refused the membership: another one is needed. */
  readonly onMembershipRefused: () => void;
  /** No gateway of the list answers: perhaps the list is old. */
  readonly onUnreachable: () => void;
}

export interface Supervisor {
  setGateways(gateways: readonly GatewayAddress[]): void;
  /** Something changed that may let a refused attempt succeed. */
  retryNow(): void;
  legs(): readonly SupervisedLeg[];
  /** Makes no new legs from now on. */
  stop(): void;
}

interface Managed {
  readonly leg: Leg;
  readonly gatewayId: string;
  readonly upSince: number;
  state: LegState;
  heard: number;
  heardAt: number;
  leftAt: number;
  /** Told when the leg becomes suspect, is heard again, is drained or closes. */
  notify: () => void;
}

interface Slot {
  gateway: GatewayAddress;
  readonly stop: AbortController;
}

export const createSupervisor = (deps: SupervisorDeps, limits: SupervisorLimits = SUPERVISOR_LIMITS): Supervisor => {
  const { clock, log } = deps;
  const slots = new Map<string, Slot>();
  const legs = new Set<Managed>();
  const waker = createWaker(clock);
  const stopped = new AbortController();
  let cancelTick: (() => void) | undefined;
  let lastTick = clock.monotonic();

  const setState = (managed: Managed, state: LegState): void => {
    if (managed.state === state) return;
    managed.state = state;
    deps.onState(managed.leg, state);
    managed.notify();
  };

  const leave = (managed: Managed): void => {
    if (!legs.has(managed)) return;
    managed.leftAt = clock.monotonic();
    setState(managed, 'left');
  };

  // ---- health

  const checkSilence = (managed: Managed, now: number, stalled: boolean): void => {
    const { received } = managed.leg.stats();
    if (received !== managed.heard || stalled) {
      managed.heard = received;
      managed.heardAt = now;
      if (managed.state === 'suspect') setState(managed, 'up');
    } else if (now - managed.heardAt >= limits.silenceMs && managed.state === 'up') {
      setState(managed, 'suspect');
    }
  };

  const checkLeft = (left: readonly Managed[], now: number): void => {
    const tooMany = left.length - limits.leftLegs;
    left.forEach((managed, index) => {
      const age = now - managed.leftAt;
      const isDone = managed.leg.stats().openStreams === 0 && age >= limits.leftGraceMs;
      const isOverdue = index < tooMany && age >= limits.leftDeadlineMs;
      if (isDone || isOverdue) managed.leg.close('replaced').catch(logError);
    });
  };

  const tick = (): void => {
    const now = clock.monotonic();
    // Whoever did not look for so long (a blocked event loop, a machine that slept) cannot call the other side silent.
    const stalled = now - lastTick > limits.silenceMs;
    lastTick = now;
    for (const managed of legs) checkSilence(managed, now, stalled);
    checkLeft(
      [...legs].filter(({ state }) => state === 'left').sort((a, b) => a.leftAt - b.leftAt),
      now,
    );
    cancelTick = legs.size > 0 ? clock.timer(limits.tickMs, tick) : undefined;
  };

  const adopt = (leg: Leg, gateway: GatewayAddress): Managed => {
    const now = clock.monotonic();
    const gatewayId = gatewayIdOf(leg, gateway);
    const managed: Managed = {
      leg,
      gatewayId,
      upSince: now,
      state: 'up',
      heard: leg.stats().received,
      heardAt: now,
      leftAt: 0,
      notify: () => undefined,
    };
    legs.add(managed);
    void leg.closed.then((end) => {
      legs.delete(managed);
      deps.onDown(leg, end);
      managed.notify();
    });
    deps.onUp(leg, () => {
      if (managed.state !== 'left') setState(managed, 'drained');
    });
    if (!cancelTick) {
      lastTick = now;
      cancelTick = clock.timer(limits.tickMs, tick);
    }
    return managed;
  };

  // ---- one gateway

  /**
   * Several gateways may stand behind one address: a leg may end at another one than was meant. The slot is then that
   * one's; false where it has a leg already.
   */
  const settle = (slot: Slot, gatewayId: string): boolean => {
    if (gatewayId === slot.gateway.id) return true;
    const other = slots.get(gatewayId);
    if (other && [...legs].some((entry) => entry.gatewayId === gatewayId && entry.state === 'up')) return false;
    other?.stop.abort(new DOMException('another leg has reached the gateway', 'AbortError'));
    if (slots.get(slot.gateway.id) === slot) slots.delete(slot.gateway.id);
    slot.gateway = { ...slot.gateway, id: gatewayId };
    slots.set(gatewayId, slot);
    return true;
  };

  /** Resolves when the leg needs a successor. */
  const untilTrouble = (managed: Managed, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      const check = (): void => {
        if (managed.state === 'up' && legs.has(managed) && !signal.aborted) return;
        managed.notify = () => undefined;
        signal.removeEventListener('abort', check);
        resolve();
      };
      managed.notify = check;
      signal.addEventListener('abort', check, { once: true });
      check();
    });

  const pauseAfter = (error: unknown, backoff: Backoff): number => {
    if (!(error instanceof RefusedError)) return backoff.next();
    if (isMembershipRefusal(error)) deps.onMembershipRefused();
    return REFUSALS[error.code].retry ? backoff.next(error.retryAfterMs) : (error.retryAfterMs ?? PERSON_RETRY_MS);
  };

  /** A new leg, or undefined when `old` is heard again before there is one. Repeats until then. */
  const establish = async (
    slot: Slot,
    old: Managed | undefined,
    backoff: Backoff,
    signal: AbortSignal,
  ): Promise<Managed | undefined> => {
    const givenUp = new AbortController();
    const either = AbortSignal.any([signal, givenUp.signal]);
    if (old) {
      old.notify = () => {
        if (old.state === 'up' && legs.has(old)) givenUp.abort(new DOMException('the old leg is back', 'AbortError'));
        // Its end may be why an attempt was refused, and is reason enough not to wait any longer.
        else if (!legs.has(old)) waker.wake();
      };
    }
    try {
      for (let failures = 0; ;) {
        try {
          const replaces = old && legs.has(old) ? { replaces: old.leg.id } : {};
          const leg = await deps.dial(slot.gateway, { signal: either, ...replaces });
          backoff.succeeded();
          if (!settle(slot, gatewayIdOf(leg, slot.gateway))) {
            if (slots.get(slot.gateway.id) === slot) slots.delete(slot.gateway.id);
            slot.stop.abort(new DOMException('there is a leg to the gateway behind this address', 'AbortError'));
            await leg.close('replaced');
            signal.throwIfAborted();
          }
          return adopt(leg, slot.gateway);
        } catch (error) {
          either.throwIfAborted();
          failures += 1;
          const pauseMs = pauseAfter(error, backoff);
          deps.onError(error as Error, pauseMs);
          if (failures % ATTEMPTS_BEFORE_REFRESH === 0) deps.onUnreachable();
          await waker.wait(pauseMs, either);
        }
      }
    } catch (error) {
      if (givenUp.signal.aborted && !signal.aborted) return undefined;
      throw error;
    } finally {
      if (old) old.notify = () => undefined;
    }
  };

  const runSlot = async (slot: Slot, startInMs: number, signal: AbortSignal): Promise<void> => {
    const backoff = createBackoff({ clock, random: deps.random }, RECONNECT_BACKOFF);
    if (startInMs > 0) await delay(clock, startInMs, signal);
    let current = await establish(slot, undefined, backoff, signal);
    while (current) {
      await untilTrouble(current, signal);
      signal.throwIfAborted();
      const old: Managed | undefined = legs.has(current) ? current : undefined;
      if (!old) await waker.wait(backoff.next(), signal);
      const next = await establish(slot, old, backoff, signal);
      if (next && old) leave(old);
      current = next ?? current;
    }
  };

  const startSlot = (gateway: GatewayAddress, startInMs: number): void => {
    const slot: Slot = { gateway, stop: new AbortController() };
    slots.set(gateway.id, slot);
    const signal = AbortSignal.any([stopped.signal, slot.stop.signal]);
    runSlot(slot, startInMs, signal).catch((error: unknown) => {
      if (!signal.aborted) logError(error);
    });
  };

  const logError = (error: unknown): void => log.error({ err: error }, 'the supervisor of legs failed');

  return {
    setGateways(gateways) {
      if (stopped.signal.aborted || gateways.length === 0) return;
      const listed = new Map(gateways.map((gateway) => [gateway.id, gateway]));
      for (const [id, slot] of slots) {
        const gateway = listed.get(id);
        if (gateway) slot.gateway = gateway;
        else if (![...legs].some(({ gatewayId, state }) => gatewayId === id && state === 'up')) {
          // A gateway that left the list is not dialled again; a leg to it that works is kept.
          slot.stop.abort(new DOMException('the gateway left the list', 'AbortError'));
          slots.delete(id);
        }
      }
      const missing = shuffled(
        [...listed.values()].filter(({ id }) => !slots.has(id)),
        deps.random,
      );
      const offset = slots.size;
      missing.slice(0, Math.max(0, limits.gateways - offset)).forEach((gateway, index) => {
        startSlot(gateway, (offset === 0 ? index : index + 1) * limits.spreadMs);
      });
    },
    retryNow: () => waker.wake(),
    legs: () => [...legs],
    stop() {
      if (stopped.signal.aborted) return;
      stopped.abort(new DOMException('the client is closing', 'AbortError'));
    },
  };
};

const gatewayIdOf = (leg: Leg, dialled: GatewayAddress): string =>
  leg.greeting.type === 'welcome' ? leg.greeting.gatewayId : dialled.id;

const isMembershipRefusal = ({ code }: RefusedError): boolean =>
  ['membership_invalid', 'membership_expired', 'key_mismatch', 'revoked', 'runner_unknown', 'clock_skew'].includes(
    code,
  );

/** Fisher–Yates, so that runners spread over the gateways. */
const shuffled = <T>(items: readonly T[], random: () => number): T[] => {
  const result = [...items];
  for (let index = result.length - 1; index > 0; index--) {
    const other = Math.floor(random() * (index + 1));
    [result[index], result[other]] = [result[other] as T, result[index] as T];
  }
  return result;
};
