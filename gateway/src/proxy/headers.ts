/**
 * What happens to header fields on their way to the upstream and back. Pure. Field lines are flat arrays, name and
 * value alternating, in the order and case of the wire; values are byte strings (latin1).
 */
import { isIPv6 } from 'node:net';
import { isPortAuthorization, PORT_TOKEN_HEADER, protocolsForUpstream } from '../access/credentials.ts';
import { validTraceParent } from './trace-parent.ts';

/**
 * Fields that belong to one connection (RFC 9110 section 7.6.1), with what HTTP/1.1 once used for the same. `Expect` is
 * answered by the gateway, `HTTP2-Settings` would ask for h2c.
 */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
  'proxy-authenticate',
  'proxy-authorization',
  'expect',
]);
/** A `Connection` field cannot remove these: they frame and route the message. */
const NEVER_HOP_BY_HOP: ReadonlySet<string> = new Set(['host', 'content-length']);
/** Fields of a trailer section that would change what was decided on the head (RFC 9110 section 6.5.1). */
const NEVER_IN_TRAILERS: ReadonlySet<string> = new Set([
  'host',
  'content-length',
  'content-encoding',
  'content-type',
  'content-range',
  'trailer',
  'authorization',
  'cookie',
  'set-cookie',
  'origin',
  'forwarded',
]);

/** Header names that only the gateway uses; never accepted from clients, never returned to them. */
export const INTERNAL_PREFIX = 'gitpod-gateway-';
/** Which port hosts a request has passed: `3000--demo, 8080--demo`. An application that proxies passes it on. */
export const HOPS_HEADER = `${INTERNAL_PREFIX}hops`;
/** Cookies of the gateway on port hosts. Case does not matter to browsers in `__Host-`. */
const GATEWAY_COOKIE = /^__host-gitpod_/i;
/** Longest chain of applications that call each other through the gateway. Beyond: 508. */
export const MAX_HOPS = 8;

/** Servers behind CGI and WSGI cannot tell `_` from `-` in names: both spellings are one field. `lower`: in lower case. */
const canonical = (lower: string): string => (lower.includes('_') ? lower.replaceAll('_', '-') : lower);

/** Fields that the gateway sets or reads itself, in any spelling. `Proxy` would become HTTP_PROXY behind CGI. */
const isSetByGateway = (name: string): boolean =>
  name.startsWith('x-forwarded') ||
  name === 'forwarded' ||
  name === 'x-real-ip' ||
  name === 'x-request-id' ||
  name === 'proxy' ||
  name === PORT_TOKEN_HEADER ||
  name.startsWith(INTERNAL_PREFIX);

const listTokens = (value: string): string[] =>
  value
    .split(',')
    .map((token) => token.trim().toLowerCase())
    .filter((token) => token !== '');

const NO_NAMES: ReadonlySet<string> = new Set();

/** Lower-case names that the `Connection` lines of a message list. */
const namedByConnection = (lines: readonly string[]): ReadonlySet<string> => {
  let names: Set<string> | undefined;
  for (let index = 0; index < lines.length; index += 2) {
    if (lines[index]!.length !== 'connection'.length || lines[index]!.toLowerCase() !== 'connection') continue;
    for (const token of listTokens(lines[index + 1]!))
      if (!NEVER_HOP_BY_HOP.has(token)) (names ??= new Set()).add(token);
  }
  return names ?? NO_NAMES;
};

/** The values of a field, one per line. */
export const fieldValues = (lines: readonly string[], name: string): string[] => {
  const values: string[] = [];
  for (let index = 0; index < lines.length; index += 2) {
    if (lines[index]!.length === name.length && lines[index]!.toLowerCase() === name) values.push(lines[index + 1]!);
  }
  return values;
};

/** Whether the comma-separated list of a field has `token`. */
export const hasToken = (lines: readonly string[], name: string, token: string): boolean =>
  fieldValues(lines, name).some((value) =>
    // `TE` may carry weights, `trailers;q=0.5`.
    listTokens(value).some((entry) => entry.split(';', 1)[0]!.trim() === token),
  );

/** The port hosts that the request has passed. What is not such a label is ignored. */
export const passedHops = (lines: readonly string[]): string[] =>
  fieldValues(lines, HOPS_HEADER)
    .flatMap(listTokens)
    .filter((label) => /^\d{1,5}--[a-z0-9-]{1,50}$/.test(label));

/**
 * Removes the gateway's cookies and joins several lines to one, as HTTP/2 clients split them (RFC 9113 section 8.2.3).
 * Everything else stays byte for byte. Undefined when nothing is left.
 */
export const cookiesForUpstream = (values: readonly string[]): string | undefined => {
  const joined = values.join('; ');
  if (!/__host-gitpod_/i.test(joined)) return joined === '' ? undefined : joined;
  const all = joined.split(';');
  const kept = all.filter((pair) => !GATEWAY_COOKIE.test(pair.trimStart()));
  if (kept.length === all.length) return joined;
  const rest = kept.join(';');
  // The space behind the semicolon belonged to the cookie in front.
  const text = kept[0] === all[0] ? rest : rest.trimStart();
  return text === '' ? undefined : text;
};

/** Writes an address for `for=` (RFC 7239 section 6): IPv6 in brackets and quotes. */
const forwardedNode = (address: string): string => (isIPv6(address) ? `"[${address}]"` : address);
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const forwardedValue = (text: string): string => (TOKEN.test(text) ? text : `"${text.replaceAll(/["\\]/g, '\\$&')}"`);

/** `::ffff:192.0.2.1` is 192.0.2.1 for everybody but the socket; a zone means nothing elsewhere. */
const plainAddress = (address: string): string => {
  const bare = address.split('%', 1)[0]!;
  return /^::ffff:\d+\.\d+\.\d+\.\d+$/i.test(bare) ? bare.slice(7) : bare;
};

/** How the gateway speaks to an upstream whose port says `hostHeader: local`. */
export interface LocalHost {
  readonly port: number;
  readonly tls: boolean;
}
const localAuthority = ({ port }: LocalHost): string => `localhost:${port}`;
const localOrigin = (local: LocalHost): string => `${local.tls ? 'https' : 'http'}://${localAuthority(local)}`;

export interface RequestSource {
  readonly rawHeaders: readonly string[];
  readonly requestId: string;
  readonly authority: string;
  readonly authorityPort: number;
  readonly clientAddress: string;
}
export interface RequestOptions {
  /** Label of the port host that is asked, `3000--demo`. */
  readonly hop: string;
  readonly upgrade?: boolean;
  readonly local?: LocalHost | undefined;
  /** Sent instead of the client's or a made one: the gateway is itself part of the trace. */
  readonly traceParent?: string | undefined;
}
export interface UpstreamHead {
  readonly headers: string[];
  readonly traceParent: string;
}

/** `Sec-WebSocket-*` in the case of RFC 6455: some servers compare it. */
const WEBSOCKET_NAMES: Readonly<Record<string, string>> = {
  'sec-websocket-key': 'Sec-WebSocket-Key',
  'sec-websocket-version': 'Sec-WebSocket-Version',
  'sec-websocket-protocol': 'Sec-WebSocket-Protocol',
  'sec-websocket-extensions': 'Sec-WebSocket-Extensions',
  'sec-websocket-accept': 'Sec-WebSocket-Accept',
};

/**
 * The field lines for the upstream. First what belongs to the client's connection goes, with what its `Connection`
 * names; then the client's copies of what the gateway sets; then those are set, once.
 */
export const requestHeaders = (source: RequestSource, options: RequestOptions): UpstreamHead => {
  const lines = source.rawHeaders;
  const named = namedByConnection(lines);
  const headers: string[] = [];
  const host = options.local ? localAuthority(options.local) : source.authority;
  const cookies: string[] = [];
  const traceParents: string[] = [];
  const traceStates: string[] = [];
  let cookieIndex = -1;
  let acceptsTrailers = false;
  let hasHost = false;
  for (let index = 0; index < lines.length; index += 2) {
    const name = lines[index]!;
    const value = lines[index + 1]!;
    const lower = name.toLowerCase();
    if (lower === 'te' && listTokens(value).some((token) => token.split(';', 1)[0]!.trim() === 'trailers')) {
      acceptsTrailers = true;
    }
    // Where the client put it, and once.
    if (lower === 'host' && !hasHost) {
      hasHost = true;
      headers.push(name, host);
    }
    if (lower === 'host' || HOP_BY_HOP.has(lower) || named.has(lower)) continue;
    const canonicalName = canonical(lower);
    if (isSetByGateway(canonicalName)) continue;
    // A token of the gateway in a field that applications use too; theirs go on untouched.
    if (lower === 'authorization' && isPortAuthorization(value)) continue;
    if (canonicalName === 'traceparent') traceParents.push(value);
    else if (canonicalName === 'tracestate') traceStates.push(value);
    else if (lower === 'cookie') {
      if (cookieIndex < 0) cookieIndex = headers.push(name, '') - 1;
      cookies.push(value);
    } else if (options.local && lower === 'origin' && value === `https://${source.authority}`) {
      headers.push(name, localOrigin(options.local));
    } else if (options.upgrade && lower === 'sec-websocket-protocol') {
      const protocols = protocolsForUpstream(value);
      if (protocols !== undefined) headers.push('Sec-WebSocket-Protocol', protocols);
    } else headers.push(options.upgrade ? (WEBSOCKET_NAMES[lower] ?? name) : name, value);
  }
  if (!hasHost) {
    headers.unshift('Host', host);
    if (cookieIndex >= 0) cookieIndex += 2;
  }
  if (cookieIndex >= 0) {
    const cookie = cookiesForUpstream(cookies);
    if (cookie === undefined) headers.splice(cookieIndex - 1, 2);
    else headers[cookieIndex] = cookie;
  }
  if (acceptsTrailers && !options.upgrade) headers.push('TE', 'trailers');
  const kept = validTraceParent(traceParents);
  const traceParent = options.traceParent ?? kept ?? `00-${source.requestId}-${source.requestId.slice(-16)}-00`;
  const address = plainAddress(source.clientAddress);
  headers.push('X-Forwarded-For', address);
  headers.push('X-Forwarded-Host', source.authority);
  headers.push('X-Forwarded-Proto', 'https');
  headers.push('X-Forwarded-Port', String(source.authorityPort));
  headers.push('Forwarded', `for=${forwardedNode(address)};host=${forwardedValue(source.authority)};proto=https`);
  headers.push('X-Request-Id', source.requestId);
  headers.push('traceparent', traceParent);
  // Without the parent that it belongs to, a trace state means nothing.
  if (kept && traceStates.length > 0) headers.push('tracestate', traceStates.join(','));
  headers.push(HOPS_HEADER, [...passedHops(lines), options.hop].join(', '));
  return { headers, traceParent };
};

export interface ResponseOptions {
  /** Public host name, without port: what `Domain` of cookies is judged by. */
  readonly host: string;
  /** Public authority, for `Location`. */
  readonly authority: string;
  readonly local?: LocalHost | undefined;
  /** The head of a 101: `Connection: Upgrade` and the protocol are written anew. */
  readonly upgrade?: boolean;
  /** Search engines are told to pass over the answer. */
  readonly noindex?: boolean;
}

const cookieDomain = (attribute: string): string | undefined => {
  const match = /^\s*domain\s*=(.*)$/i.exec(attribute);
  return match ? match[1]!.trim().toLowerCase().replace(/^\./, '').replace(/\.$/, '') : undefined;
};

/**
 * A `Set-Cookie` of an application, without a `Domain` that covers other hosts of the gateway (siblings belong to
 * somebody else); undefined for a cookie of the gateway's own name.
 */
export const setCookieForClient = (value: string, host: string, local?: LocalHost): string | undefined => {
  if (GATEWAY_COOKIE.test(value.trimStart())) return undefined;
  if (!/domain/i.test(value)) return value;
  const [pair, ...attributes] = value.split(';');
  const kept = attributes.filter((attribute) => {
    const domain = cookieDomain(attribute);
    if (domain === undefined || domain === '') return true;
    if (local && domain === 'localhost') return false;
    return domain === host || !host.endsWith(`.${domain}`);
  });
  return [pair, ...kept].join(';');
};

/** What an application that believes to be at localhost redirects to, mapped back to the public host. */
export const locationForClient = (value: string, authority: string, local: LocalHost): string => {
  const match = /^(?:https?:)?\/\/(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]):(\d+)(?=[/?#]|$)/i.exec(value);
  return match && Number(match[1]) === local.port ? `https://${authority}${value.slice(match[0].length)}` : value;
};

const isNeverReturned = (name: string): boolean => name === 'gateway-error' || name.startsWith(INTERNAL_PREFIX);

/** The field lines of an upstream's response (or interim response) for the client. */
export const responseHeaders = (lines: readonly string[], options: ResponseOptions): string[] => {
  const named = namedByConnection(lines);
  const headers: string[] = [];
  for (let index = 0; index < lines.length; index += 2) {
    const name = lines[index]!;
    const value = lines[index + 1]!;
    const lower = name.toLowerCase();
    if (HOP_BY_HOP.has(lower) || named.has(lower) || isNeverReturned(canonical(lower))) continue;
    if (lower === 'set-cookie') {
      const cookie = setCookieForClient(value, options.host, options.local);
      if (cookie !== undefined) headers.push(name, cookie);
    } else if (options.local && lower === 'location') {
      headers.push(name, locationForClient(value, options.authority, options.local));
    } else headers.push(options.upgrade ? (WEBSOCKET_NAMES[lower] ?? name) : name, value);
  }
  if (options.noindex) headers.push('X-Robots-Tag', 'noindex');
  if (options.upgrade) headers.push('Connection', 'Upgrade', 'Upgrade', 'websocket');
  return headers;
};

/** Trailer fields that may be passed on, in either direction. */
export const trailerFields = (lines: readonly string[]): string[] => {
  const fields: string[] = [];
  for (let index = 0; index < lines.length; index += 2) {
    const lower = canonical(lines[index]!.toLowerCase());
    if (HOP_BY_HOP.has(lower) || NEVER_IN_TRAILERS.has(lower)) continue;
    if (isSetByGateway(lower) || isNeverReturned(lower)) continue;
    fields.push(lines[index]!, lines[index + 1]!);
  }
  return fields;
};
