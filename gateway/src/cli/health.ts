/** `gateway health`: whether the gateway of this configuration is ready. For health checks of containers. */
import { setTimeout } from 'node:timers/promises';
import { systemClock } from '../../../shared/src/clock.ts';
import { DURATION_RULE, parseDuration } from '../../../shared/src/units.ts';
import { formatInternalAddress, type InternalAddress } from '../../../shared/src/transport/internal-address.ts';
import { CliError, loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { askInternal } from './internal.ts';
import { formatJson } from './output.ts';

/** Between two questions while a gateway starts, ms. */
const WAIT_PAUSE_MS = 250;

const checkOnce = async (internal: InternalAddress, name: string, stop: AbortSignal): Promise<void> => {
  const { status, text } = await askInternal(internal, '/readyz', { stop });
  if (status !== 200) throw new CliError(`The gateway at ${name} is not ready (${status}): ${text}`);
};

/** With `wait` it is asked again until it is ready, for that long: whoever starts it then knows when it serves. */
export const checkHealth = async (
  world: CliWorld,
  options: { readonly config?: string; readonly wait?: string; readonly json?: boolean },
): Promise<void> => {
  const { internal } = (await loadConfig(world, options.config)).listeners;
  const name = formatInternalAddress(internal);
  const waitMs = parseDuration(options.wait ?? '0');
  if (waitMs === undefined) throw new CliError(`--wait ${options.wait}: ${DURATION_RULE}`);
  const end = systemClock.monotonic() + waitMs;
  for (;;) {
    try {
      await checkOnce(internal, name, world.stop);
      break;
    } catch (error) {
      if (systemClock.monotonic() + WAIT_PAUSE_MS > end) throw error;
      await setTimeout(WAIT_PAUSE_MS, undefined, { signal: world.stop });
    }
  }
  world.stdout.write(options.json ? formatJson({ ready: true, internal: name }) : 'ready\n');
};
