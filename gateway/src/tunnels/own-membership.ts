/** The gateway's own membership: signed by the cluster's authority for the gateway's key, renewed from half-life on. */
import { createHash } from 'node:crypto';
import { decodeProtectedHeader } from 'jose';
import type { Clock } from '../../../shared/src/clock.ts';
import type { JsonWebKeySet } from '../../../shared/src/identity/enrolment.ts';
import { createSigner, type IdentityKey } from '../../../shared/src/identity/keys.ts';
import { readMembership, signMembership } from '../../../shared/src/identity/membership.ts';
import type { Directory } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';

/**
 * How often the wall clock is compared with the half-life, ms. A timer over half a day would not notice a clock that
 * was set, or a machine that slept.
 */
export const RENEWAL_CHECK_MS = 60_000;

export interface OwnMembership {
  readonly gatewayId: string;
  /** The membership as it is now. */
  token(): string;
  /** Signs with the key that the membership names. */
  sign(message: Uint8Array): Uint8Array;
  close(): void;
}

/** Follows from the key, so it survives restarts: `gw-` and 48 bits of the key's SHA-256. */
export const gatewayIdOf = (publicKey: Uint8Array): string =>
  `gw-${createHash('sha256').update(publicKey).digest('hex').slice(0, 12)}`;

export const createOwnMembership = async (deps: {
  readonly directory: Directory;
  readonly key: IdentityKey;
  readonly clock: Clock;
  readonly log: Logger;
}): Promise<OwnMembership> => {
  const { directory, key, clock, log } = deps;
  const gatewayId = gatewayIdOf(key.publicKey);
  const sign = createSigner(key);
  const isSignedBy = (trusted: JsonWebKeySet): boolean => {
    const { kid } = decodeProtectedHeader(token);
    return trusted.keys.some((each) => each['kid'] === kid);
  };
  const make = async (): Promise<string> => {
    const { current } = await directory.authority();
    return signMembership(
      current,
      { id: gatewayId, organization: undefined, group: 'gateway', publicKey: key.publicKey },
      { clock },
    );
  };

  let token = await make();
  let { issuedAt, expiresAt } = readMembership(token);
  /** The authority's keys may have changed: what signed the membership may not be accepted any more. */
  let isDoubtful = false;
  let isClosed = false;
  let cancel: () => void = () => {};

  const isDue = (): boolean => {
    const now = clock.now();
    // A clock that was set back makes the membership one of the future, which peers refuse.
    return now >= (issuedAt + expiresAt) / 2 || now < issuedAt - 1_000;
  };

  const check = async (): Promise<void> => {
    cancel();
    if (isDoubtful || isDue()) {
      try {
        if (isDoubtful) {
          isDoubtful = false;
          if (isSignedBy((await directory.authority()).trust) && !isDue()) return schedule();
        }
        token = await make();
        ({ issuedAt, expiresAt } = readMembership(token));
        log.info({ gatewayId, expiresAt: new Date(expiresAt).toISOString() }, 'own membership renewed');
      } catch (error) {
        isDoubtful = true;
        log.error({ err: error, gatewayId }, 'the own membership could not be renewed, it is tried again');
      }
    }
    schedule();
  };
  const schedule = (): void => {
    if (!isClosed) cancel = clock.timer(RENEWAL_CHECK_MS, () => void check());
  };
  schedule();
  const unwatch = directory.watch((change) => {
    if (change.kind !== 'all' && (change.kind !== 'keys' || change.use !== 'authority')) return;
    isDoubtful = true;
    void check();
  });

  return {
    gatewayId,
    token: () => token,
    sign,
    close() {
      isClosed = true;
      cancel();
      unwatch();
    },
  };
};
