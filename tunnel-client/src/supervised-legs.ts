/**
 * The legs of a client, and what becomes of each:
 *
 *     standby ──► up ──► suspect    nothing heard for 2.5 s, or two echoes missed; up again when it is heard and answers
 *        │         ├───► drained    the gateway asks for a replacement
 *        │         └───► left       another leg serves: no new streams, ends with its last stream
 *        └─────────┴───► closed
 */
import type { Clock } from '../../shared/src/clock.ts';
import { watchDataPath } from '../../shared/src/protocol/data-path.ts';
import type { Leg, LegEnd } from '../../shared/src/protocol/leg.ts';
import { FIRST_ECHO_MS, scoreOf } from './leg-score.ts';
import type { Logger } from './logger.ts';
import type { TransportReason } from './transport.ts';
import type { DialledLeg } from './transport-race.ts';

export type LegState = 'standby' | 'up' | 'suspect' | 'drained' | 'left';

export interface SupervisedLeg {
  readonly leg: Leg;
  readonly gatewayId: string;
  /** Why it has its transport. */
  readonly reason: TransportReason;
  readonly state: LegState;
  /** Monotonic ms. */
  readonly upSince: number;
  /** How soon its lanes answer, ms, see leg-score.ts; undefined until they have. */
  readonly echoMs: number | undefined;
}

export interface LegLimits {
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

export interface LegsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  /** Called before anything else happens on the leg: it must `attach`. `onDrain` is for the gateway's `drain`. */
  readonly attach: (leg: Leg, onDrain: () => void) => void;
  /** It serves from now on. */
  readonly onUp: (entry: SupervisedLeg) => void;
  readonly onState: (entry: SupervisedLeg) => void;
  /** One that has served is gone. */
  readonly onDown: (leg: Leg, end: LegEnd) => void;
}

export interface ManagedLeg extends SupervisedLeg {
  state: LegState;
  upSince: number;
  reason: TransportReason;
  echoMs: number | undefined;
  /** Packets may arrive while nothing answers: a gateway that hangs still acknowledges. */
  isPathDead: boolean;
  heard: number;
  heardAt: number;
  leftAt: number;
  /** Told when the state changes, and when the leg closes. */
  notify: () => void;
  /** Ends the echoes. */
  stopEchoes: () => void;
}

export interface Legs {
  /** Takes a leg that was just dialled; it is on standby. */
  adopt(dialled: DialledLeg, gatewayId: string): ManagedLeg;
  /** A leg on standby serves from now on. */
  serve(managed: ManagedLeg): void;
  /** Another leg serves in its place. */
  leave(managed: ManagedLeg): void;
  has(managed: ManagedLeg): boolean;
  list(): readonly ManagedLeg[];
}

export const createLegs = (deps: LegsDeps, limits: LegLimits): Legs => {
  const { clock } = deps;
  const legs = new Set<ManagedLeg>();
  let cancelTick: (() => void) | undefined;
  let lastTick = clock.monotonic();

  const setState = (managed: ManagedLeg, state: LegState): void => {
    if (managed.state === state) return;
    managed.state = state;
    deps.onState(managed);
    managed.notify();
  };

  const checkSilence = (managed: ManagedLeg, now: number, stalled: boolean): void => {
    const { received } = managed.leg.stats();
    if (received !== managed.heard || stalled) {
      managed.heard = received;
      managed.heardAt = now;
      if (managed.state === 'suspect' && !managed.isPathDead) setState(managed, 'up');
    } else if (now - managed.heardAt >= limits.silenceMs && managed.state === 'up') {
      setState(managed, 'suspect');
    }
  };

  /** Liveness is the transport's business, see `checkSilence`; this finds lanes that carry nothing. */
  const watchEchoes = (managed: ManagedLeg): void => {
    managed.stopEchoes = watchDataPath(managed.leg, deps, {
      firstInMs: FIRST_ECHO_MS,
      onDead: () => {
        if (!managed.isPathDead) deps.log.warn({ legId: managed.leg.id }, 'a leg does not answer echoes');
        managed.isPathDead = true;
        if (managed.state === 'up') setState(managed, 'suspect');
      },
      onAlive: (echoMs) => {
        managed.isPathDead = false;
        if (echoMs !== undefined) managed.echoMs = scoreOf(managed.echoMs, echoMs);
      },
    });
  };

  const checkLeft = (left: readonly ManagedLeg[], now: number): void => {
    const tooMany = left.length - limits.leftLegs;
    left.forEach((managed, index) => {
      const age = now - managed.leftAt;
      const isDone = managed.leg.stats().openStreams === 0 && age >= limits.leftGraceMs;
      const isOverdue = index < tooMany && age >= limits.leftDeadlineMs;
      if (!isDone && !isOverdue) return;
      managed.leg.close('replaced').catch((error: unknown) => {
        deps.log.error({ err: error }, 'a leg that was left could not be closed');
      });
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

  return {
    adopt({ leg, reason }, gatewayId) {
      const now = clock.monotonic();
      const managed: ManagedLeg = {
        leg,
        gatewayId,
        reason,
        upSince: now,
        state: 'standby',
        echoMs: undefined,
        isPathDead: false,
        heard: leg.stats().received,
        heardAt: now,
        leftAt: 0,
        notify: () => undefined,
        stopEchoes: () => undefined,
      };
      legs.add(managed);
      void leg.closed.then((end) => {
        managed.stopEchoes();
        legs.delete(managed);
        if (managed.state !== 'standby') deps.onDown(leg, end);
        managed.notify();
      });
      deps.attach(leg, () => {
        if (managed.state !== 'left' && managed.state !== 'standby') setState(managed, 'drained');
      });
      if (!cancelTick) {
        lastTick = now;
        cancelTick = clock.timer(limits.tickMs, tick);
      }
      return managed;
    },
    serve(managed) {
      if (managed.state !== 'standby' || !legs.has(managed)) return;
      const now = clock.monotonic();
      managed.state = 'up';
      managed.upSince = now;
      managed.heardAt = now;
      managed.leg.send({ type: 'activate' });
      watchEchoes(managed);
      deps.onUp(managed);
    },
    leave(managed) {
      if (!legs.has(managed)) return;
      managed.stopEchoes();
      managed.leftAt = clock.monotonic();
      setState(managed, 'left');
    },
    has: (managed) => legs.has(managed),
    list: () => [...legs],
  };
};
