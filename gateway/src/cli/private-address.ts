/** Whether a peer is in a network of one's own, or comes over the internet. */
import { BlockList, isIPv6 } from 'node:net';
import { unmapIPv4 } from '../../../shared/src/transport/address.ts';

/** IANA special-purpose address registries (RFC 6890), as far as somebody's machines have such addresses. */
const PRIVATE_NETWORKS = [
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
  ['::1', 128],
  ['fc00::', 7],
  ['fe80::', 10],
] as const;

export const isPrivateAddress = (address: string): boolean => {
  const plain = unmapIPv4(address.replace(/%.*$/, ''));
  const networks = new BlockList();
  for (const [network, bits] of PRIVATE_NETWORKS) networks.addSubnet(network, bits, isIPv6(network) ? 'ipv6' : 'ipv4');
  return networks.check(plain, isIPv6(plain) ? 'ipv6' : 'ipv4');
};
