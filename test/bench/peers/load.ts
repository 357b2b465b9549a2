/** The load tools, the same for all systems, run at the edge; and what they say. */
import { join } from 'node:path';
import { runProgram } from './program.ts';
import type { System } from './systems.ts';
import type { Topology } from './topology.ts';
import type { Upstream } from './upstream.ts';

/** A load tool may take so much longer than it was told to, ms. */
const GRACE_MS = 30_000;
const MIB = 1 << 20;
/** curl's word for "the time is up". */
const CURL_TIMED_OUT = 28;

export interface LoadContext {
  readonly topology: Topology;
  readonly upstream: Upstream;
  /** What is uploaded. */
  readonly bigFile: string;
}

const tool = async ({ topology }: LoadContext, seconds: number, words: readonly string[]): Promise<string> => {
  const { code, stdout, stderr } = await runProgram(topology.edge, words, seconds * 1_000 + GRACE_MS);
  if (code !== 0) throw new Error(`${words[0]} ended with ${code}: ${stderr}${stdout}`);
  return stdout;
};

/** Requests a second of what `wrk` printed. Throws when an answer was wrong or a connection broke. */
export const parseWrk = (text: string): number => {
  const rate = /^Requests\/sec: *([\d.]+)$/m.exec(text)?.[1];
  const wrong = /Non-2xx or 3xx responses: .*|Socket errors: .*/.exec(text)?.[0];
  if (rate === undefined || wrong !== undefined) throw new Error(`wrk: ${wrong ?? text}`);
  return Number(rate);
};

/** Requests a second of what `h2load` printed. Throws when an answer was wrong; what the end cuts off counts as neither. */
export const parseH2load = (text: string): number => {
  const rate = /finished in [\d.]+m?s, ([\d.]+) req\/s/.exec(text)?.[1];
  const codes = /(\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text)?.slice(1).map(Number);
  if (rate === undefined || codes?.[0] === undefined || codes[0] === 0 || codes.slice(1).some((count) => count > 0)) {
    throw new Error(`h2load: ${text}`);
  }
  return Number(rate);
};

/** MiB/s of what one or more `curl`s printed: `bytes seconds-to-first-byte seconds status`, a line each. */
export const parseDownloads = (text: string): number => {
  const lines = text
    .trim()
    .split('\n')
    .map((line) => line.split(' ').map(Number));
  if (lines.some(([bytes, , , status]) => status !== 200 || !bytes)) throw new Error(`a download failed: ${text}`);
  const begun = Math.min(...lines.map(([, first]) => first ?? NaN));
  const ended = Math.max(...lines.map(([, , end]) => end ?? NaN));
  return lines.reduce((sum, [bytes]) => sum + (bytes ?? NaN), 0) / MIB / (ended - begun);
};

export const requestsHttp1 = async (context: LoadContext, system: System, seconds: number): Promise<number> =>
  parseWrk(await tool(context, seconds, ['wrk', '-t1', '-c64', `-d${seconds}s`, `${system.url('web')}/`]));

export const requestsHttp2 = async (context: LoadContext, system: System, seconds: number): Promise<number> =>
  parseH2load(
    await tool(context, seconds, ['h2load', '-t1', '-c8', '-m16', '-D', String(seconds), `${system.url('web')}/`]),
  );

/** Connections of one burst: below what servers queue that have not been accepted. */
const BURST = 400;

/** Bursts of connections with one request each. Unlike `wrk`, `h2load` never resumes a session. */
export const newConnections = async (context: LoadContext, system: System, seconds: number): Promise<number> => {
  const words = ['h2load', '--h1', '-t1', `-c${BURST}`, `-n${BURST}`, `${system.url('web')}/`];
  const secondsEach: number[] = [];
  for (const end = performance.now() + seconds * 1_000; performance.now() < end;) {
    secondsEach.push(1 / parseH2load(await tool(context, seconds, words)));
  }
  return secondsEach.length / secondsEach.reduce((sum, each) => sum + each, 0);
};

const curls = async (
  { topology }: LoadContext,
  count: number,
  seconds: number,
  words: readonly string[],
): Promise<string> => {
  const command = ['curl', '-sSk', '--http1.1', '-m', String(seconds), '-o', '/dev/null', ...words];
  const all = await Promise.all(
    Array.from({ length: count }, () => runProgram(topology.edge, command, seconds * 1_000 + GRACE_MS)),
  );
  for (const { code, stderr } of all) {
    if (code !== 0 && code !== CURL_TIMED_OUT) throw new Error(`curl ended with ${code}: ${stderr}`);
  }
  return all.map(({ stdout }) => stdout).join('');
};

/** MiB/s of `count` bodies of 1 GiB, or of what came of them in the time. */
export const downloads = async (
  context: LoadContext,
  system: System,
  count: number,
  seconds: number,
): Promise<number> =>
  parseDownloads(
    await curls(context, count, seconds, [
      ...['-w', '%{size_download} %{time_starttransfer} %{time_total} %{http_code}\n'],
      `${system.url('web')}/big`,
    ]),
  );

/** MiB/s that arrived of `count` bodies of 1 GiB. */
export const uploads = async (
  context: LoadContext,
  system: System,
  count: number,
  seconds: number,
): Promise<number> => {
  await context.upstream.counted();
  await curls(context, count, seconds, ['-H', 'Expect:', '-T', context.bigFile, `${system.url('sink')}/`]);
  const { bytes, ms } = await context.upstream.counted();
  if (bytes === 0) throw new Error('nothing of the uploads arrived');
  return bytes / MIB / (ms / 1_000);
};

const own = async (context: LoadContext, seconds: number, program: string, ...args: string[]): Promise<unknown> =>
  JSON.parse(await tool(context, seconds, [process.execPath, join(import.meta.dirname, program), ...args]));

export interface Latencies {
  /** ms from when a request was due. */
  readonly p50: number;
  readonly p99: number;
}

export const latencies = async (
  context: LoadContext,
  system: System,
  rate: number,
  seconds: number,
): Promise<Latencies> =>
  (await own(context, seconds, 'load-latency.ts', `${system.url('web')}/`, String(rate), String(seconds))) as Latencies;

/** Echoed messages a second over 64 sockets. */
export const webSocketMessages = async (context: LoadContext, system: System, seconds: number): Promise<number> => {
  const url = system.url('echo').replace('https:', 'wss:');
  return ((await own(context, seconds, 'load-websocket.ts', `${url}/`, String(seconds))) as { rate: number }).rate;
};
