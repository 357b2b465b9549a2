/**
 * Whose client it is when a proxy of the operator's stands in front (`trustedProxies`). Pure, but for the list itself.
 * What anybody else says in X-Forwarded-* is removed on the way to the upstream, as everywhere.
 */
import { BlockList, isIP } from 'node:net';
import { canonicalAddress, plainAddress } from './client-address.ts';

/**
 * Proxies in a row that are looked through. A content network, a load balancer and an ingress are three. Beyond: the
 * last one looked at counts as the client.
 */
const MAX_FORWARDED_HOPS = 16;

export interface TrustedProxies {
  has(address: string): boolean;
  /**
   * The client of a request that came from the trusted `peer`: the last address of X-Forwarded-For that is not a
   * trusted proxy's, since everything in front of it was written by whoever has that address.
   */
  clientOf(rawHeaders: readonly string[], peer: string): string;
}

/** The members of a list field, over all of its lines (RFC 9110 section 5.3). */
const membersOf = (rawHeaders: readonly string[], name: string): string[] => {
  const members: string[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (rawHeaders[index]?.toLowerCase() !== name) continue;
    for (const member of (rawHeaders[index + 1] ?? '').split(',')) members.push(member.trim());
  }
  return members;
};

/** Some proxies write the port too: `192.0.2.1:4711`, `[2001:db8::1]:4711`. Undefined for what is no address. */
const addressOf = (member: string): string | undefined => {
  const [, bracketed, plain = member] = /^(?:\[([^\]]*)\](?::\d+)?|([\d.]+):\d+)$/.exec(member) ?? [];
  const address = plainAddress(bracketed ?? plain);
  return isIP(address) === 0 ? undefined : canonicalAddress(address);
};

const listOf = (networks: readonly string[]): BlockList => {
  const list = new BlockList();
  for (const network of networks) {
    const [address = '', prefix] = network.split('/');
    const family = isIP(address) === 4 ? 'ipv4' : 'ipv6';
    if (prefix === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(prefix), family);
  }
  return list;
};

/** `networks`: addresses and CIDR, valid as the configuration has them. */
export const createTrustedProxies = (networks: readonly string[]): TrustedProxies => {
  const list = listOf(networks);
  const has = (address: string): boolean => {
    const family = isIP(address);
    return family !== 0 && list.check(address, family === 4 ? 'ipv4' : 'ipv6');
  };
  return {
    has: networks.length === 0 ? () => false : has,
    clientOf(rawHeaders, peer) {
      let client = peer;
      for (const member of membersOf(rawHeaders, 'x-forwarded-for').slice(-MAX_FORWARDED_HOPS).reverse()) {
        const address = addressOf(member);
        if (address === undefined) break;
        client = address;
        if (!has(address)) break;
      }
      return client;
    },
  };
};

/** Whether a trusted proxy says that the client spoke TLS. Of several proxies in a row all have to. */
export const isForwardedHttps = (rawHeaders: readonly string[]): boolean => {
  const schemes = membersOf(rawHeaders, 'x-forwarded-proto');
  return schemes.length > 0 && schemes.every((scheme) => scheme.toLowerCase() === 'https');
};
