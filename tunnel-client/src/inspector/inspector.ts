/**
 * The inspector: what passes between gateways and the applications of environments is watched, and the last requests
 * are kept for a person to look at. It stands beside the bytes: a connection is joined first and watched second, and
 * nothing waits for what is done here. Without the option none of this exists.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../shared/src/clock.ts';
import type { IncomingTunnelStream } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { Logger } from '../logger.ts';
import type { UpstreamConnection } from '../splice.ts';
import { createExchangeObserver } from './exchange-observer.ts';
import { type ExchangeSummary, type ExchangeView, summarize, viewExchange } from './exchange-view.ts';
import { MAX_REPLAYS, replay, whyNoReplay } from './replay.ts';
import { createRequestStore, type KeptExchange } from './request-store.ts';

export type { BodyView } from './body-view.ts';
export type { ExchangeSummary, ExchangeView } from './exchange-view.ts';

/** A replay did not come about; `code` is for programs, the message for people. */
export class ReplayError extends Error {
  override readonly name = 'ReplayError';
  readonly code: 'not_found' | 'not_replayable' | 'too_many' | 'unreachable';
  constructor(code: ReplayError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}

export interface Inspector {
  /** Of which requests are kept. */
  environments(): readonly { readonly id: string; readonly requests: number }[];
  /** Newest first. */
  list(environmentId: string): readonly ExchangeSummary[];
  get(environmentId: string, id: string): Promise<ExchangeView | undefined>;
  /** Forgets all requests of an environment. */
  clear(environmentId: string): void;
  /** Sends a request again; resolves with the id of the new one. Rejects with {@link ReplayError}. */
  replay(environmentId: string, id: string): Promise<string>;
  /** Calls `listener` for each change of a request, or of what is kept, at most once a request and `interval`. */
  watch(environmentId: string, listener: (changed: readonly ExchangeSummary[]) => void): () => void;
  /** Bytes that are kept. */
  bytes(): number;
}

/** The side of the dialer. */
export interface InspectorTap {
  /** Watches a connection that has just been joined. */
  tap(stream: IncomingTunnelStream, upstream: Duplex): void;
  close(): void;
}

export interface InspectorDeps {
  readonly clock: Clock;
  readonly log: Logger;
  /** Rejects with UpstreamError. */
  readonly connect: (target: Target, options: { signal: AbortSignal }) => Promise<UpstreamConnection>;
}

/** Changes are told together after so long, ms: ten times a second is live enough for a person. */
const TELL_INTERVAL_MS = 100;

export const createInspector = ({ clock, log, connect }: InspectorDeps): Inspector & InspectorTap => {
  const stopping = new AbortController();
  const watchers = new Set<(exchange: KeptExchange) => void>();
  const store = createRequestStore({
    clock,
    onChange: (exchange) => {
      for (const watcher of watchers) watcher(exchange);
    },
  });
  const onFault = (error: unknown): void =>
    log.error({ err: error }, 'the inspector could not follow a connection; the connection goes on');
  let replays = 0;

  const find = (environmentId: string, id: string): KeptExchange => {
    const found = store.get(environmentId, id);
    if (!found) throw new ReplayError('not_found', 'the request is not, or no longer, kept');
    return found;
  };

  return {
    environments: () => store.environments(),
    list: (environmentId) => store.list(environmentId).map(summarize),
    async get(environmentId, id) {
      const found = store.get(environmentId, id);
      return found && viewExchange(found);
    },
    clear: (environmentId) => store.clear(environmentId),
    bytes: () => store.bytes(),

    async replay(environmentId, id) {
      const exchange = find(environmentId, id);
      const reason = whyNoReplay(exchange);
      if (reason !== undefined) throw new ReplayError('not_replayable', `the request cannot be sent again: ${reason}`);
      if (replays >= MAX_REPLAYS) throw new ReplayError('too_many', `${MAX_REPLAYS} replays are under way`);
      replays += 1;
      const sink = store.sink(exchange.target, exchange.id);
      try {
        return await replay({ clock, connect, onFault }, exchange, sink, {
          signal: stopping.signal,
          onDone: () => {
            replays -= 1;
          },
        });
      } catch (error) {
        const why = error instanceof Error ? error.message : 'it failed';
        throw new ReplayError('unreachable', `the application cannot be reached: ${why}`, { cause: error });
      }
    },

    watch(environmentId, listener) {
      const changed = new Map<string, KeptExchange>();
      let cancel: (() => void) | undefined;
      const tell = (): void => {
        cancel = undefined;
        const all = [...changed.values()].map(summarize);
        changed.clear();
        listener(all);
      };
      const watcher = (exchange: KeptExchange): void => {
        if (exchange.target.environmentId !== environmentId) return;
        changed.set(exchange.id, exchange);
        cancel ??= clock.timer(TELL_INTERVAL_MS, tell);
      };
      watchers.add(watcher);
      return () => {
        watchers.delete(watcher);
        cancel?.();
      };
    },

    tap(stream, upstream) {
      // Callbacks of OAuth belong to the runner; logs have a page of their own.
      if (stream.target.kind !== 'port') return;
      const observer = createExchangeObserver(store.sink(stream.target), onFault);
      let open = 2;
      const onClose = (): void => {
        open -= 1;
        if (open === 0) observer.closed();
      };
      stream.on('data', (bytes: Buffer) => observer.push('request', bytes));
      upstream.on('data', (bytes: Buffer) => observer.push('response', bytes));
      upstream.once('end', () => observer.responseEnded());
      stream.once('close', onClose);
      upstream.once('close', onClose);
    },
    close() {
      watchers.clear();
      stopping.abort(new DOMException('the client was closed', 'AbortError'));
    },
  };
};
