/**
 * From the authority of a request to what it addresses, by the grammar of host names alone.
 *
 *     authority   = host [":" port]                         port: one that the gateway is reachable at, else bad_host
 *     host        = ( apex | port-host | log-host | runner-host | service ) ["."] | address
 *     apex        = <domain>                                gateway.example
 *     port-host   = <port>["s"]"--"<id>"."<domain>          3000--demo.gateway.example, 3000s--demo.gateway.example
 *     log-host    = "22999--"<id>"."<domain>                22999--demo.gateway.example
 *     runner-host = <id>"."<domain>                         my-runner.gateway.example
 *     service     = ( "api" | "tunnel" )"."<domain>         api.gateway.example
 *     address     = IPv4 | "[" IPv6 "]"                     192.0.2.1, [2001:db8::1]
 *
 * Case does not matter. Anchored at both ends: `demo.gateway.example.evil.test` is foreign. `<port>` and `<id>` are
 * those of shared/src/hostname.ts. What is not a host name at all is `bad_host`; a name below a domain that is none of
 * the above is `not_found`, deeper labels included; a name outside every domain is `misdirected`.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { isId, LOG_PORT, parsePort } from '../../../shared/src/hostname.ts';
import type { GatewayErrorCode } from '../errors.ts';

export type ServiceName = 'api' | 'tunnel';

export type HostRoute =
  | { readonly kind: 'apex'; readonly domain: string }
  | {
      readonly kind: 'port';
      readonly domain: string;
      readonly port: number;
      readonly tls: boolean;
      readonly environmentId: string;
    }
  | { readonly kind: 'logs'; readonly domain: string; readonly environmentId: string }
  | { readonly kind: 'runner'; readonly domain: string; readonly runnerId: string }
  | { readonly kind: 'service'; readonly domain: string; readonly service: ServiceName }
  | { readonly kind: 'address' }
  | { readonly kind: 'error'; readonly code: GatewayErrorCode };

export interface Authority {
  /** Lower-case, without the trailing dot; an IPv6 address keeps its brackets. */
  readonly host: string;
  readonly port: number | undefined;
  readonly isAddress: boolean;
}

/** RFC 1035 section 2.3.4. */
const MAX_NAME_LENGTH = 253;
/** RFC 1123 section 2.1; underscores are no part of host names. */
const NAME = /^(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*$/;
const HOST_AND_PORT = /^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,254})(?::([1-9][0-9]{0,4}))?$/;
const PORT_LABEL = /^([0-9]{1,5})(s?)--(.+)$/;

/** The parts of an authority, or undefined when it is none. User information and empty ports are none. */
export const parseAuthority = (text: string): Authority | undefined => {
  const match = HOST_AND_PORT.exec(text);
  if (!match?.[1]) return undefined;
  const port = match[2] === undefined ? undefined : Number(match[2]);
  if (port !== undefined && port > 65_535) return undefined;
  const name = match[1].toLowerCase();
  if (name.startsWith('[')) return isIPv6(name.slice(1, -1)) ? { host: name, port, isAddress: true } : undefined;
  const host = name.endsWith('.') ? name.slice(0, -1) : name;
  if (isIPv4(host)) return { host, port, isAddress: true };
  if (host.length > MAX_NAME_LENGTH || !NAME.test(host)) return undefined;
  return { host, port, isAddress: false };
};

/** The configured domain that `host` is or lies below; the longest, where domains lie in one another. */
const domainOf = (host: string, domains: readonly string[]): string | undefined => {
  let found: string | undefined;
  for (const domain of domains) {
    if ((host === domain || host.endsWith(`.${domain}`)) && domain.length > (found?.length ?? 0)) found = domain;
  }
  return found;
};

const error = (code: GatewayErrorCode): HostRoute => ({ kind: 'error', code });

const parsePortLabel = (digits: string, secure: boolean, id: string, domain: string): HostRoute => {
  const port = parsePort(digits);
  if (port === undefined || !isId(id)) return error('not_found');
  if (port !== LOG_PORT) return { kind: 'port', domain, port, tls: secure, environmentId: id };
  // The log server speaks plain HTTP through the tunnel, so that there is no "s" form of it.
  return secure ? error('not_found') : { kind: 'logs', domain, environmentId: id };
};

/** The route of a host name that {@link parseAuthority} has read. `domains` are lower-case, without trailing dots. */
const routeHost = ({ host, isAddress }: Authority, domains: readonly string[]): HostRoute => {
  if (isAddress) return { kind: 'address' };
  const domain = domainOf(host, domains);
  if (domain === undefined) return error('misdirected');
  if (host === domain) return { kind: 'apex', domain };
  const label = host.slice(0, -domain.length - 1);
  if (label === 'api' || label === 'tunnel') return { kind: 'service', domain, service: label };
  const match = PORT_LABEL.exec(label);
  if (match) return parsePortLabel(match[1] ?? '', match[2] === 's', match[3] ?? '', domain);
  return isId(label) ? { kind: 'runner', domain, runnerId: label } : error('not_found');
};

interface Reachable {
  readonly domains: readonly string[];
  readonly ports: Pick<ReadonlySet<number>, 'has'>;
}

/**
 * The route of an authority as a client sent it. `ports` are those at which clients reach the gateway. A bare address
 * may name any port: it is what health checks behind port mappings send.
 */
export const parseHost = (authority: string, reachable: Reachable): HostRoute => {
  const parsed = parseAuthority(authority);
  return parsed ? routeAuthority(parsed, reachable) : error('bad_host');
};

/** The same for one that was read before. */
export const routeAuthority = (parsed: Authority, { domains, ports }: Reachable): HostRoute => {
  if (!parsed.isAddress && parsed.port !== undefined && !ports.has(parsed.port)) {
    return error(domainOf(parsed.host, domains) === undefined ? 'misdirected' : 'bad_host');
  }
  return routeHost(parsed, domains);
};

/**
 * Whether a request for `route` may come over a connection whose TLS server name is `serverName`. Connections are
 * shared between the hosts of one wildcard certificate (RFC 9113 section 9.1.1), but a connection to the tunnel service
 * carries nothing else, and a name of another domain was not meant for this one (421 makes browsers connect anew).
 */
export const isServerNameFor = (
  serverName: string | undefined,
  route: Exclude<HostRoute, { kind: 'error' }>,
  domains: readonly string[],
): boolean => {
  if (!serverName) return true;
  const name = parseAuthority(serverName);
  if (!name || name.port !== undefined) return false;
  if (name.isAddress || route.kind === 'address') return name.isAddress || domainOf(name.host, domains) !== undefined;
  const domain = domainOf(name.host, domains);
  if (domain !== route.domain) return false;
  return name.host !== `tunnel.${domain}` || (route.kind === 'service' && route.service === 'tunnel');
};
