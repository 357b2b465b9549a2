/**
 * The side that accepted a leg tells how many of its packets were lost, where its transport counts them: the dialler, who
 * chooses the transport, sees the losses of its own packets only.
 */
import type { Clock } from '../clock.ts';
import type { Connection } from '../transport/connection.ts';

/** How often is looked whether there is something to tell, ms: two looks in the shortest span that a dialler judges by. */
export const PATH_REPORT_MS = 5_000;
/** Least packets since the last report: at rest a leg sends one a second, and of few packets the share that is lost says little. */
export const PATH_REPORT_PACKETS = 100;

/** Calls `tell` with what was counted since the connection came up. Returns the function that ends it. */
export const reportPath = (deps: {
  readonly clock: Clock;
  readonly connection: Pick<Connection, 'stats'>;
  readonly tell: (packets: { readonly sent: number; readonly lost: number }) => void;
}): (() => void) => {
  let told = 0;
  const look = (): void => {
    cancel = deps.clock.timer(PATH_REPORT_MS, look);
    const { packets } = deps.connection.stats();
    if (!packets || packets.sent - told < PATH_REPORT_PACKETS) return;
    told = packets.sent;
    deps.tell(packets);
  };
  let cancel = deps.clock.timer(PATH_REPORT_MS, look);
  return () => cancel();
};
