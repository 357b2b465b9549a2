/** Keeps legs up: one to each of up to four gateways. What one of them goes through is in gateway-slot.ts. */
import type { Clock } from '../../shared/src/clock.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import {
  BETTER_LIMITS,
  type BetterLimits,
  type BetterTransportDeps,
  createBetterTransport,
} from './better-transport.ts';
import { runSlot, type Slot, type SlotDeps } from './gateway-slot.ts';
import { createLegs, type LegLimits, type LegsDeps, type SupervisedLeg } from './supervised-legs.ts';
import type { Transport } from './transport.ts';
import type { DialGateway } from './transport-race.ts';
import { createWaker } from './waker.ts';

export interface SupervisorLimits extends LegLimits {
  /** Gateways that a runner has legs to: more than two nodes may fail, fewer than all are bothered. */
  readonly gateways: number;
  /** Between the first legs to different gateways, ms: a start is no burst. */
  readonly spreadMs: number;
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

export interface SupervisorDeps
  extends
    LegsDeps,
    Pick<SlotDeps, 'onError' | 'onMembershipRefused' | 'onUnreachable'>,
    Pick<BetterTransportDeps, 'measure'> {
  readonly clock: Clock;
  readonly random: () => number;
  readonly dial: DialGateway;
  /** Those that may be used, best first. */
  readonly transports: readonly Transport[];
}

export interface Supervisor {
  setGateways(gateways: readonly GatewayAddress[]): void;
  /** Something changed that may let a refused attempt succeed. */
  retryNow(): void;
  legs(): readonly SupervisedLeg[];
  /** Makes no new legs from now on. */
  stop(): void;
}

export const createSupervisor = (
  deps: SupervisorDeps,
  limits: SupervisorLimits = SUPERVISOR_LIMITS,
  betterLimits: BetterLimits = BETTER_LIMITS,
): Supervisor => {
  const { clock, log } = deps;
  const legs = createLegs(deps, limits);
  const slots = new Map<string, Slot>();
  const waker = createWaker(clock);
  const stopped = new AbortController();
  const logFault = (error: unknown): void => log.error({ err: error }, 'the supervisor of legs failed');

  const hasLeg = (gatewayId: string): boolean =>
    legs.list().some((entry) => entry.gatewayId === gatewayId && entry.state === 'up');

  /**
   * Several gateways may stand behind one address: a leg may end at another one than was meant. The slot is then that
   * one's; false where it has a leg already, and the slot ends.
   */
  const settle = (slot: Slot, gatewayId: string): boolean => {
    if (gatewayId === slot.gateway.id) return true;
    const other = slots.get(gatewayId);
    if (slots.get(slot.gateway.id) === slot) slots.delete(slot.gateway.id);
    if (other && hasLeg(gatewayId)) {
      slot.stop.abort(new DOMException('there is a leg to the gateway behind this address', 'AbortError'));
      return false;
    }
    other?.stop.abort(new DOMException('another leg has reached the gateway', 'AbortError'));
    slot.gateway = { ...slot.gateway, id: gatewayId };
    slots.set(gatewayId, slot);
    return true;
  };

  const startSlot = (gateway: GatewayAddress, startInMs: number): void => {
    const slot: Slot = { gateway, stop: new AbortController() };
    slots.set(gateway.id, slot);
    const signal = AbortSignal.any([stopped.signal, slot.stop.signal]);
    const better = createBetterTransport({ ...deps, legs }, betterLimits);
    runSlot({ ...deps, legs, better, waker, settle, onFault: logFault }, slot, { startInMs, signal }).catch(
      (error: unknown) => {
        if (!signal.aborted) logFault(error);
      },
    );
  };

  return {
    setGateways(gateways) {
      if (stopped.signal.aborted || gateways.length === 0) return;
      const listed = new Map(gateways.map((gateway) => [gateway.id, gateway]));
      for (const [id, slot] of slots) {
        const gateway = listed.get(id);
        if (gateway) slot.gateway = gateway;
        else if (!hasLeg(id)) {
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
    legs: () => legs.list(),
    stop() {
      if (stopped.signal.aborted) return;
      stopped.abort(new DOMException('the client is closing', 'AbortError'));
    },
  };
};

/** Fisher–Yates, so that runners spread over the gateways. */
const shuffled = <T>(items: readonly T[], random: () => number): T[] => {
  const result = [...items];
  for (let index = result.length - 1; index > 0; index--) {
    const other = Math.floor(random() * (index + 1));
    [result[index], result[other]] = [result[other] as T, result[index] as T];
  }
  return result;
};
