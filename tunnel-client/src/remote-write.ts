/**
 * Prometheus remote write 1.0 for runners that nobody can scrape: metrics are sent to a receiver at intervals. The message
 * is small and its format fixed, so it is written here by hand:
 *
 *     WriteRequest { repeated TimeSeries timeseries = 1 }
 *     TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2 }
 *     Label        { string name = 1; string value = 2 }
 *     Sample       { double value = 1; int64 timestamp = 2 }      ms since the epoch
 *
 * in a snappy block of nothing but literals, which is valid and does not compress: a request has some 4 KiB.
 */
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { request as requestTls } from 'node:https';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import type { Logger } from './logger.ts';
import type { MetricFamily } from './metrics.ts';
import type { Outbound } from './outbound.ts';

export interface RemoteWriteTarget {
  readonly url: string;
  readonly username: string | undefined;
  /** Path; read for each request, so that it may change. */
  readonly passwordFile: string | undefined;
}

/** Between two readings, ms: what Prometheus has by default is 60 s, what people set is 15 to 60 s. */
const REMOTE_WRITE_INTERVAL_MS = 30_000;
/** Requests that wait while the receiver is away: ten minutes of them. Beyond it the oldest is dropped. */
const MAX_WAITING_WRITES = 20;
/** For a request and its answer, ms. Beyond it the request is sent again. */
const REMOTE_WRITE_TIMEOUT_MS = 10_000;
/** Longest literal that a tag with two bytes of length has (snappy format description, section 2.1). */
const MAX_LITERAL_BYTES = 1 << 16;

const varint = (value: bigint | number): Buffer => {
  const bytes: number[] = [];
  let rest = BigInt(value);
  for (; rest >= 0x80n; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
};
/** A field of wire type 2. */
const field = (number: number, content: Buffer): Buffer =>
  Buffer.concat([varint((number << 3) | 2), varint(content.length), content]);
const text = (number: number, value: string): Buffer => field(number, Buffer.from(value));

const encodeSeries = (labels: ReadonlyMap<string, string>, value: number, atMs: number): Buffer => {
  const double = Buffer.alloc(8);
  double.writeDoubleLE(value);
  const sample = Buffer.concat([Buffer.from([(1 << 3) | 1]), double, Buffer.from([2 << 3]), varint(Math.trunc(atMs))]);
  // Receivers want labels in the order of their names.
  const sorted = [...labels].sort(([one], [other]) => (one < other ? -1 : 1));
  return field(
    1,
    Buffer.concat([
      ...sorted.map(([name, content]) => field(1, Buffer.concat([text(1, name), text(2, content)]))),
      field(2, sample),
    ]),
  );
};

/** The body of a request, before compression. */
const encodeWriteRequest = (
  families: readonly MetricFamily[],
  common: Readonly<Record<string, string>>,
  atMs: number,
): Buffer =>
  Buffer.concat(
    families.flatMap(({ name, samples }) =>
      samples.map(([labels, value]) =>
        encodeSeries(new Map(Object.entries({ ...common, ...labels, __name__: name })), value, atMs),
      ),
    ),
  );

/** A snappy block that holds `bytes` as they are. */
export const snappyLiterals = (bytes: Buffer): Buffer => {
  const parts = [varint(bytes.length)];
  for (let at = 0; at < bytes.length; at += MAX_LITERAL_BYTES) {
    const literal = bytes.subarray(at, at + MAX_LITERAL_BYTES);
    const length = literal.length - 1;
    // The tag of a literal whose length stands in the two bytes behind it.
    parts.push(Buffer.from([61 << 2, length & 0xff, length >> 8]), literal);
  }
  return Buffer.concat(parts);
};

const authorization = async ({ username, passwordFile }: RemoteWriteTarget): Promise<Record<string, string>> => {
  if (username === undefined) return {};
  const password = passwordFile === undefined ? '' : (await readFile(passwordFile, 'utf8')).trim();
  return { authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` };
};

/**
 * The status of the answer. Over TLS by the client's own way out, so that the proxy and the roots of the configuration
 * count; without TLS directly, as for a receiver on this machine. Redirections are not followed: credentials go nowhere
 * else.
 */
const post = async (
  outbound: Pick<Outbound, 'connectTls'>,
  target: string,
  { headers, body, signal }: { headers: Readonly<Record<string, string>>; body: Buffer; signal: AbortSignal },
): Promise<number> => {
  const url = new URL(target);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const options = {
    ...{ method: 'POST', host, path: url.pathname + url.search, signal, agent: false },
    headers: { ...headers, host: url.host, 'content-length': body.length },
  } as const;
  let socket: TLSSocket | undefined;
  if (url.protocol === 'https:') {
    const port = Number(url.port || '443');
    socket = await outbound.connectTls({ host, port, servername: host, alpn: ['http/1.1'] }, { signal });
  }
  try {
    return await new Promise<number>((resolve, reject) => {
      const asked = socket
        ? requestTls({ ...options, agent: undefined, createConnection: () => socket })
        : request({ ...options, port: url.port || '80' });
      asked.once('error', reject);
      asked.once('response', (response) => {
        response.once('error', reject);
        response.once('end', () => resolve(response.statusCode ?? 0));
        response.resume();
      });
      asked.end(body);
    });
  } finally {
    socket?.destroy();
  }
};

/** Begins at once and goes on until it is closed. Failures are logged when they begin, and when they end. */
export const startRemoteWrite = (
  deps: {
    readonly collect: () => readonly MetricFamily[];
    readonly clock: Clock;
    readonly log: Logger;
    readonly outbound: Pick<Outbound, 'connectTls'>;
  },
  options: {
    readonly target: RemoteWriteTarget;
    readonly labels: Readonly<Record<string, string>>;
    readonly intervalMs?: number;
  },
): { close(): Promise<void> } => {
  const { clock, log } = deps;
  const { target, labels, intervalMs = REMOTE_WRITE_INTERVAL_MS } = options;
  const closing = new AbortController();
  const waiting: Buffer[] = [];
  let failing = false;
  let sending = Promise.resolve();
  let cancel = (): void => undefined;

  /** Whether the request is done with: taken, or never going to be. Rejects when it is to be sent again. */
  const send = async (body: Buffer): Promise<void> => {
    const limit = new AbortController();
    const cancelLimit = clock.timer(REMOTE_WRITE_TIMEOUT_MS, () =>
      limit.abort(new Error(`no answer within ${REMOTE_WRITE_TIMEOUT_MS / 1_000} s`)),
    );
    let status: number;
    try {
      status = await post(deps.outbound, target.url, {
        headers: {
          ...(await authorization(target)),
          'content-type': 'application/x-protobuf',
          'content-encoding': 'snappy',
          'x-prometheus-remote-write-version': '0.1.0',
        },
        body,
        signal: AbortSignal.any([closing.signal, limit.signal]),
      });
    } catch (error) {
      throw limit.signal.aborted ? (limit.signal.reason as Error) : error;
    } finally {
      cancelLimit();
    }
    if (status >= 200 && status <= 299) return;
    if (status === 429 || status >= 500) throw new Error(`the answer was ${status}`);
    // The same bytes are refused again; the next ones may not be.
    log.warn({ status }, 'the receiver of metrics refuses them');
  };
  const sendAll = async (): Promise<void> => {
    try {
      for (let body = waiting[0]; body && !closing.signal.aborted; body = waiting[0]) {
        await send(body);
        waiting.splice(0, waiting[0] === body ? 1 : 0);
      }
      if (failing) log.info({}, 'the receiver of metrics takes them again');
      failing = false;
    } catch (error) {
      if (closing.signal.aborted) return;
      if (!failing) log.warn({ reason: describeError(error) }, 'metrics cannot be sent; it is tried again');
      failing = true;
    }
  };
  let isSending = false;
  const tick = (): void => {
    if (waiting.length >= MAX_WAITING_WRITES) waiting.shift();
    waiting.push(snappyLiterals(encodeWriteRequest(deps.collect(), labels, clock.now())));
    if (!isSending) {
      isSending = true;
      sending = sendAll().finally(() => (isSending = false));
    }
    cancel = clock.timer(intervalMs, tick);
  };
  tick();
  return {
    async close() {
      cancel();
      closing.abort();
      await sending;
    },
  };
};
