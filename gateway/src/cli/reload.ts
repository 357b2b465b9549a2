/** SIGHUP: what of a changed configuration can be used without a restart is, and the rest is named. */
import { isDeepStrictEqual } from 'node:util';
import { describeError } from '../../../shared/src/errors.ts';
import type { GatewayConfig } from '../config.ts';
import type { Gateway } from '../gateway.ts';
import type { Logger } from '../observability/log.ts';

/** Keys that are used at once. The files of certificates are as well, whatever the configuration says. */
const LIVE: ReadonlySet<string> = new Set(['logLevel']);

/** Names of the top-level keys that differ. */
export const changedKeys = (before: GatewayConfig, after: GatewayConfig): string[] => {
  const [one, other] = [before, after] as unknown as [Record<string, unknown>, Record<string, unknown>];
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].filter(
    (key) => !isDeepStrictEqual(one[key], other[key]),
  );
};

/** Never rejects: whatever is wrong is logged, and nothing changes. `running` is what the gateway was started with. */
export const reload = async (
  deps: { readonly log: Logger; readonly gateway: Pick<Gateway, 'checkCertificates'> },
  running: GatewayConfig,
  read: () => Promise<GatewayConfig>,
): Promise<void> => {
  const { log, gateway } = deps;
  try {
    const config = await read();
    const hadLevel = log.level;
    const { replaced, faults } = await gateway.checkCertificates();
    const changed = changedKeys(running, config);
    const needsRestart = changed.filter((key) => !LIVE.has(key));
    const applied = [
      ...(hadLevel === config.logLevel ? [] : [`logLevel ${config.logLevel}`]),
      ...replaced.map((path) => `certificate ${path}`),
    ];
    log[needsRestart.length + faults.length > 0 ? 'warn' : 'info'](
      { applied, needsRestart, faults },
      needsRestart.length > 0 ? 'configuration read again; a part of it needs a restart' : 'configuration read again',
    );
    // Last: a higher level would hide the line above.
    log.level = config.logLevel;
  } catch (error) {
    log.error({ problem: describeError(error) }, 'the configuration cannot be used; nothing has changed');
  }
};
