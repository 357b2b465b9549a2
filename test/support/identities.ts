/** Keys and memberships of a made-up cluster, signed for real. */
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { createKey, publicKeyToJwk, type IdentityKey } from '../../shared/src/identity/keys.ts';
import {
  signMembership,
  verifyMembership,
  type Authority,
  type Membership,
} from '../../shared/src/identity/membership.ts';
import type { JsonWebKeySet } from '../../shared/src/identity/enrolment.ts';

export interface TestParty {
  readonly key: IdentityKey;
  readonly membership: string;
  /** Checks what the other side shows. */
  verify(token: string, peerKey: Uint8Array): Promise<Membership>;
}

export interface TestCluster {
  readonly authority: Authority;
  readonly trust: JsonWebKeySet;
  runner(id?: string): Promise<TestParty>;
  gateway(id?: string): Promise<TestParty>;
}

export const createTestCluster = (clock: Clock = systemClock): TestCluster => {
  const authority: Authority = { keyId: 'test', key: createKey(), issuer: 'https://api.test' };
  const trust: JsonWebKeySet = {
    keys: [{ ...publicKeyToJwk(authority.key.publicKey), kid: authority.keyId, alg: 'EdDSA' }],
  };
  const party = async (group: 'runner' | 'gateway', id: string): Promise<TestParty> => {
    const key = createKey();
    const organization = group === 'runner' ? 'acme' : undefined;
    const membership = await signMembership(
      authority,
      { id, organization, group, publicKey: key.publicKey },
      { clock },
    );
    const expected = group === 'runner' ? 'gateway' : 'runner';
    return {
      key,
      membership,
      verify: (token, peerKey) =>
        verifyMembership(token, { trust, issuer: authority.issuer, group: expected, peerKey }, { clock }),
    };
  };
  return {
    authority,
    trust,
    runner: (id = 'runner-1') => party('runner', id),
    gateway: (id = 'gateway-1') => party('gateway', id),
  };
};
