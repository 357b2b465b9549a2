/** `tunnel-client inspect ENVIRONMENT [show ID | replay ID]`: what the inspector of the running client has kept. */
import { setTimeout } from 'node:timers/promises';
import { isId } from '../../../shared/src/hostname.ts';
import { formatTable, printable } from '../../../shared/src/terminal-text.ts';
import { systemClock } from '../../../shared/src/clock.ts';
import { parseClientEndpoint } from '../config.ts';
import type { BodyView, ExchangeSummary, ExchangeView } from '../inspector/inspector.ts';
import { askInternal, followInternal } from './internal-client.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';
import { formatBytes } from './amounts.ts';

type Flags = ConfigFlagsWithFile & { json?: boolean; follow?: boolean };
type Endpoint = ReturnType<typeof parseClientEndpoint>;

/** How long a replay is waited for, ms: the client gives up before. */
const REPLAY_WAIT_MS = 35_000;
/** Between two looks at a replay, ms. */
const REPLAY_PAUSE_MS = 100;
/** Of method and target in the table, characters; `show` has all of it. */
const SHOWN_TARGET_CHARACTERS = 60;
/** Requests that are remembered as told: far more than the client keeps. The oldest are forgotten. */
const MAX_TOLD = 10_000;

/** Of a text of several lines. What applications and their visitors wrote must not steer a terminal. */
const printableLines = (text: string): string =>
  text
    .split(/\r?\n/)
    .map((line) => printable(line.replaceAll('\t', '  ')))
    .join('\n');

const became = ({ state, status, durationMs }: ExchangeSummary): string => {
  if (state === 'other') return 'not HTTP';
  if (state === 'cut') return `${status ?? ''} cut`.trim();
  if (state === 'upgraded') return durationMs === undefined ? '101 open' : '101';
  return state === 'open' ? `${status ?? ''} …`.trim() : String(status);
};

const timeOf = (at: number): string => new Date(at).toLocaleTimeString('en', { hour12: false });
const shorten = (text: string): string =>
  text.length > SHOWN_TARGET_CHARACTERS ? `${text.slice(0, SHOWN_TARGET_CHARACTERS - 1)}…` : text;

const HEAD = ['id', 'time', 'status', 'duration', 'sent', 'received', 'request'];
/** Of the columns while requests are followed, and what comes is not known; the last one has no end. */
const WIDTHS = [5, 8, 8, 11, 9, 9];
const rowOf = (request: ExchangeSummary): string[] => [
  request.id,
  timeOf(request.at),
  became(request),
  request.durationMs === undefined ? '–' : `${request.durationMs} ms`,
  formatBytes(request.requestBytes),
  formatBytes(request.responseBytes),
  shorten(`${request.method ?? '–'} ${request.target ?? ''}`),
];
const lineOf = (cells: readonly string[]): string =>
  cells.map((cell, column) => printable(cell).padEnd(WIDTHS[column] ?? 0)).join('  ');

const renderFields = (fields: ExchangeView['request']['headers']): string =>
  fields.map(([name, value]) => `${printable(name)}: ${printable(value)}\n`).join('');

const renderBody = ({ bytes, content, contentType, decoded, isTruncated, note }: BodyView): string => {
  if (bytes === 0) return '';
  const about = [
    formatBytes(bytes),
    contentType,
    decoded.length > 0 ? `decoded from ${decoded.join(', ')}` : undefined,
    isTruncated ? 'only its beginning is kept' : undefined,
    content?.kind === 'base64' ? 'no text' : undefined,
    note,
  ];
  const text = content?.kind === 'text' ? `${printableLines(content.text).trimEnd()}\n` : '';
  return `\n(${printable(about.filter((part) => part !== undefined).join(', '))})\n${text}`;
};

const renderExchange = (view: ExchangeView): string => {
  const { request, response, method, target, version, status, reason = '', note, state } = view;
  const line = method === undefined ? 'No HTTP' : `${method} ${printable(target ?? '')} HTTP/${version}`;
  const sections = [`${line}\n${renderFields(request.headers)}${renderBody(request.body)}`];
  if (status !== undefined) {
    sections.push(`${status} ${printable(reason)}`.trimEnd());
    sections.push(`${renderFields(response.headers)}${renderBody(response.body)}${renderFields(response.trailers)}`);
  }
  const ends = {
    open: 'The response is not complete yet.',
    done: `Complete after ${view.durationMs} ms.`,
    cut: 'The connection ended before the response was complete.',
    upgraded: `Another protocol since: ${formatBytes(view.passed.request)} sent, ${formatBytes(view.passed.response)} received.`,
    other: `It could not be read as HTTP any further${note === undefined ? '' : `: ${note}`}.`,
  };
  const [head = '', statusLine, answer = ''] = sections;
  return `${head}\n${statusLine === undefined ? '' : `${statusLine}\n${answer}\n`}${ends[state]}\n`;
};

/** Throws CommandError when it is none of `expected`. */
const bodyOf = ({ status, body }: { status: number; body: string }, expected: number): string => {
  if (status === expected) return body;
  let message = body.trim();
  try {
    ({ message } = (JSON.parse(body) as { error: { message: string } }).error);
  } catch {
    // Then the text itself.
  }
  throw new CommandError(`The tunnel client answered ${status}: ${message}`);
};

const list = async (path: string, endpoint: Endpoint, flags: Flags, io: CliIo): Promise<void> => {
  const answer = bodyOf(await askInternal(`${path}/requests`, endpoint, { authorized: true, signal: io.stop }), 200);
  if (flags.json) return io.out(answer);
  const { requests } = JSON.parse(answer) as { requests: ExchangeSummary[] };
  io.out(requests.length === 0 ? 'No requests are kept.\n' : `${formatTable(HEAD, requests.map(rowOf).reverse())}\n`);
};

/** A line for each request that has come to its end, or has become something that has none. */
const follow = async (path: string, endpoint: Endpoint, flags: Flags, io: CliIo): Promise<void> => {
  if (!flags.json) io.out(`${lineOf(HEAD.map((cell) => cell.toUpperCase()))}\n`);
  const told = new Set<string>();
  const refused = await followInternal(`${path}/events`, endpoint, { signal: io.stop }, (data) => {
    const changed = (data as ExchangeSummary[]).filter(({ id, state }) => state !== 'open' && !told.has(id));
    for (const request of changed.reverse()) {
      told.add(request.id);
      io.out(flags.json ? `${JSON.stringify(request)}\n` : `${lineOf(rowOf(request))}\n`);
    }
    // Ids grow: those that are long gone do not come again.
    for (const id of told) {
      if (told.size <= MAX_TOLD) break;
      told.delete(id);
    }
  });
  if (refused) bodyOf(refused, 200);
};
const show = async (path: string, endpoint: Endpoint, flags: Flags, io: CliIo): Promise<ExchangeView> => {
  const answer = bodyOf(await askInternal(path, endpoint, { authorized: true, signal: io.stop }), 200);
  const view = JSON.parse(answer) as ExchangeView;
  if (view.state !== 'open') io.out(flags.json ? answer : renderExchange(view));
  return view;
};

const replay = async (path: string, id: string, endpoint: Endpoint, flags: Flags, io: CliIo): Promise<void> => {
  const options = { authorized: true, signal: io.stop, method: 'POST', timeoutMs: REPLAY_WAIT_MS } as const;
  const answer = bodyOf(await askInternal(`${path}/requests/${id}/replay`, endpoint, options), 201);
  const { id: replayId } = JSON.parse(answer) as { id: string };
  const end = systemClock.monotonic() + REPLAY_WAIT_MS;
  for (;;) {
    const { state } = await show(`${path}/requests/${replayId}`, endpoint, flags, io);
    if (state !== 'open') return;
    if (systemClock.monotonic() > end) throw new CommandError(`Request ${replayId} has no complete response yet.`);
    await setTimeout(REPLAY_PAUSE_MS, undefined, { signal: io.stop });
  }
};

export const inspectCommand = async (
  what: { environment: string; action: string | undefined; id: string | undefined },
  flags: Flags,
  io: CliIo,
): Promise<number> => {
  const { environment, action, id = '' } = what;
  const usage = (message: string): CommandError => new CommandError(message, { exitCode: EXIT.usage });
  if (!isId(environment)) throw usage(`"${printable(environment)}" is not the id of an environment`);
  if (action !== undefined && action !== 'show' && action !== 'replay') {
    throw usage(`"${printable(action)}" is neither show nor replay`);
  }
  if (action !== undefined && !/^\d+$/.test(id)) throw usage(`${action} needs the id of a request, from the list`);
  const endpoint = parseClientEndpoint(await readSources(flags, io));
  const path = `/v1/inspector/environments/${environment}`;
  if (action === 'replay') await replay(path, id, endpoint, flags, io);
  else if (action === 'show') {
    const view = await show(`${path}/requests/${id}`, endpoint, flags, io);
    if (view.state === 'open') io.out(flags.json ? `${JSON.stringify(view, null, 2)}\n` : renderExchange(view));
  } else if (flags.follow) await follow(path, endpoint, flags, io);
  else await list(path, endpoint, flags, io);
  return EXIT.ok;
};
