import { setTimeout } from 'node:timers/promises';
import { systemClock } from '../../../shared/src/clock.ts';
import { DEFAULT_COLUMNS, formatTable, wrapIndented } from '../../../shared/src/terminal-text.ts';
import { DURATION_RULE, parseDuration } from '../../../shared/src/units.ts';
import { parseClientEndpoint } from '../config.ts';
import type { EnvironmentStatus, LegStatus, RunnerStatus } from '../status.ts';
import { transportSentence } from '../transport.ts';
import { formatBytes, formatDuration } from './amounts.ts';
import { renderGateways } from './gateway.ts';
import { askInternal } from './internal-client.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';

/** Problems that are shown; all of them are in `--json`. */
const SHOWN_PROBLEMS = 3;

/** A heading, and for each port its URL, with what else is known of it where that fits into the line. */
const environmentText = ({ id, ports, state, code, message }: EnvironmentStatus): string => {
  const why = [code, message].filter((text) => text !== undefined).join(': ');
  const heading = `Environment ${id}: ${state}${ports.length === 0 ? ', no ports are exposed' : ''}`;
  return [
    wrapIndented(`${heading}${why === '' ? '' : `: ${why}`}`, '  '),
    ...ports.map(({ port, protocol, admission, url }) => {
      const line = `  ${String(port).padEnd(5)}  ${url ?? 'no URL yet'}`;
      const more = `(${protocol}, ${admission})`;
      return line.length + 1 + more.length <= DEFAULT_COLUMNS ? `${line} ${more}` : `${line}\n         ${more}`;
    }),
  ].join('\n');
};

const milliseconds = (ms: number | undefined): string => (ms === undefined ? '–' : `${ms.toFixed(1)} ms`);

/** Share of the packets that were sent. */
const lossOf = (packets: LegStatus['packets']): number =>
  packets === undefined ? 0 : packets.lost / Math.max(1, packets.sent);

/** A table that fits into 80 columns, with the rest of each leg below its row. */
const legsText = (legs: readonly LegStatus[]): string => {
  const table = formatTable(
    ['', 'gateway', 'transport', 'state', 'echo', 'rtt', 'loss', 'streams'],
    legs.map(({ gatewayId, transport, state, echoMs, rttMs, packets, gatewayPackets, openStreams, isHealthiest }) => [
      isHealthiest && legs.length > 1 ? '*' : '',
      ...[gatewayId, transport, state, milliseconds(echoMs), milliseconds(rttMs)],
      packets === undefined ? '–' : `${(100 * Math.max(lossOf(packets), lossOf(gatewayPackets))).toFixed(1)} %`,
      String(openStreams),
    ]),
  );
  const [head = '', ...rows] = table.split('\n');
  const lines = rows.flatMap((row, index) => {
    const { remoteAddress, upForMs, bytesSent, bytesReceived } = legs[index] as LegStatus;
    const bytes = `sent ${formatBytes(bytesSent)}, received ${formatBytes(bytesReceived)}`;
    return [row, `   ${remoteAddress}, up ${formatDuration(upForMs)}, ${bytes}`];
  });
  const notes = transportNotes(legs).map((note) => `  ${wrapIndented(note, '  ')}`);
  const mark = rows.some((row) => row.startsWith('*')) ? ['*  answers soonest'] : [];
  return [head, ...lines, ...mark, ...notes].join('\n');
};

/** Why each leg has its transport, where that needs a word. */
const transportNotes = (legs: readonly LegStatus[]): string[] => [
  ...new Set(
    legs.flatMap(({ gatewayId, transport, reason, inspected, state }) => {
      const why = reason === 'first' ? [] : [`${gatewayId}: ${transportSentence(transport, reason)}`];
      if (state === 'standby') return [`${gatewayId}: ${transport} is tried beside the transport in use`];
      return inspected ? [...why, `${gatewayId}: TLS is inspected on the way (${transport})`] : why;
    }),
  ),
];

/** For a person. `now` is ms since the epoch. */
export const renderStatus = (status: RunnerStatus, now: number): string => {
  const { organization, membershipExpiresAt: expiresAt } = status;
  const sections = [
    [
      `Runner      ${status.runnerId}${organization === undefined ? '' : ` (organization ${organization})`}`,
      `State       ${status.state}`,
      `Gateway     ${status.gateway ?? 'not chosen yet'}`,
      `Membership  ${expiresAt === undefined ? 'none' : `${formatDuration(expiresAt - now)} left`}`,
    ].join('\n'),
  ];
  if (status.measurements.length > 0) sections.push(renderGateways(status).trimEnd());
  if (status.legs.length > 0) sections.push(legsText(status.legs));
  sections.push(
    status.environments.length === 0
      ? 'No environments are announced.'
      : status.environments.map(environmentText).join('\n'),
  );
  const { target, callbackUrls } = status.oauth;
  if (target !== undefined) {
    const urls = Object.values(callbackUrls).map((url) => `  ${url}`);
    sections.push([`OAuth callbacks go to ${target}`, ...urls].join('\n'));
  }
  if (status.problems.length > 0) {
    const lines = status.problems
      .slice(0, SHOWN_PROBLEMS)
      .map(({ at, message }) => wrapIndented(`  ${formatDuration(now - at)} ago: ${message}`, '    '));
    sections.push(['Last problems', ...lines].join('\n'));
  }
  return `${sections.join('\n\n')}\n`;
};

export const statusCommand = async (flags: ConfigFlagsWithFile & { json?: boolean }, io: CliIo): Promise<number> => {
  const endpoint = parseClientEndpoint(await readSources(flags, io));
  const { status, body } = await askInternal('/status', endpoint, { authorized: true, signal: io.stop });
  if (status !== 200) throw new CommandError(`The tunnel client answered ${status}: ${body.trim()}`);
  io.out(flags.json ? body : renderStatus(JSON.parse(body) as RunnerStatus, Date.now()));
  return EXIT.ok;
};

/** Between two questions while a client starts, ms. */
const WAIT_PAUSE_MS = 250;

/** For health checks: 0 when at least one leg is up. With `wait` it is asked again until it is, for that long. */
export const healthCommand = async (
  flags: ConfigFlagsWithFile & { readonly wait?: string; json?: boolean },
  io: CliIo,
): Promise<number> => {
  const endpoint = parseClientEndpoint(await readSources(flags, io));
  const waitMs = parseDuration(flags.wait ?? '0');
  if (waitMs === undefined) throw new CommandError(`--wait ${flags.wait}: ${DURATION_RULE}`, { exitCode: EXIT.usage });
  const end = systemClock.monotonic() + waitMs;
  for (;;) {
    const isLast = systemClock.monotonic() + WAIT_PAUSE_MS > end;
    try {
      const { status, body } = await askInternal('/readyz', endpoint, { authorized: false, signal: io.stop });
      const state = body.trim();
      if (status === 200 || isLast) {
        io.out(flags.json ? `${JSON.stringify({ healthy: status === 200, state })}\n` : `${state}\n`);
        return status === 200 ? EXIT.ok : EXIT.failed;
      }
    } catch (error) {
      if (isLast) throw error;
    }
    await setTimeout(WAIT_PAUSE_MS, undefined, { signal: io.stop });
  }
};
