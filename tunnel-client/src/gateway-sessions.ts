/**
 * What runs at the chosen gateway, and how a runner moves to another one of its list: the legs at the old one serve until
 * there is one at the new one, and end with their streams.
 */
import { type Clock, delay } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { UnreachableError } from './api-client.ts';
import { untilStreamsEnd } from './drain-legs.ts';
import type { GatewaySelection } from './gateway-selection.ts';
import type { GatewayUrl } from './gateway-url.ts';
import type { Logger } from './logger.ts';
import type { Running } from './runner.ts';
import type { SupervisedLeg } from './supervised-legs.ts';

/** How long a leg at a newly chosen gateway may take, ms: a join, and some races of transports. */
const MOVE_TIMEOUT_MS = 60_000;
/** How long streams at a gateway that was left may take to end, ms. */
const LEFT_STREAMS_MS = 30_000;
/** How often it is looked whether there is a leg, or the last stream has ended, ms. */
const CHECK_MS = 250;
/** How often it is looked whether there was no leg for too long, ms. */
const AWAY_CHECK_MS = 10_000;

export interface GatewaySessions {
  /** Runs until `signal` is aborted; then rejects. */
  run(options: { signal: AbortSignal }): Promise<never>;
  /** At the chosen gateway, once it is chosen. */
  current(): Running | undefined;
  /** At every gateway, those that are being left included. */
  legs(): readonly SupervisedLeg[];
  bytes(): { bytesSent: number; bytesReceived: number };
  /** Measures again and moves to the fastest. Rejects with UnreachableError, and stays, when no leg comes up there. */
  reselect(options: { signal: AbortSignal }): Promise<void>;
  /** Makes no new legs. */
  stop(): void;
  /** Ends every leg. */
  close(): Promise<void>;
}

export interface SessionsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly selection: GatewaySelection;
  readonly start: (url: GatewayUrl) => Running;
  readonly report: (error: Error) => void;
}

export const isServing = ({ state }: SupervisedLeg): boolean => state !== 'left' && state !== 'standby';

export const createGatewaySessions = (
  deps: SessionsDeps,
  options: { readonly reselectAfterMs: number | undefined },
): GatewaySessions => {
  const { clock, log, selection } = deps;
  let current: Running | undefined;
  /** At gateways that were moved away from. */
  const leaving = new Set<Running>();
  let gone = { bytesSent: 0, bytesReceived: 0 };
  let leave = (): void => undefined;
  let reselecting: Promise<void> | undefined;

  const all = (): Running[] => [...new Set([...(current ? [current] : []), ...leaving])];
  const add = (total: typeof gone, running: Running): typeof gone => {
    const { bytesSent, bytesReceived } = running.bytes();
    return { bytesSent: total.bytesSent + bytesSent, bytesReceived: total.bytesReceived + bytesReceived };
  };
  const isUp = (): boolean =>
    current !== undefined && !leaving.has(current) && current.supervisor.legs().some(isServing);

  const end = async (running: Running): Promise<void> => {
    running.supervisor.stop();
    await Promise.all(running.supervisor.legs().map(({ leg }) => leg.close('closed')));
    running.quic.close();
  };

  const untilUp = async (limitMs: number, signal: AbortSignal): Promise<boolean> => {
    const deadline = clock.monotonic() + limitMs;
    while (!isUp() && clock.monotonic() < deadline) await delay(clock, CHECK_MS, signal);
    return isUp();
  };

  const retire = async (old: Running, signal: AbortSignal): Promise<void> => {
    old.supervisor.stop();
    const legs = (): Leg[] => old.supervisor.legs().map(({ leg }) => leg);
    await untilUp(MOVE_TIMEOUT_MS, signal);
    for (const leg of legs()) leg.send({ type: 'drain', reason: 'update', deadlineMs: LEFT_STREAMS_MS });
    await untilStreamsEnd(clock, legs, LEFT_STREAMS_MS, { signal, checkMs: CHECK_MS });
    await end(old);
    gone = add(gone, old);
    leaving.delete(old);
  };

  const runAt = async (url: GatewayUrl, signal: AbortSignal): Promise<void> => {
    const session = new AbortController();
    const running = deps.start(url);
    current = running;
    leave = () => {
      leaving.add(running);
      session.abort(new DOMException('another gateway was chosen', 'AbortError'));
      retire(running, signal).catch((error: unknown) => {
        if (!signal.aborted) log.error({ err: error }, 'the legs at a gateway that was left could not be closed');
      });
    };
    await running.enrolment.run({ signal: AbortSignal.any([signal, session.signal]) }).catch((error: unknown) => {
      if (signal.aborted || !session.signal.aborted) throw error;
    });
  };

  const moveToFastest = async (signal: AbortSignal): Promise<void> => {
    const before = selection.current();
    const url = await selection.reselect({ signal });
    if (!before || url === before) return;
    log.info({ from: before.origin, to: url.origin }, 'moving to another gateway');
    leave();
    if (await untilUp(MOVE_TIMEOUT_MS, signal)) return;
    await selection.keep(before);
    leave();
    throw new UnreachableError(
      `no leg came up at ${url.origin} within ${MOVE_TIMEOUT_MS / 1_000} s; the runner stays with ${before.origin}`,
    );
  };
  /** One at a time. */
  const reselect = (signal: AbortSignal): Promise<void> => {
    reselecting ??= moveToFastest(signal).finally(() => (reselecting = undefined));
    return reselecting;
  };

  const reselectWhenAway = async (afterMs: number, signal: AbortSignal): Promise<never> => {
    let awaySince: number | undefined;
    for (;;) {
      await delay(clock, Math.min(afterMs, AWAY_CHECK_MS), signal);
      if (isUp() || !selection.current()) awaySince = undefined;
      else awaySince ??= clock.monotonic();
      if (awaySince === undefined || clock.monotonic() - awaySince < afterMs) continue;
      awaySince = undefined;
      await reselect(signal).catch((error: unknown) => {
        signal.throwIfAborted();
        deps.report(error as Error);
      });
    }
  };

  return {
    async run({ signal }) {
      if (options.reselectAfterMs !== undefined) {
        reselectWhenAway(options.reselectAfterMs, signal).catch((error: unknown) => {
          if (!signal.aborted) deps.report(error as Error);
        });
      }
      for (;;) await runAt(await selection.choose({ signal }), signal);
    },
    current: () => current,
    legs: () => all().flatMap(({ supervisor }) => supervisor.legs()),
    bytes: () => all().reduce(add, gone),
    reselect: ({ signal }) => reselect(signal),
    stop: () => all().forEach(({ supervisor }) => supervisor.stop()),
    close: async () => void (await Promise.all(all().map(end))),
  };
};
