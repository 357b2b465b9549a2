/**
 * Requests and upgraded connections that were let in and have not ended, with the grounds they were let in on. When
 * those change (an announcement, a revocation, a block) the ones that would no longer be let in are cut: a WebSocket or
 * an event stream may otherwise outlive its permission by days.
 *
 * There are as many entries as exchanges under way, which the limits of connections and requests bound.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import { LinkedList, type Place } from '../linked-list.ts';
import type { Exchange, UpgradeExchange } from '../proxy/exchange.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';

/** Until a look-up that failed is made again, ms. What is no longer allowed is cut within 10 s, of which the poll of the directory is one. */
const RECHECK_MS = 1_000;

export interface OpenStream<G> {
  readonly exchange: Pick<Exchange | UpgradeExchange, 'cut' | 'openStream'>;
  readonly port: number;
  readonly grounds: G;
  /** Whose environment it was. */
  readonly runnerId: string;
}

export interface OpenStreams<G> {
  add(environmentId: string, stream: OpenStream<G>): void;
  /** The exchange has ended. */
  remove(environmentId: string, exchange: OpenStream<G>['exchange']): void;
  /** What is known of the environment has changed; undefined: of any. */
  recheck(environmentId: string | undefined): void;
  readonly count: number;
  close(): void;
}

export const createOpenStreams = <G>(deps: {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  readonly holds: (stream: OpenStream<G>, environmentId: string, route: EnvironmentRoute) => boolean;
  readonly clock: Clock;
  readonly onCut: (environmentId: string, count: number) => void;
  readonly onError: (error: unknown) => void;
}): OpenStreams<G> => {
  const { clock } = deps;
  const open = new Map<string, LinkedList<OpenStream<G>>>();
  const pending = new Set<string>();
  let cancel: (() => void) | undefined;
  let isClosed = false;

  const cutWhatEnded = async (environmentId: string): Promise<void> => {
    const route = await deps.route(environmentId);
    let count = 0;
    for (const stream of open.get(environmentId)?.values() ?? []) {
      if (deps.holds(stream, environmentId, route)) continue;
      count += 1;
      stream.exchange.cut('access_ended');
    }
    if (count > 0) deps.onCut(environmentId, count);
  };
  const run = async (): Promise<void> => {
    cancel = undefined;
    const ids = [...pending];
    pending.clear();
    for (const id of ids) {
      try {
        await cutWhatEnded(id);
      } catch (error) {
        deps.onError(error);
        pending.add(id);
      }
    }
    if (pending.size > 0) schedule(RECHECK_MS);
  };
  const schedule = (delayMs: number): void => {
    if (isClosed) return;
    cancel ??= clock.timer(delayMs, () => void run());
  };

  return {
    add(environmentId, stream) {
      let streams = open.get(environmentId);
      if (!streams) {
        streams = new LinkedList();
        open.set(environmentId, streams);
      }
      stream.exchange.openStream = streams.add(stream);
    },
    remove(environmentId, exchange) {
      const { openStream } = exchange;
      const streams = open.get(environmentId);
      if (openStream && streams?.remove(openStream as Place<OpenStream<G>>) && streams.size === 0) {
        open.delete(environmentId);
      }
    },
    recheck(environmentId) {
      const changed = environmentId === undefined ? [...open.keys()] : open.has(environmentId) ? [environmentId] : [];
      if (changed.length === 0) return;
      for (const id of changed) pending.add(id);
      // Changes come in bursts, and what they change is looked at when all have been applied.
      schedule(0);
    },
    get count() {
      let count = 0;
      for (const streams of open.values()) count += streams.size;
      return count;
    },
    close() {
      isClosed = true;
      cancel?.();
      pending.clear();
    },
  };
};
