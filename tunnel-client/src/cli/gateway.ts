/** `tunnel-client gateway list | reselect`: the gateways of the configuration, measured. */
import { systemClock } from '../../../shared/src/clock.ts';
import { formatTable, wrapIndented } from '../../../shared/src/terminal-text.ts';
import { parseClientConfig, parseClientEndpoint } from '../config.ts';
import { fastestOf, measureGateways, readSelection } from '../gateway-selection.ts';
import { parseGatewayUrl } from '../gateway-url.ts';
import { createOutbound } from '../outbound.ts';
import { createResolver } from '../resolver.ts';
import type { GatewayStatus } from '../status.ts';
import { askInternal } from './internal-client.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { readCa } from './run.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';

type Flags = ConfigFlagsWithFile & { json?: boolean };

/** Three connections to each gateway, and a leg at the new one, ms. */
const RESELECT_TIMEOUT_MS = 90_000;

/** Each gateway with what was measured, and below it what is wrong with those that did not answer. */
export const renderGateways = ({ gateway: chosen, measurements }: GatewayStatus): string => {
  const fastest = fastestOf(measurements)?.gateway;
  const rows = measurements.map(({ gateway, connectMs }) => [
    gateway,
    connectMs === undefined ? 'no answer' : `${connectMs.toFixed(1)} ms`,
    [...(gateway === chosen ? ['in use'] : []), ...(gateway === fastest ? ['fastest'] : [])].join(', '),
  ]);
  const problems = measurements
    .filter(({ connectMs }) => connectMs === undefined)
    .map(({ problem }) => `\n${wrapIndented(problem ?? 'no answer', '  ')}`);
  return `${formatTable(['gateway', 'connect', ''], rows)}\n${problems.map((problem) => `${problem}\n`).join('')}`;
};

/** Measures now, beside a running client and without one; changes nothing. */
export const gatewayListCommand = async (flags: Flags, io: CliIo): Promise<number> => {
  const config = parseClientConfig(await readSources(flags, io));
  const ca = config.ca === undefined ? {} : { ca: await readCa(config.ca) };
  const clock = systemClock;
  const outbound = createOutbound({ clock, resolver: createResolver({ clock }) }, { proxy: config.proxy, ...ca });
  const urls = config.gateways.map(parseGatewayUrl);
  const kept = urls.length === 1 ? urls[0]?.origin : (await readSelection(config.stateDir))?.gateway;
  const measurements = await measureGateways({ clock, outbound }, urls, { signal: io.stop });
  const status: GatewayStatus = { gateway: kept, measurements };
  io.out(flags.json ? `${JSON.stringify(status, null, 2)}\n` : renderGateways(status));
  return fastestOf(measurements) === undefined ? EXIT.failed : EXIT.ok;
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
