import type { LegEntry } from './routing-table.ts';

/** What every log line about a leg says. */
export const legFields = ({ leg, instance }: LegEntry) => ({
  legId: leg.id,
  runnerId: instance.runner.id,
  instance: instance.id,
  transport: leg.transport,
  remoteAddress: leg.remoteAddress,
  ...(leg.inspected ? { inspected: true } : {}),
});
