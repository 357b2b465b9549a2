/** `tunnel-client gateway list | reselect`: the gateways of the configuration, measured. */
import { systemClock } from '../../../shared/src/clock.ts';
import { parseClientConfig, parseClientEndpoint } from '../config.ts';
import { fastestOf, type GatewayMeasurement, measureGateways } from '../gateway-selection.ts';
import { parseGatewayUrl } from '../gateway-url.ts';
import { createOutbound } from '../outbound.ts';
import { createResolver } from '../resolver.ts';
import type { GatewayStatus } from '../status.ts';
import { askInternal } from './internal-client.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { readCa } from './run.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';
import { formatTable } from './table.ts';

type Flags = ConfigFlagsWithFile & { json?: boolean };

/** Three connections to each gateway, and a leg at the new one, ms. */
const RESELECT_TIMEOUT_MS = 90_000;

export const measurementRows = (measurements: readonly GatewayMeasurement[], chosen: string | undefined): string[][] =>
  measurements.map(({ gateway, connectMs, problem }) => [
    gateway === chosen ? '*' : '',
    gateway,
    connectMs === undefined ? '–' : `${connectMs.toFixed(1)} ms`,
    connectMs === undefined ? (problem ?? 'no answer') : '',
  ]);

export const renderGateways = ({ gateway, measurements }: GatewayStatus): string =>
  `${formatTable(['', 'GATEWAY', 'CONNECT', ''], measurementRows(measurements, gateway))}\n`;

/** Measures now, beside a running client and without one; changes nothing. */
export const gatewayListCommand = async (flags: Flags, io: CliIo): Promise<number> => {
  const config = parseClientConfig(await readSources(flags, io));
  const ca = config.ca === undefined ? {} : { ca: await readCa(config.ca) };
  const clock = systemClock;
  const outbound = createOutbound({ clock, resolver: createResolver({ clock }) }, { proxy: config.proxy, ...ca });
  const urls = config.gateways.map(parseGatewayUrl);
  const measurements = await measureGateways({ clock, outbound }, urls, { signal: io.stop });
  const status = { gateway: fastestOf(measurements)?.gateway, measurements };
  io.out(flags.json ? `${JSON.stringify(status, null, 2)}\n` : `${renderGateways(status)}\n* is the fastest.\n`);
  return measurements.every(({ connectMs }) => connectMs === undefined) ? EXIT.failed : EXIT.ok;
};

/** Has the running client measure again and move. */
export const gatewayReselectCommand = async (flags: Flags, io: CliIo): Promise<number> => {
  const endpoint = parseClientEndpoint(await readSources(flags, io));
  const { status, body } = await askInternal('/gateway/reselect', endpoint, {
    authorized: true,
    signal: io.stop,
    method: 'POST',
    timeoutMs: RESELECT_TIMEOUT_MS,
  });
  if (status !== 200) {
    const { error } = JSON.parse(body) as { error: { message: string } };
    throw new CommandError(`The gateway was not changed: ${error.message}`);
  }
  const result = JSON.parse(body) as GatewayStatus;
  const text =
    result.measurements.length === 0
      ? `The configuration names one gateway: ${result.gateway}.\n`
      : `${renderGateways(result)}\nThe runner is at ${result.gateway}.\n`;
  io.out(flags.json ? body : text);
  return EXIT.ok;
};
