/**
 * Tunnel streams to the service of a runner that finishes logins. A callback carries a code that works once, so it is
 * not turned away because the runner is just being restarted:
 *
 *  1. No leg: is the runner known?                             not_found
 *  2. The best leg is asked. What it answers with, or its end before an answer, promises that nothing reached the
 *     target; so the next one is asked, and so is a leg that comes up meanwhile (the old one may be dead and not know).
 *  3. No leg is left: wait for the next one, up to `callbackWaitMs` after the callback came. A target that refuses
 *     counts as no leg when the callback had to wait: the runner's service starts beside its tunnel client.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import { LegClosedError, StreamRefusedError, StreamResetError } from '../../../shared/src/errors.ts';
import type { Leg, TunnelStream } from '../../../shared/src/protocol/leg.ts';
import type { Directory } from '../directory/directory.ts';
import type { GatewayLimits } from '../limits.ts';
import { GatewayFailure } from '../proxy/upstream-errors.ts';
import type { TunnelRegistry } from '../tunnels/registry.ts';

/** Until a leg that refused is asked again, ms: a service that starts listens within a few of these. */
export const ASK_AGAIN_MS = 500;

export interface RunnerStreamsDeps {
  readonly clock: Clock;
  readonly registry: Pick<TunnelRegistry, 'runnerLegs' | 'watchRunner'>;
  readonly directory: Pick<Directory, 'runner'>;
}

export interface StreamRequest {
  readonly runnerId: string;
  readonly requestId: string;
  readonly traceParent: string;
}

export interface RunnerStreams {
  /** A stream that is connected. Rejects with GatewayFailure, the peer's refusal, or the signal's reason. */
  open(request: StreamRequest, options: { readonly signal: AbortSignal }): Promise<TunnelStream>;
  /** Callbacks that wait for a runner. */
  readonly waiting: number;
}

/** What can be waited for: the next leg of the runner, and the passing of time. */
interface News {
  /** Resolves at the next news, `ms` from now at the latest; rejects with the signal's reason. One at a time. */
  next(ms: number): Promise<void>;
  /** Ends a wait that nobody is interested in any more. */
  cancel(): void;
  stop(): void;
}

/** Why there is no stream yet, and when asking again makes sense. */
interface NotYet {
  readonly failure: unknown;
  readonly again: 'now' | 'later' | 'with_next_leg';
}

/** The leg cannot say anything of the target, or the runner asks to be asked elsewhere. */
const isElsewhere = (error: unknown): boolean =>
  error instanceof LegClosedError ||
  (error instanceof StreamResetError && error.code === 'leg_lost') ||
  (error instanceof StreamRefusedError && (error.code === 'draining' || error.code === 'limit'));

const isNotListening = (error: unknown): boolean =>
  error instanceof StreamRefusedError && (error.code === 'refused' || error.code === 'timeout');

export const createRunnerStreams = (
  deps: RunnerStreamsDeps,
  limits: Pick<GatewayLimits, 'callbackWaitMs' | 'callbacksWaitingPerRunner' | 'connectTimeoutMs'>,
): RunnerStreams => {
  const { clock, registry } = deps;
  const waiting = new Map<string, number>();

  const listen = (runnerId: string, signal: AbortSignal): News => {
    let finish: (() => void) | undefined;
    let hasNews = false;
    const tell = (): void => {
      hasNews = true;
      finish?.();
    };
    const unwatch = registry.watchRunner(runnerId, tell);
    signal.addEventListener('abort', tell, { once: true });
    return {
      next: (ms) =>
        new Promise((resolve, reject) => {
          finish = () => {
            cancelTimer();
            finish = undefined;
            hasNews = false;
            if (signal.aborted) reject(signal.reason as Error);
            else resolve();
          };
          const cancelTimer = clock.timer(ms, () => finish?.());
          if (hasNews || signal.aborted) finish();
        }),
      cancel: () => finish?.(),
      stop() {
        unwatch();
        signal.removeEventListener('abort', tell);
      },
    };
  };

  /** Asks one leg; undefined when there was other news before its answer, or none at all in time. */
  const ask = async (
    leg: Leg,
    { requestId, traceParent }: StreamRequest,
    news: News,
    signal: AbortSignal,
  ): Promise<TunnelStream | undefined> => {
    const stream = leg.openStream(
      { kind: 'oauth', environmentId: '', port: 0, tls: false, hops: 0, requestId, traceParent },
      { signal },
    );
    stream.on('error', () => undefined);
    let connected = false;
    const answer = stream.connected.then(() => {
      connected = true;
    });
    try {
      await Promise.race([answer, news.next(limits.connectTimeoutMs)]);
      return connected ? stream : undefined;
    } finally {
      news.cancel();
      if (!connected) stream.destroy();
    }
  };

  const checkKnown = async (runnerId: string): Promise<void> => {
    const runner = await deps.directory.runner(runnerId).catch((cause: unknown) => {
      throw new GatewayFailure('directory_unavailable', 'the runner could not be looked up', { cause });
    });
    if (!runner || runner.revokedAt !== undefined) throw new GatewayFailure('not_found', 'no such runner');
  };

  /** A place among those that wait. */
  const enter = (runnerId: string): (() => void) => {
    const count = waiting.get(runnerId) ?? 0;
    if (count >= limits.callbacksWaitingPerRunner) {
      throw new GatewayFailure('login_runner_offline', 'as many callbacks as may wait for the runner');
    }
    waiting.set(runnerId, count + 1);
    return () => {
      const left = (waiting.get(runnerId) ?? 1) - 1;
      if (left === 0) waiting.delete(runnerId);
      else waiting.set(runnerId, left);
    };
  };

  /** Asks the legs in their order. */
  const askAll = async (
    request: StreamRequest,
    news: News,
    { signal, patient }: { signal: AbortSignal; patient: boolean },
  ): Promise<TunnelStream | NotYet> => {
    let again: NotYet['again'] = 'with_next_leg';
    let failure: unknown;
    for (const leg of registry.runnerLegs(request.runnerId)) {
      try {
        const stream = await ask(leg, request, news, signal);
        if (stream) return stream;
        // Another leg came up, or time has passed: both change what is to be done next.
        return {
          failure: new GatewayFailure('login_service_unreachable', 'the leg did not answer in time'),
          again: 'now',
        };
      } catch (error) {
        if (signal.aborted || !(isElsewhere(error) || (patient && isNotListening(error)))) throw error;
        failure = error;
        if (error instanceof StreamRefusedError) again = 'later';
      }
    }
    return { failure, again };
  };

  return {
    async open(request, { signal }) {
      signal.throwIfAborted();
      const { runnerId } = request;
      const end = clock.monotonic() + limits.callbackWaitMs;
      const news = listen(runnerId, signal);
      let leave: (() => void) | undefined;
      let patient = false;
      try {
        if (registry.runnerLegs(runnerId).length === 0) await checkKnown(runnerId);
        for (;;) {
          const result = await askAll(request, news, { signal, patient });
          if (!('again' in result)) return result;
          const { failure, again } = result;
          const left = end - clock.monotonic();
          if (left <= 0) {
            if (again !== 'with_next_leg') throw failure;
            throw new GatewayFailure('login_runner_offline', 'the runner did not come back', { cause: failure });
          }
          patient = true;
          if (again === 'now') continue;
          leave ??= enter(runnerId);
          await news.next(again === 'later' ? Math.min(left, ASK_AGAIN_MS) : left);
        }
      } finally {
        leave?.();
        news.stop();
      }
    },
    get waiting() {
      let count = 0;
      for (const each of waiting.values()) count += each;
      return count;
    },
  };
};
