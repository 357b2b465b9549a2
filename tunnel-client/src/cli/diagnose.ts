import { systemClock } from '../../../shared/src/clock.ts';
import { DEFAULT_COLUMNS, wrap } from '../../../shared/src/terminal-text.ts';
import { parseClientConfig } from '../config.ts';
import type { Progress } from '../diagnose/check-run.ts';
import { diagnose } from '../diagnose/diagnose.ts';
import { type CheckState, type Diagnosis, failed, type Finding, ok, skipped, warning } from '../diagnose/report.ts';
import { parseGatewayUrl } from '../gateway-url.ts';
import type { RunnerStatus } from '../status.ts';
import { askInternal } from './internal-client.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { membershipOf, readCa, readKeyFile } from './run.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';

const MARKS: Readonly<Record<CheckState, string>> = { ok: '✓', warning: '!', failed: '✗', skipped: '·' };
const ADVICE_MARK = '→ ';
/** Back to the beginning of the line, and clear it (ECMA-48). */
const CLEAR_LINE = '\r\u001B[K';

const SUMMARIES: Readonly<Record<'ok' | 'warning' | 'failed', string>> = {
  ok: 'Nothing is wrong.',
  warning: 'Tunnels work; what could be better is marked !.',
  failed: 'What stands in the way is marked ✗.',
};

/** For a person. */
const renderDiagnosis = ({ gateway, runnerId, checks }: Diagnosis): string => {
  const nameWidth = Math.max(...checks.map(({ name }) => name.length));
  const indent = ' '.repeat(nameWidth + 4);
  const rows = checks.flatMap(({ name, state, result, advice }) => {
    const lines = wrap(result, DEFAULT_COLUMNS - indent.length);
    const told =
      advice && state !== 'ok' && state !== 'skipped'
        ? wrap(advice, DEFAULT_COLUMNS - indent.length - ADVICE_MARK.length)
        : [];
    return [
      ...lines.map((line, index) =>
        index === 0 ? `${MARKS[state]} ${name.padEnd(nameWidth)}  ${line}` : indent + line,
      ),
      ...told.map((line, index) => `${indent}${index === 0 ? ADVICE_MARK : ' '.repeat(ADVICE_MARK.length)}${line}`),
    ];
  });
  const worst = (['failed', 'warning'] as const).find((state) => checks.some((check) => check.state === state)) ?? 'ok';
  return [`Runner   ${runnerId}`, `Gateway  ${gateway}`, '', ...rows, '', SUMMARIES[worst], ''].join('\n');
};

/** What the client says that runs with this state directory, if one does. */
const askRunning =
  (endpoint: Parameters<typeof askInternal>[1]) =>
  async (signal: AbortSignal): Promise<Finding> => {
    let answer;
    try {
      answer = await askInternal('/status', endpoint, { authorized: true, signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof CommandError)) throw error;
      return skipped('none answers on this machine');
    }
    if (answer.status !== 200) {
      return warning(`it answered ${answer.status}`, 'Give its state directory with --state-dir.');
    }
    const { state, legs, problems } = JSON.parse(answer.body) as RunnerStatus;
    const ways = legs.map(({ transport, gatewayId }) => `${transport} to ${gatewayId}`).join(', ');
    if (state === 'online') return ok(`online: ${ways}`, { state });
    const last = problems[0]?.message;
    return failed(`${state}${last === undefined ? '' : `: ${last}`}`, 'The checks below say why.', { state });
  };

const showProgress =
  (io: CliIo) =>
  ({ done, total, name }: Progress): void =>
    io.err(
      `${CLEAR_LINE}${done} of ${total} checks done${name === undefined ? '' : `: ${name}`}`.slice(0, DEFAULT_COLUMNS),
    );

export const diagnoseCommand = async (flags: ConfigFlagsWithFile & { json?: boolean }, io: CliIo): Promise<number> => {
  const sources = await readSources(flags, io);
  const config = parseClientConfig(sources);
  const ca = config.ca === undefined ? undefined : await readCa(config.ca);
  const isWatched = io.isTerminal && !flags.json;
  const diagnosis = await diagnose(
    {
      clock: systemClock,
      askRunning: askRunning(config),
      ...(isWatched ? { onProgress: showProgress(io) } : {}),
    },
    {
      urls: config.gateways.map(parseGatewayUrl),
      runnerId: config.runnerId,
      stateDir: config.stateDir,
      key: config.keyFile === undefined ? config.key : await readKeyFile(config.keyFile),
      membership: membershipOf(config),
      ca,
      proxy: config.proxy,
      transport: config.transport,
      hasToken: config.exchangeToken !== undefined || config.exchangeTokenFile !== undefined,
    },
    { signal: io.stop },
  ).finally(() => {
    if (isWatched) io.err(CLEAR_LINE);
  });
  io.out(flags.json ? `${JSON.stringify(diagnosis, null, 2)}\n` : renderDiagnosis(diagnosis));
  return diagnosis.ok ? EXIT.ok : EXIT.failed;
};
