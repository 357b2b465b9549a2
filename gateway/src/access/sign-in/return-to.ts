/**
 * Where a visitor goes back to after the sign-in: a page on a port host of this gateway, and nothing else.
 *
 *     return-to = "https://" port-host [":" port] path       port-host: edge/host-router.ts; port: one of the gateway's
 *     path      = "/" *VCHAR                                 as the browser sent it; no fragment; no "\" before the query
 *
 *     https://3000--demo.gateway.example:8443/a?b=c
 *
 * Nothing is decoded, resolved or corrected: what is not exactly of this form is refused. So there is no second reading
 * of it that a browser could have.
 */
import { parseHost } from '../../edge/host-router.ts';

/** Characters of a return address. It stands in cookies and codes of 4 KiB. Beyond, the query is left out, then the path; longer ones are refused. */
export const MAX_RETURN_TO_LENGTH = 1_536;

export interface ReturnTo {
  readonly environmentId: string;
  readonly port: number;
  /** The "s" of the port host. */
  readonly tls: boolean;
  /** `https://3000--demo.gateway.example:8443` */
  readonly origin: string;
  /** Begins with a slash; with the query. */
  readonly path: string;
}

export interface ReturnToPlaces {
  readonly domain: string;
  /** Ports at which browsers reach the gateway. */
  readonly ports: Pick<ReadonlySet<number>, 'has'>;
}

/** RFC 9110 section 4.2.2. */
const HTTPS_PORT = 443;
const FORM = /^(https:\/\/([a-z0-9.-]+(?::[0-9]{1,5})?))(\/[!-"$-~]*)$/;

export const parseReturnTo = (text: string, { domain, ports }: ReturnToPlaces): ReturnTo | undefined => {
  if (text.length > MAX_RETURN_TO_LENGTH) return undefined;
  const [, origin, authority, path] = FORM.exec(text) ?? [];
  if (origin === undefined || authority === undefined || path === undefined) return undefined;
  if (path.split('?', 1)[0]!.includes('\\')) return undefined;
  if (!authority.includes(':') && !ports.has(HTTPS_PORT)) return undefined;
  const route = parseHost(authority, { domains: [domain], ports });
  if (route.kind !== 'port') return undefined;
  const { environmentId, port, tls } = route;
  // The host router is generous with a trailing dot; a browser's cookies are not.
  return /\.(?::|$)/.test(authority) ? undefined : { environmentId, port, tls, origin, path };
};

/** The origin of a host, as browsers write it. */
export const originOf = (host: string, port: number): string =>
  `https://${host}${port === HTTPS_PORT ? '' : `:${port}`}`;

/** The address that a request asked for, shortened until it fits. */
export const returnToOf = (request: {
  readonly host: string;
  readonly authorityPort: number;
  readonly target: string;
}): string => {
  const origin = originOf(request.host, request.authorityPort);
  const [path = '/'] = request.target.split('?', 1);
  const fitting = [request.target, path].find((target) => origin.length + target.length <= MAX_RETURN_TO_LENGTH);
  return origin + (fitting ?? '/');
};
