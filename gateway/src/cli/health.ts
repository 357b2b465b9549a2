/** `gateway health`: whether the gateway of this configuration is ready. For health checks of containers. */
import { request } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { systemClock } from '../../../shared/src/clock.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { DURATION_RULE, parseDuration } from '../../../shared/src/units.ts';
import type { InternalAddress } from '../config.ts';
import { CliError, loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson } from './output.ts';

/** A gateway that needs longer to say that it is ready is not. */
const HEALTH_TIMEOUT_MS = 5_000;
/** Of the answer, bytes; it is one line. More is not read. */
const MAX_ANSWER_BYTES = 4_096;

/** A listener on all addresses is asked on its own machine. */
const toLoopback = (host: string): string => {
  if (host === '0.0.0.0') return '127.0.0.1';
  return host === '::' ? '::1' : host;
};

const ask = (address: InternalAddress, signal: AbortSignal): Promise<{ status: number; text: string }> =>
  new Promise((resolve, reject) => {
    const target =
      address.kind === 'unix'
        ? { socketPath: address.path, headers: { host: 'localhost' } }
        : { host: toLoopback(address.host), port: address.port };
    const asked = request({ ...target, path: '/readyz', agent: false, signal }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text = (text + chunk).slice(0, MAX_ANSWER_BYTES);
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text: text.trim() }));
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });

/** Between two questions while a gateway starts, ms. */
const WAIT_PAUSE_MS = 250;

const checkOnce = async (internal: InternalAddress, name: string, stop: AbortSignal): Promise<void> => {
  const signal = AbortSignal.any([stop, AbortSignal.timeout(HEALTH_TIMEOUT_MS)]);
  const { status, text } = await ask(internal, signal).catch((error: unknown) => {
    throw new CliError(`No gateway answers at ${name}`, { cause: error });
  });
  if (status !== 200) throw new CliError(`The gateway at ${name} is not ready (${status}): ${text}`);
};

/** With `wait` it is asked again until it is ready, for that long: whoever starts it then knows when it serves. */
export const checkHealth = async (
  world: CliWorld,
  options: { readonly config?: string; readonly wait?: string; readonly json?: boolean },
): Promise<void> => {
  const { internal } = (await loadConfig(world, options.config)).listeners;
  const name = internal.kind === 'unix' ? `unix:${internal.path}` : formatHostPort(internal.host, internal.port);
  if (internal.kind === 'tcp' && internal.port === 0) {
    throw new CliError('The internal listener has port 0, so that nobody knows where it is. Set listeners.internal');
  }
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
