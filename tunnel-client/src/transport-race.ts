/**
 * Which transport a leg gets: the first one whose tunnel handshake is complete.
 *
 *     0 s     QUIC
 *     2.5 s   WebTransport                              each at once when the one before it has failed
 *     5 s     WebSocket                                 waits a moment for WebTransport when it is up first
 *
 * Legs come up on standby, so that those that are not needed end without anybody noticing. QUIC is dialled again as long
 * as the race goes on.
 */
import { type Clock, delay } from '../../shared/src/clock.ts';
import { describeError, RefusedError, TransportError } from '../../shared/src/errors.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { DialLeg } from './leg-dialer.ts';
import { type Transport, TRANSPORT_LABELS, type TransportReason } from './transport.ts';

export interface RaceLimits {
  /** How long a transport is alone before the next one is tried beside it, ms. */
  readonly headStartMs: number;
  /** How long a WebSocket that is up waits for a WebTransport that has not failed, ms: it is the last resort. */
  readonly lastResortMs: number;
  /** Until QUIC is dialled again after it has failed, ms, while others are being tried. */
  readonly againMs: number;
  /** Share of {@link againMs} by which it is shorter or longer: those that a gateway turned away do not meet again. */
  readonly againJitter: number;
}

export const RACE_LIMITS: RaceLimits = { headStartMs: 2_500, lastResortMs: 2_500, againMs: 1_000, againJitter: 0.5 };

/** A leg on standby, and why it has its transport. */
export interface DialledLeg {
  readonly leg: Leg;
  readonly reason: TransportReason;
}

export type DialGateway = (
  gateway: GatewayAddress,
  options: { readonly signal: AbortSignal; readonly replaces?: string; readonly transports?: readonly Transport[] },
) => Promise<DialledLeg>;

interface Runner {
  readonly transport: Transport;
  started: boolean;
  /** Of the first attempt that failed. */
  error: Error | undefined;
}

/** No transport got through. `errors` has what each said. */
export class NoTransportError extends TransportError {
  readonly errors: Readonly<Partial<Record<Transport, Error>>>;
  constructor(gatewayId: string, errors: Readonly<Partial<Record<Transport, Error>>>) {
    const told = Object.entries(errors).map(
      ([transport, error]) => `${TRANSPORT_LABELS[transport as Transport]}: ${describeError(error)}`,
    );
    super(`no connection to gateway ${gatewayId}. ${told.join('. ')}`, { cause: Object.values(errors).at(-1) });
    this.errors = errors;
  }
}

/** A refusal that every way to the gateway would meet. */
const isFinal = (error: unknown): boolean =>
  error instanceof RefusedError && error.by === 'remote' && error.code !== 'inspected_tls';

export const createTransportRace = (
  deps: { readonly clock: Clock; readonly random: () => number; readonly dial: DialLeg },
  options: { readonly transports: readonly Transport[]; readonly limits?: Partial<RaceLimits> },
): DialGateway => {
  const { clock, random, dial } = deps;
  const limits = { ...RACE_LIMITS, ...options.limits };
  const isConfigured = options.transports.length === 1;

  const reasonFor = (transport: Transport, runners: readonly Runner[]): TransportReason => {
    if (isConfigured) return 'configured';
    if (transport === 'quic') return 'first';
    const errorOf = (name: Transport): Error | undefined => runners.find((each) => each.transport === name)?.error;
    if (transport === 'webtransport') return errorOf('quic') ? 'quic_failed' : 'quic_silent';
    const error = errorOf('webtransport');
    if (error instanceof TransportError && error.code === 'no_http2') return 'no_http2';
    return error ? 'webtransport_failed' : 'webtransport_silent';
  };

  return (gateway, { signal, replaces, transports = options.transports }) =>
    new Promise((resolve, reject) => {
      const losers = new AbortController();
      const either = AbortSignal.any([signal, losers.signal]);
      const runners = transports.map((transport): Runner => ({ transport, started: false, error: undefined }));
      let settled = false;
      let held: Leg | undefined;
      let cancelHeadStart = (): void => {};
      let cancelHold = (): void => {};

      const settle = (): void => {
        settled = true;
        cancelHeadStart();
        cancelHold();
        signal.removeEventListener('abort', onAbort);
        losers.abort(new DOMException('another transport won', 'AbortError'));
      };
      const discard = (leg: Leg): void => void leg.close('replaced');
      const giveUp = (error: Error): void => {
        settle();
        if (held) discard(held);
        reject(error);
      };
      const onAbort = (): void => giveUp(signal.reason as Error);
      const win = (leg: Leg, transport: Transport): void => {
        settle();
        if (held && held !== leg) discard(held);
        resolve({ leg, reason: reasonFor(transport, runners) });
      };
      const mayYetComeUp = (transport: Transport): boolean =>
        runners.some((each) => each.transport === transport && each.error === undefined);

      const onLeg = (leg: Leg, { transport }: Runner): void => {
        if (settled) return discard(leg);
        if (transport !== 'websocket' || !mayYetComeUp('webtransport')) return win(leg, transport);
        held = leg;
        cancelHold = clock.timer(limits.lastResortMs, () => win(leg, transport));
      };
      const onError = (error: Error, runner: Runner): void => {
        if (settled) return;
        if (isFinal(error)) return giveUp(error);
        runner.error ??= error;
        if (held && !mayYetComeUp('webtransport')) return win(held, 'websocket');
        if (runners.every((each) => each.error !== undefined)) return giveUp(failureOf(gateway, runners));
        // The way is open, and the gateway only busy: many runners behind one address may all have lost their legs.
        if (error instanceof TransportError && error.code === 'turned_away') return;
        // The one behind it need not wait.
        if (!runners[runners.indexOf(runner) + 1]?.started) startNext();
      };

      const run = async (runner: Runner): Promise<void> => {
        for (;;) {
          try {
            const more = replaces === undefined ? {} : { replaces };
            return onLeg(await dial(gateway, runner.transport, { signal: either, ...more }), runner);
          } catch (error) {
            onError(error as Error, runner);
          }
          if (settled || runner.transport !== 'quic') return;
          const jitter = limits.againJitter * (2 * random() - 1);
          await delay(clock, limits.againMs * (1 + jitter), either);
        }
      };
      const startNext = (): void => {
        cancelHeadStart();
        const runner = runners.find(({ started }) => !started);
        if (settled || !runner) return;
        runner.started = true;
        cancelHeadStart = clock.timer(limits.headStartMs, startNext);
        run(runner).catch((error: unknown) => {
          if (!settled) giveUp(error as Error);
        });
      };

      if (signal.aborted) return reject(signal.reason as Error);
      signal.addEventListener('abort', onAbort, { once: true });
      startNext();
    });
};

/** A refusal says more than that nothing answered. */
const failureOf = (gateway: GatewayAddress, runners: readonly Runner[]): Error => {
  const errors = runners.flatMap(({ transport, error }) => (error ? [[transport, error] as const] : []));
  const refused = errors.find(([, error]) => error instanceof RefusedError)?.[1];
  return refused ?? new NoTransportError(gateway.id, Object.fromEntries(errors));
};
