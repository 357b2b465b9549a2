/**
 * Takes connections of any transport and makes legs of them: caps on what has not shown who it is, the handshake, and
 * who may have a leg. What comes out is in the registry.
 */
import { isIPv6 } from 'node:net';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, LegClosedError, RefusedError, TransportError } from '../../../shared/src/errors.ts';
import type { JsonWebKeySet } from '../../../shared/src/identity/enrolment.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import { readIssuer, verifyMembership, type Membership } from '../../../shared/src/identity/membership.ts';
import { createBulkTurns } from '../../../shared/src/protocol/bulk-turns.ts';
import { acceptLeg } from '../../../shared/src/protocol/handshake.ts';
import type { GatewayAddress, MessageOf } from '../../../shared/src/protocol/messages.ts';
import { parseHostPort, unmapIPv4 } from '../../../shared/src/transport/address.ts';
import type { Connection } from '../../../shared/src/transport/connection.ts';
import type { Directory } from '../directory/directory.ts';
import type { GatewayLimits } from '../limits.ts';
import type { Logger } from '../observability/log.ts';
import type { OwnMembership } from './own-membership.ts';
import type { TunnelRegistry } from './registry.ts';

export interface AcceptorDeps {
  readonly directory: Directory;
  readonly registry: TunnelRegistry;
  readonly membership: OwnMembership;
  readonly clock: Clock;
  readonly log: Logger;
  readonly limits: GatewayLimits;
  /** Gateways that runners may dial, as they are told in `welcome`. */
  readonly gateways: () => readonly GatewayAddress[];
  /** Another authority whose memberships of runners count. */
  readonly otherAuthority?: {
    readonly issuer: string;
    readonly audience: string;
    readonly claims: { readonly subject: string; readonly groups: string };
    /** Those of the cluster itself do not. */
    readonly only: boolean;
    readonly trust: (keyId: string | undefined) => Promise<JsonWebKeySet>;
  };
  /** Whether runners of an organization may come through a proxy that inspects TLS. Absent: they may. */
  readonly mayBeInspected?: (organization: string) => boolean;
}

export interface Acceptor {
  /** For the `onConnection` of a transport. */
  accept(connection: Connection): void;
  stats(): { readonly unauthenticated: number; readonly turnedAway: number };
  /** Ends the handshakes under way and takes no more. Resolves when they are over. */
  close(): Promise<void>;
}

/**
 * One line for connections turned away by a cap, at most so often, ms: a flood must not fill the log. What was not
 * logged is in the next line's number and in the metrics.
 */
const TURNED_AWAY_LOG_MS = 10_000;

/** Handshakes under way may still end for so long when the gateway closes, ms: several round trips. Then they are cut. */
const CLOSE_GRACE_MS = 250;
/** How long the authority's keys are taken from memory, ms, unless they change: which of them counts follows from the time. */
const TRUST_MEMORY_MS = 10_000;

/** A membership of another authority under a key that is not known comes again after this, ms: its keys are asked for as often. */
const OTHER_KEY_RETRY_MS = 30_000;

interface Trust {
  readonly trust: JsonWebKeySet;
  readonly issuer: string;
}

/** Who counts as one address: an IPv4 address, or the /64 of an IPv6 one, of which anybody has the whole. */
export const addressGroup = (remoteAddress: string): string => {
  const host = unmapIPv4(parseHostPort(remoteAddress).host);
  if (!isIPv6(host)) return host;
  const [head = '', tail] = host.split('%')[0]!.toLowerCase().split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    // An IPv4 address at the end stands for two groups (RFC 4291 section 2.2).
    const rest = tail === '' ? [] : tail.split(':');
    const restGroups = rest.length + (rest.at(-1)?.includes('.') ? 1 : 0);
    while (groups.length < 8 - restGroups) groups.push('0');
    groups.push(...rest);
  }
  return `${groups
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ''))
    .join(':')}::/64`;
};

/**
 * The keys to trust, read anew when {@link TRUST_MEMORY_MS} have passed or they have changed; while the directory is
 * away, those of before.
 */
const createTrust = (directory: Directory, clock: Clock): { get(): Promise<Trust>; close(): void } => {
  let known: Trust | undefined;
  let readAt = -Infinity;
  const unwatch = directory.watch(({ kind }) => {
    if (kind === 'keys' || kind === 'all') readAt = -Infinity;
  });
  return {
    async get() {
      if (known && clock.monotonic() - readAt < TRUST_MEMORY_MS) return known;
      try {
        readAt = clock.monotonic();
        const { trust, issuer } = await directory.authority();
        known = { trust, issuer };
      } catch (error) {
        readAt = -Infinity;
        if (!known) throw new RefusedError('unavailable', { cause: error });
      }
      return known;
    },
    close: unwatch,
  };
};

/** Checks the membership of a runner, of whoever it says that has signed it. */
const verifyRunner = async (
  token: string,
  peerKey: Uint8Array,
  deps: Pick<AcceptorDeps, 'clock' | 'otherAuthority'>,
  own: Trust,
): Promise<Membership> => {
  const { otherAuthority: other, clock } = deps;
  const { issuer, keyId } = readIssuer(token);
  if (!other || issuer !== other.issuer) {
    if (other?.only) throw new RefusedError('membership_invalid', { detail: `runners here come from ${other.issuer}` });
    return verifyMembership(token, { ...own, group: 'runner', peerKey }, { clock });
  }
  const trust = await other.trust(keyId);
  if (keyId !== undefined && !trust.keys.some((key) => key['kid'] === keyId)) {
    // It may be so new that it could not be asked for yet.
    throw new RefusedError('unavailable', {
      detail: `${other.issuer} has not published the key of this membership`,
      retryAfterMs: OTHER_KEY_RETRY_MS,
    });
  }
  return verifyMembership(token, { trust, issuer, group: 'runner', peerKey, other }, { clock });
};

export const createAcceptor = (deps: AcceptorDeps): Acceptor => {
  const { directory, registry, membership, clock, log, limits } = deps;
  const currentTrust = createTrust(directory, clock);
  const bulkTurns = createBulkTurns();
  const perAddress = new Map<string, number>();
  const running = new Set<Promise<void>>();
  const ended = new AbortController();
  let isClosed = false;
  let turnedAway = 0;
  let turnedAwayLogged = 0;
  let lastTurnedAwayLog = -Infinity;

  const turnAway = (connection: Connection, cap: string): void => {
    turnedAway += 1;
    connection.close();
    const now = clock.monotonic();
    if (now - lastTurnedAwayLog < TURNED_AWAY_LOG_MS) return;
    lastTurnedAwayLog = now;
    const count = turnedAway - turnedAwayLogged;
    turnedAwayLogged = turnedAway;
    log.warn({ remoteAddress: connection.remoteAddress, cap, count }, 'connections turned away before the handshake');
  };

  /** The claims of a refused peer are not trusted; they tell an operator whom to ask. */
  const logRefusal = (connection: Connection, error: unknown, who: { runnerId?: string; agent?: string }): void => {
    const fields = {
      ...who,
      transport: connection.transport,
      remoteAddress: connection.remoteAddress,
      keyFingerprint: connection.peerKey && keyFingerprint(connection.peerKey),
    };
    if (error instanceof RefusedError) {
      // `draining` is what a gateway that goes away says to everybody.
      const level = error.code === 'draining' ? 'info' : 'warn';
      log[level]({ ...fields, code: error.code, reason: describeError(error) }, 'leg refused');
    } else if (error instanceof TransportError || error instanceof LegClosedError) {
      log.info({ ...fields, reason: describeError(error) }, 'handshake not finished');
    } else {
      log.warn({ ...fields, reason: describeError(error) }, 'handshake failed');
    }
  };

  const handshake = async (connection: Connection): Promise<void> => {
    const who: { runnerId?: string; agent?: string } = {};
    let trust: JsonWebKeySet | undefined;
    try {
      const leg = await acceptLeg(
        connection,
        {
          clock,
          membership: () => membership.token(),
          async verify(token, peerKey) {
            const authority = await currentTrust.get();
            ({ trust } = authority);
            const peer = await verifyRunner(token, peerKey, deps, authority);
            who.runnerId = peer.id;
            return peer;
          },
          sign: (message) => membership.sign(message),
          admit(peer, hello: MessageOf<'hello'>, { inspected }) {
            who.agent = hello.agent;
            const { organization } = peer;
            if (inspected && organization !== undefined && deps.mayBeInspected?.(organization) === false) {
              throw new RefusedError('inspected_tls');
            }
            return registry.admit(peer);
          },
          welcome: () => ({
            gatewayId: membership.gatewayId,
            gateways: [...deps.gateways()],
            ...(trust ? { trust } : {}),
          }),
          bulkTurns,
          limits: { streamsPerLeg: limits.streamsPerLeg, helloTimeoutMs: limits.helloTimeoutMs },
        },
        { signal: ended.signal },
      );
      registry.add(leg);
    } catch (error) {
      logRefusal(connection, error, who);
    }
  };

  return {
    accept(connection) {
      if (isClosed) return connection.close();
      const group = addressGroup(connection.remoteAddress);
      const count = perAddress.get(group) ?? 0;
      if (running.size >= limits.unauthenticatedLegs) return turnAway(connection, 'unauthenticatedLegs');
      if (count >= limits.unauthenticatedLegsPerAddress) return turnAway(connection, 'unauthenticatedLegsPerAddress');
      perAddress.set(group, count + 1);
      const run = handshake(connection).finally(() => {
        running.delete(run);
        const rest = (perAddress.get(group) ?? 1) - 1;
        if (rest === 0) perAddress.delete(group);
        else perAddress.set(group, rest);
      });
      running.add(run);
    },
    stats: () => ({ unauthenticated: running.size, turnedAway }),
    async close() {
      isClosed = true;
      currentTrust.close();
      // Those that are nearly done get a leg, on which the registry says goodbye with the reason.
      const cancel = clock.timer(CLOSE_GRACE_MS, () => ended.abort(new RefusedError('draining')));
      await Promise.all(running);
      cancel();
    },
  };
};
