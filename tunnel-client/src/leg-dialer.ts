/** Makes a leg to a gateway: addresses, the race between them, the connection, the handshake. */
import type { Clock } from '../../shared/src/clock.ts';
import { describeError, LegClosedError, RefusedError, TransportError } from '../../shared/src/errors.ts';
import { verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { formatHostPort, parseHostPort } from '../../shared/src/transport/address.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import type { Enrolment } from './enrolment.ts';
import { interleaveFamilies, MAX_ADDRESSES, raceAttempts } from './happy-eyeballs.ts';
import type { Resolver } from './resolver.ts';

/**
 * From the look-up to the transport's own handshake, ms. Short, because a gateway that comes up while an attempt waits
 * between its repetitions is found sooner by the next attempt: after a restart the runner is back within 5 s.
 */
export const CONNECT_TIMEOUT_MS = 3_000;

/** What the dialler needs of a transport; `transport/quic.ts` has it. */
export interface TransportDialer {
  dial(address: { host: string; port: number }, options: { signal: AbortSignal }): Promise<Connection>;
}

export interface LegDialerDeps {
  readonly clock: Clock;
  readonly resolver: Resolver;
  readonly transport: TransportDialer;
  readonly enrolment: Pick<Enrolment, 'current' | 'clock'>;
  readonly hello: { readonly instance: string; readonly instanceStartedAt: number; readonly agent: string };
}

export type DialGateway = (
  gateway: GatewayAddress,
  options: { signal: AbortSignal; replaces?: string },
) => Promise<Leg>;

interface Candidate {
  readonly host: string;
  readonly port: number;
  readonly family: 4 | 6;
}

export const createLegDialer = (deps: LegDialerDeps): DialGateway => {
  const { clock, resolver, transport, enrolment } = deps;

  const resolveAll = async (gateway: GatewayAddress, signal: AbortSignal): Promise<Candidate[]> => {
    const found = await Promise.allSettled(
      gateway.quic.map(async (text) => {
        const { host, port } = parseHostPort(text);
        const addresses = await resolver.resolve(host, { signal });
        return addresses.map(({ address, family }) => ({ host: address, port, family }));
      }),
    );
    signal.throwIfAborted();
    const unique = new Map<string, Candidate>();
    for (const result of found) {
      if (result.status === 'rejected') continue;
      for (const candidate of result.value) unique.set(formatHostPort(candidate.host, candidate.port), candidate);
    }
    const failures = found.flatMap((result) => (result.status === 'rejected' ? [result.reason as Error] : []));
    if (unique.size === 0) throw new AggregateError(failures, 'the gateway has no address');
    return interleaveFamilies([...unique.values()]).slice(0, MAX_ADDRESSES);
  };

  const connect = async (gateway: GatewayAddress, signal: AbortSignal): Promise<Connection> => {
    const limit = new AbortController();
    const cancel = clock.timer(CONNECT_TIMEOUT_MS, () =>
      limit.abort(new Error(`no answer within ${CONNECT_TIMEOUT_MS / 1_000} s`)),
    );
    const either = AbortSignal.any([signal, limit.signal]);
    let tried: string[] = [];
    try {
      const candidates = await resolveAll(gateway, either);
      tried = candidates.map(({ host, port }) => formatHostPort(host, port));
      return await raceAttempts(
        { clock },
        candidates,
        ({ host, port }, options) => transport.dial({ host, port }, options),
        (late) => late.close(),
        { signal: either },
      );
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      for (const text of gateway.quic) resolver.forget(hostOf(text));
      const where = tried.length > 0 ? tried.join(', ') : gateway.quic.join(', ');
      throw new TransportError(
        `no connection to gateway ${gateway.id} over UDP (tried ${where}): ${describeError(error)}`,
        {
          cause: error,
        },
      );
    } finally {
      cancel();
    }
  };

  return async (gateway, { signal, replaces }) => {
    const enrolled = enrolment.current();
    if (!enrolled) throw new RefusedError('membership_expired');
    const { issuer } = enrolled;
    const connection = await connect(gateway, signal);
    const leg = await dialLeg(
      connection,
      {
        clock,
        membership: () => enrolment.current()?.token ?? enrolled.token,
        verify: (token, peerKey) => {
          const trust = enrolment.current()?.trust ?? enrolled.trust;
          return verifyMembership(token, { trust, issuer, group: 'gateway', peerKey }, { clock: enrolment.clock });
        },
        hello: { ...deps.hello, ...(replaces === undefined ? {} : { replaces }) },
      },
      { signal },
    );
    if (!leg.isOpen) throw new LegClosedError('lost', 'remote');
    return leg;
  };
};

const hostOf = (text: string): string => {
  try {
    return parseHostPort(text).host;
  } catch {
    return text;
  }
};
