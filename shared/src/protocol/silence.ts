/** Notices that nothing comes any more, on transports that would wait for as long as TCP does: a quarter of an hour. */
import type { Clock } from '../clock.ts';
import type { Connection } from '../transport/connection.ts';
import type { LegLimits } from './limits.ts';

/** How often is looked whether anything has come, ms. */
const CHECK_INTERVAL_MS = 1_000;

/**
 * Calls `ping` after `pingAfterMs` of silence and `onDead` after `deadAfterMs`. Silence is counted in looks, so that a
 * process that was stopped for a while reads what has come meanwhile before it judges. Returns the function that ends it.
 */
export const watchSilence = (
  deps: {
    readonly clock: Clock;
    readonly connection: Pick<Connection, 'stats'>;
    readonly ping: (id: number) => void;
    readonly onDead: () => void;
  },
  limits: Pick<LegLimits, 'pingAfterMs' | 'deadAfterMs'>,
): (() => void) => {
  let { received } = deps.connection.stats();
  let silentMs = 0;
  let pings = 0;
  const look = (): void => {
    const now = deps.connection.stats().received;
    silentMs = now === received ? silentMs + CHECK_INTERVAL_MS : 0;
    received = now;
    if (silentMs >= limits.deadAfterMs) return deps.onDead();
    if (silentMs === limits.pingAfterMs) deps.ping(++pings);
    cancel = deps.clock.timer(CHECK_INTERVAL_MS, look);
  };
  let cancel = deps.clock.timer(CHECK_INTERVAL_MS, look);
  return () => cancel();
};
