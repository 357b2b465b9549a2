/** What runners are told of this gateway: where it is dialled, and what it is called. */
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import type { GatewayConfig, ListenAddress } from '../config.ts';

/** Addresses that a list of gateways carries for each transport; further ones are not told. */
const MAX_TOLD_ADDRESSES = 16;

const told = (addresses: readonly string[]): string[] => [...new Set(addresses)].slice(0, MAX_TOLD_ADDRESSES);

export const ownAddress = (
  config: Pick<GatewayConfig, 'domains' | 'publicPort' | 'advertise' | 'name' | 'region'>,
  own: {
    readonly id: string;
    readonly publicKey: Uint8Array;
    readonly quic: readonly ListenAddress[];
    readonly https: readonly ListenAddress[];
  },
): GatewayAddress => {
  const { advertise, name, region, publicPort } = config;
  const domain = config.domains[0] ?? '';
  const quic = own.quic.map(({ port }) => formatHostPort(`api.${domain}`, port));
  // Behind a load balancer the ports of the listeners are nobody's business.
  const ports = publicPort === undefined ? own.https.map(({ port }) => port) : [publicPort];
  const tcp = ports.map((port) => formatHostPort(`tunnel.${domain}`, port));
  return {
    id: own.id,
    ...(name === undefined ? {} : { name }),
    ...(region === undefined ? {} : { region }),
    domain,
    // Where nothing listens (no QUIC on this machine), nobody is sent.
    quic: told(advertise.quic.length > 0 && quic.length > 0 ? advertise.quic : quic),
    tcp: told(advertise.tcp.length > 0 ? advertise.tcp : tcp),
    keys: [Buffer.from(own.publicKey).toString('base64url')],
  };
};
