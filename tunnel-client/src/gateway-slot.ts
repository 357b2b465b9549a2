/**
 * Keeps one leg to one gateway up.
 *
 *     dial ──► up ──► trouble (suspect, drained): a replacement is dialled beside it. A suspect leg that is heard first
 *      ▲       │      stays, and the replacement is given up
 *      │       ├────► a better transport works: it serves, and the other one is left
 *      └───────┴────► closed: dial again, after a pause with jitter
 */
import { type Backoff, createBackoff, RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import { type Clock, delay } from '../../shared/src/clock.ts';
import { REFUSALS, RefusedError } from '../../shared/src/errors.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { BetterTransport } from './better-transport.ts';
import { PERSON_RETRY_MS } from './enrolment.ts';
import type { Legs, ManagedLeg } from './supervised-legs.ts';
import type { Transport } from './transport.ts';
import type { DialGateway, DialledLeg } from './transport-race.ts';
import type { Waker } from './waker.ts';

/** Failed attempts to one gateway after which the list of gateways is asked for again. */
const ATTEMPTS_BEFORE_REFRESH = 4;

export interface Slot {
  gateway: GatewayAddress;
  readonly stop: AbortController;
}

export interface SlotDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly dial: DialGateway;
  readonly legs: Legs;
  readonly better: BetterTransport;
  /** Ends pauses when something has changed. */
  readonly waker: Waker;
  /** The leg came up at `gatewayId`; false when there is a leg to that one already. */
  readonly settle: (slot: Slot, gatewayId: string) => boolean;
  /** An attempt failed; it is repeated after `retryInMs`. */
  readonly onError: (error: Error, retryInMs: number) => void;
  /** A gateway refused the membership: another one is needed. */
  readonly onMembershipRefused: () => void;
  /** No gateway of the list answers: perhaps the list is old. */
  readonly onUnreachable: () => void;
  readonly onFault: (error: unknown) => void;
}

/** Runs until `signal` is aborted, and then rejects. */
export const runSlot = async (
  deps: SlotDeps,
  slot: Slot,
  options: { readonly startInMs: number; readonly signal: AbortSignal },
): Promise<void> => {
  const { clock, legs, better, waker } = deps;
  const { signal } = options;

  /** Resolves when the leg needs a successor. */
  const untilTrouble = (managed: ManagedLeg): Promise<void> =>
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

  /** Resolves with a better leg, or undefined when this one is in trouble first. */
  const untilBetterOrTrouble = async (managed: ManagedLeg): Promise<ManagedLeg | undefined> => {
    const looking = new AbortController();
    const either = AbortSignal.any([signal, looking.signal]);
    let found: ManagedLeg | undefined;
    const search = better.find(slot.gateway, managed, { signal: either }).then(
      (candidate) => {
        if (looking.signal.aborted) void candidate.leg.close('closed');
        else found = candidate;
      },
      (error: unknown) => {
        if (!either.aborted) deps.onFault(error);
      },
    );
    await Promise.race([untilTrouble(managed), search]);
    // A fault of the search is no reason to leave the leg.
    if (!found) await untilTrouble(managed);
    looking.abort(new DOMException('the leg is in trouble', 'AbortError'));
    return found;
  };

  const pauseAfter = (error: unknown, backoff: Backoff): number => {
    if (!(error instanceof RefusedError)) return backoff.next();
    if (isMembershipRefusal(error)) deps.onMembershipRefused();
    return REFUSALS[error.code].retry ? backoff.next(error.retryAfterMs) : (error.retryAfterMs ?? PERSON_RETRY_MS);
  };

  /**
   * While the transport changed a moment ago, a leg that still lives is replaced by its like only, and when it is dead by
   * any. One that the gateway drains gets one such attempt: it takes nothing new meanwhile.
   */
  const dialFor = async (old: ManagedLeg | undefined, failures: number, signal: AbortSignal): Promise<DialledLeg> => {
    const living = old && legs.has(old) ? old : undefined;
    const replaces = living ? { replaces: living.leg.id } : {};
    const isOver = living?.isPathDead || (living?.state === 'drained' && failures > 0);
    if (!living || isOver || better.mayChange()) return deps.dial(slot.gateway, { signal, ...replaces });
    const gone = new AbortController();
    void living.leg.closed.then(() => gone.abort(new DOMException('the old leg is gone', 'AbortError')));
    const like = { signal: AbortSignal.any([signal, gone.signal]), transports: [living.leg.transport as Transport] };
    try {
      const { leg } = await deps.dial(slot.gateway, { ...like, ...replaces });
      return { leg, reason: living.reason };
    } catch (error) {
      if (signal.aborted || !gone.signal.aborted) throw error;
      return deps.dial(slot.gateway, { signal });
    }
  };

  /** A new leg, or undefined when `old` is heard again before there is one. Repeats until then. */
  const establish = async (old: ManagedLeg | undefined, backoff: Backoff): Promise<ManagedLeg | undefined> => {
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
          const dialled = await dialFor(old, failures, either);
          backoff.succeeded();
          const gatewayId = gatewayIdOf(dialled.leg, slot.gateway);
          if (!deps.settle(slot, gatewayId)) {
            await dialled.leg.close('replaced');
            signal.throwIfAborted();
          }
          const managed = legs.adopt(dialled, gatewayId);
          legs.serve(managed);
          better.serves(managed, { moved: false });
          return managed;
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

  const backoff = createBackoff({ clock, random: deps.random }, RECONNECT_BACKOFF);
  if (options.startInMs > 0) await delay(clock, options.startInMs, signal);
  let current = await establish(undefined, backoff);
  while (current) {
    const found: ManagedLeg | undefined = await untilBetterOrTrouble(current);
    signal.throwIfAborted();
    const old: ManagedLeg | undefined = legs.has(current) ? current : undefined;
    let next: ManagedLeg | undefined;
    if (found && legs.has(found)) {
      legs.serve(found);
      better.serves(found, { moved: true });
      next = found;
    } else {
      if (!old) await waker.wait(backoff.next(), signal);
      next = await establish(old, backoff);
    }
    if (next && old) legs.leave(old);
    current = next ?? current;
  }
};

const gatewayIdOf = (leg: Leg, dialled: GatewayAddress): string =>
  leg.greeting.type === 'welcome' ? leg.greeting.gatewayId : dialled.id;

const isMembershipRefusal = ({ code }: RefusedError): boolean =>
  ['membership_invalid', 'membership_expired', 'key_mismatch', 'revoked', 'runner_unknown', 'clock_skew'].includes(
    code,
  );
