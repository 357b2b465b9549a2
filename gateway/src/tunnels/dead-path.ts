/** What is done about a leg whose data path is dead, and about one that its client has left. */
import type { Clock } from '../../../shared/src/clock.ts';
import { ECHO_INTERVAL_MS, watchDataPath } from '../../../shared/src/protocol/data-path.ts';
import type { Logger } from '../observability/log.ts';
import { legFields } from './leg-fields.ts';
import type { LegEntry } from './routing-table.ts';

/** From `drain` because of a dead data path until the leg is closed if no replacement has come up, ms. */
export const DEAD_PATH_DEADLINE_MS = 10_000;

export interface DeadPathDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  /** Round trip of an answered echo. */
  readonly onRtt?: ((rttMs: number) => void) | undefined;
}

const hasOtherLeg = (entry: LegEntry): boolean =>
  [...entry.instance.legs].some((other) => other !== entry && other.leg.isOpen && !other.standby && !other.deadPath);

/** Watches the data path of a leg in the registry; returns what ends it. */
export const superviseDataPath = (deps: DeadPathDeps, entry: LegEntry): (() => void) => {
  const { clock, log } = deps;
  const { leg } = entry;
  let cancelDeadline: () => void = () => {};

  const onDeadline = (receivedBefore: number): void => {
    if (!entry.deadPath || !leg.isOpen) return;
    if (hasOtherLeg(entry) || leg.stats().received === receivedBefore) return void leg.close('data_path');
    // The only leg, and something still arrives on it: it is not taken away, it may recover.
    entry.deadPath = false;
  };

  const onDead = (): void => {
    if (entry.deadPath || !leg.isOpen) return;
    log.warn(legFields(entry), 'the data path of a leg is dead');
    entry.deadPath = true;
    if (hasOtherLeg(entry)) return void leg.close('data_path');
    const receivedBefore = leg.stats().received;
    leg.send({ type: 'drain', reason: 'data_path', deadlineMs: DEAD_PATH_DEADLINE_MS });
    cancelDeadline = clock.timer(DEAD_PATH_DEADLINE_MS, () => onDeadline(receivedBefore));
  };

  const onAlive = (rttMs: number | undefined): void => {
    if (rttMs !== undefined) deps.onRtt?.(rttMs);
    if (entry.deadPath) log.info(legFields(entry), 'the data path of a leg is alive again');
    entry.deadPath = false;
    cancelDeadline();
    // Its client closes it when its last stream has ended; this is for one that forgot. The echo's stream is over.
    if (entry.left && leg.stats().openStreams === 0 && hasOtherLeg(entry)) void leg.close('replaced');
  };

  // The legs of a gateway are spread over the interval.
  const firstInMs = deps.random() * ECHO_INTERVAL_MS;
  const stop = watchDataPath(leg, deps, { firstInMs, onDead, onAlive });
  return () => {
    stop();
    cancelDeadline();
  };
};
