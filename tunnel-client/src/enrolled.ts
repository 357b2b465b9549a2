/** What a runner has when a gateway may be dialled: its membership, who signs for gateways, and where they are. */
import type { Clock } from '../../shared/src/clock.ts';
import type { JsonWebKeySet } from '../../shared/src/identity/enrolment.ts';
import type { Membership } from '../../shared/src/identity/membership.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';

/** A membership that ends sooner is not shown any more, ms: it must outlive the handshake. */
const MIN_REMAINING_MS = 5_000;

export interface Enrolled {
  /** JWT. */
  readonly token: string;
  readonly membership: Membership;
  readonly issuer: string;
  readonly trust: JsonWebKeySet;
  readonly gateways: readonly GatewayAddress[];
}

/** What an authenticated gateway tells of the cluster. */
export interface ClusterNews {
  readonly gateways?: readonly GatewayAddress[];
  readonly trust?: JsonWebKeySet;
}

/** Whether it may be shown to a gateway now. */
export const isShowable = (membership: Membership, clock: Clock): boolean =>
  membership.expiresAt - clock.now() > MIN_REMAINING_MS;

/** `enrolled` with the news; undefined when nothing is new. An empty list says nothing. */
export const withNews = (enrolled: Enrolled, { gateways, trust }: ClusterNews): Enrolled | undefined => {
  const next = {
    ...enrolled,
    ...(gateways && gateways.length > 0 ? { gateways } : {}),
    ...(trust && trust.keys.length > 0 ? { trust } : {}),
  };
  return JSON.stringify(next) === JSON.stringify(enrolled) ? undefined : next;
};
