/** Makes a leg to a gateway over one transport: the connection, then the handshake. It comes up on standby. */
import type { Clock } from '../../shared/src/clock.ts';
import { LegClosedError, RefusedError } from '../../shared/src/errors.ts';
import { verifyMembership } from '../../shared/src/identity/membership.ts';
import { createBulkTurns } from '../../shared/src/protocol/bulk-turns.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { Enrolment } from './enrolment.ts';
import type { Connect } from './quic-connector.ts';
import type { Transport } from './transport.ts';

export interface LegDialerDeps {
  readonly clock: Clock;
  readonly connectors: Readonly<Record<Transport, Connect>>;
  readonly enrolment: Pick<Enrolment, 'current' | 'clock'>;
  /** Signs with the runner's key. */
  readonly sign: (message: Uint8Array) => Uint8Array;
  readonly hello: { readonly instance: string; readonly instanceStartedAt: number; readonly agent: string };
}

/** The leg takes no streams until it is sent `activate`. Whoever gets it attaches to it, or closes it. */
export type DialLeg = (
  gateway: GatewayAddress,
  transport: Transport,
  options: { readonly signal: AbortSignal; readonly replaces?: string },
) => Promise<Leg>;

export const createLegDialer = (deps: LegDialerDeps): DialLeg => {
  const { clock, connectors, enrolment } = deps;
  const bulkTurns = createBulkTurns();
  return async (gateway, transport, { signal, replaces }) => {
    const enrolled = enrolment.current();
    if (!enrolled) throw new RefusedError('membership_expired');
    const { issuer } = enrolled;
    const connection = await connectors[transport](gateway, { signal });
    const leg = await dialLeg(
      connection,
      {
        clock,
        membership: () => enrolment.current()?.token ?? enrolled.token,
        sign: deps.sign,
        verify: (token, peerKey) => {
          const trust = enrolment.current()?.trust ?? enrolled.trust;
          return verifyMembership(token, { trust, issuer, group: 'gateway', peerKey }, { clock: enrolment.clock });
        },
        bulkTurns,
        hello: { ...deps.hello, features: ['standby'], ...(replaces === undefined ? {} : { replaces }) },
      },
      { signal },
    );
    if (!leg.isOpen) throw new LegClosedError('lost', 'remote');
    return leg;
  };
};
