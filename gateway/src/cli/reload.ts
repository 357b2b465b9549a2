/** SIGHUP: what of a changed configuration can be used without a restart is, and the rest is named. */
import { describeError } from '../../../shared/src/errors.ts';
import type { GatewayConfig } from '../config.ts';
import type { Gateway } from '../gateway.ts';
import type { Logger } from '../observability/log.ts';

/** Never rejects: whatever is wrong is logged. A configuration that cannot be read changes nothing. */
export const reload = async (
  { log, gateway }: { readonly log: Logger; readonly gateway: Pick<Gateway, 'reload'> },
  read: () => Promise<GatewayConfig>,
): Promise<void> => {
  try {
    const config = await read();
    const { applied, needsRestart, faults } = await gateway.reload(config);
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
