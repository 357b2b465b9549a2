/** Connects to a gateway over QUIC: its names are resolved, its addresses tried 250 ms apart, and all of it repeated. */
import type { Clock } from '../../shared/src/clock.ts';
import { describeError, TransportError } from '../../shared/src/errors.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { formatHostPort, type HostPort, parseHostPort } from '../../shared/src/transport/address.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { CONNECTION_ATTEMPT_DELAY_MS, interleaveFamilies, MAX_ADDRESSES, raceAttempts } from './happy-eyeballs.ts';
import type { Resolver } from './resolver.ts';

/** Makes a connection to a gateway, of whatever transport. Rejects with the signal's reason, or an error that tells. */
export type Connect = (gateway: GatewayAddress, options: { readonly signal: AbortSignal }) => Promise<Connection>;

/** From the look-up to the transport's own handshake, ms. */
const QUIC_CONNECT_TIMEOUT_MS = 5_000;
/**
 * All addresses are tried again so long after they were tried first, ms. A dial repeats its first packet after 1, 3 and
 * 7 s only: a gateway that comes up meanwhile would be found late, and over TCP.
 */
const ROUND_MS = 1_250;
/** Rounds within {@link QUIC_CONNECT_TIMEOUT_MS}. */
const ROUNDS = 4;
/** An address that did not answer while another one did is tried last for so long, ms. */
const DEAD_ADDRESS_MS = 60_000;

/** What the connector needs of a transport; `transport/quic.ts` has it. */
export interface TransportDialer {
  dial(address: HostPort, options: { signal: AbortSignal }): Promise<Connection>;
}

export interface QuicConnectorDeps {
  readonly clock: Clock;
  readonly resolver: Resolver;
  readonly dialer: TransportDialer;
}

interface Candidate extends HostPort {
  readonly family: 4 | 6;
  readonly text: string;
}

export const createQuicConnector = (deps: QuicConnectorDeps): Connect => {
  const { clock, resolver, dialer } = deps;
  /** Address → until when it counts as dead, monotonic ms. */
  const dead = new Map<string, number>();

  const isDead = ({ text }: Candidate): boolean => (dead.get(text) ?? -Infinity) > clock.monotonic();

  const resolveAll = async (gateway: GatewayAddress, signal: AbortSignal): Promise<Candidate[]> => {
    const found = await Promise.allSettled(
      gateway.quic.map(async (text) => {
        const { host, port } = parseHostPort(text);
        const addresses = await resolver.resolve(host, { signal });
        return addresses.map(({ address, family }) => ({
          host: address,
          port,
          family,
          text: formatHostPort(address, port),
        }));
      }),
    );
    signal.throwIfAborted();
    const unique = new Map<string, Candidate>();
    for (const result of found) {
      if (result.status === 'rejected') continue;
      for (const candidate of result.value) unique.set(candidate.text, candidate);
    }
    const failures = found.flatMap((result) => (result.status === 'rejected' ? [result.reason as Error] : []));
    if (unique.size === 0) throw new AggregateError(failures, 'the gateway has no address');
    const candidates = interleaveFamilies([...unique.values()]).slice(0, MAX_ADDRESSES);
    return [...candidates.filter((each) => !isDead(each)), ...candidates.filter(isDead)];
  };

  /** Those that had their turn alone and said nothing are known as dead; one that answers is not. */
  const judge = (candidates: readonly Candidate[], startedAt: ReadonlyMap<string, number>, winner: Candidate): void => {
    const now = clock.monotonic();
    dead.delete(winner.text);
    for (const [text, until] of dead) if (until <= now) dead.delete(text);
    for (const { text } of candidates) {
      const started = startedAt.get(text);
      if (text === winner.text || started === undefined || now - started < CONNECTION_ATTEMPT_DELAY_MS) continue;
      dead.set(text, now + DEAD_ADDRESS_MS);
    }
  };

  const race = (candidates: readonly Candidate[], signal: AbortSignal): Promise<Connection> => {
    const startedAt = new Map<string, number>();
    const restMs = ROUND_MS - (candidates.length - 1) * CONNECTION_ATTEMPT_DELAY_MS;
    return raceAttempts(
      { clock },
      Array.from({ length: ROUNDS }, () => candidates).flat(),
      async (candidate, options) => {
        if (!startedAt.has(candidate.text)) startedAt.set(candidate.text, clock.monotonic());
        const connection = await dialer.dial(candidate, options);
        if (!options.signal.aborted) judge(candidates, startedAt, candidate);
        return connection;
      },
      (late) => late.close(),
      {
        signal,
        delayAfter: (index) =>
          (index + 1) % candidates.length === 0
            ? Math.max(CONNECTION_ATTEMPT_DELAY_MS, restMs)
            : CONNECTION_ATTEMPT_DELAY_MS,
      },
    );
  };

  return async (gateway, { signal }) => {
    const limit = new AbortController();
    const cancel = clock.timer(QUIC_CONNECT_TIMEOUT_MS, () =>
      limit.abort(new Error(`no answer within ${QUIC_CONNECT_TIMEOUT_MS / 1_000} s; is UDP blocked?`)),
    );
    const either = AbortSignal.any([signal, limit.signal]);
    let tried: readonly string[] = gateway.quic;
    try {
      const candidates = await resolveAll(gateway, either);
      tried = candidates.map(({ text }) => text);
      return await race(candidates, either);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      for (const text of gateway.quic) resolver.forget(hostOf(text));
      throw new TransportError(`no answer over UDP (tried ${tried.join(', ')}): ${firstReason(error)}`, {
        cause: error,
      });
    } finally {
      cancel();
    }
  };
};

/** Every address says nearly the same, each several times. */
const firstReason = (error: unknown): string =>
  describeError(error instanceof AggregateError ? (error.errors[0] ?? error) : error);

const hostOf = (text: string): string => {
  try {
    return parseHostPort(text).host;
  } catch {
    return text;
  }
};
