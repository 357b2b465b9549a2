/** Sends a request that is kept to the application once more, over a connection of its own. */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { UpstreamConnection } from '../splice.ts';
import { createExchangeObserver, type ExchangeSink } from './exchange-observer.ts';
import { valuesOf } from './message-reader.ts';
import type { KeptExchange } from './request-store.ts';

/** Replays at once, each a connection to an application. Beyond it 429. */
export const MAX_REPLAYS = 4;
/** For all of a replay, ms; a response that has no end is cut then. */
const REPLAY_TIMEOUT_MS = 30_000;

/** Why a request cannot be sent again; undefined when it can. */
export const whyNoReplay = ({ line, fields, isRequestComplete, bodies, state }: KeptExchange): string | undefined => {
  if (!line) return 'it is no HTTP request';
  if (state === 'upgraded' || valuesOf(fields, 'upgrade').length > 0) return 'it asks for another protocol';
  if (!isRequestComplete) return 'it did not come to its end';
  if (bodies.request.bytes > bodies.request.keptBytes) return 'its body was not kept whole';
  return undefined;
};

/** Of the connection that the request came over, or of how its body was sent. */
const NOT_SENT_AGAIN: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'transfer-encoding',
  'content-length',
  'expect',
  'trailer',
  'te',
]);

export const replayBytes = ({ line, fields, bodies }: KeptExchange): Buffer => {
  const body = bodies.request.kept.subarray(0, bodies.request.keptBytes);
  const hadBody = ['content-length', 'transfer-encoding'].some((name) => valuesOf(fields, name).length > 0);
  const lines = [`${line?.method} ${line?.target} HTTP/1.1`];
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] ?? '';
    if (!NOT_SENT_AGAIN.has(name.toLowerCase())) lines.push(`${name}: ${fields[index + 1]}`);
  }
  if (hadBody) lines.push(`content-length: ${body.length}`);
  lines.push('connection: close', '', '');
  return Buffer.concat([Buffer.from(lines.join('\r\n'), 'latin1'), body]);
};

export interface ReplayDeps {
  readonly clock: Clock;
  /** Rejects with UpstreamError. */
  readonly connect: (target: Target, options: { signal: AbortSignal }) => Promise<UpstreamConnection>;
  readonly onFault: (error: unknown) => void;
}

/**
 * Resolves with the id of the new one once it is on its way; what comes of it goes to `sink`. Rejects with UpstreamError, or
 * with the signal's reason.
 */
export const replay = async (
  { clock, connect, onFault }: ReplayDeps,
  exchange: KeptExchange,
  sink: ExchangeSink,
  { signal, onDone }: { signal: AbortSignal; onDone: () => void },
): Promise<string> => {
  const stop = new AbortController();
  const onStop = (): void => stop.abort(signal.reason);
  signal.addEventListener('abort', onStop, { once: true });
  const cancelTimer = clock.timer(REPLAY_TIMEOUT_MS, () =>
    stop.abort(new DOMException('the application took too long', 'TimeoutError')),
  );
  const finish = (): void => {
    cancelTimer();
    signal.removeEventListener('abort', onStop);
    onDone();
  };
  try {
    signal.throwIfAborted();
    const { duplex, reset } = await connect(exchange.target, { signal: stop.signal });
    stop.signal.addEventListener('abort', () => reset(), { once: true });
    let id = exchange.id;
    const observer = createExchangeObserver(
      {
        ...sink,
        begin(line, fields) {
          const begun = sink.begin(line, fields);
          id = begun.id;
          return { ...begun, end: (trailers) => (begun.end(trailers), void duplex.end()) };
        },
      },
      onFault,
    );
    duplex.on('error', () => undefined);
    duplex.once('close', () => {
      observer.closed();
      finish();
    });
    duplex.once('end', () => {
      observer.responseEnded();
      duplex.end();
    });
    duplex.on('data', (bytes: Buffer) => observer.push('response', bytes));
    const bytes = replayBytes(exchange);
    observer.push('request', bytes);
    duplex.write(bytes);
    return id;
  } catch (error) {
    finish();
    throw error;
  }
};
