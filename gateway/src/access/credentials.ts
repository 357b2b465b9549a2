/**
 * What of a request's field lines opens a private port, and what of them is the gateway's own and no application's
 * business. Pure; `lines` alternate name and value, as on the wire.
 *
 *     Authorization: Bearer <jwt>                        ours if the JWT says so by its type, else the application's
 *     X-Gitpod-Port-Token: <jwt>                         always ours
 *     Sec-WebSocket-Protocol: gitpod.port.v1, gitpod.token.<jwt>, …
 *     Cookie: __Host-gitpod_port_auth=<jwt>              the session of a visitor, see port-session.ts
 */
import { cookiesWith } from './cookies.ts';
import { PORT_COOKIE } from './port-session.ts';
import { readHeader } from './signing-keys.ts';
import { PORT_TOKEN_TYPE } from './tokens.ts';

export const PORT_TOKEN_HEADER = 'x-gitpod-port-token';
/** What browsers, which send no headers of choice with a WebSocket, name beside their token to be answered with it. */
export const PORT_PROTOCOL = 'gitpod.port.v1';
const TOKEN_PROTOCOL = 'gitpod.token.';

/** Anything in a value that may be the head of a JWT, with whatever behind it. */
const HEAD_LIKE = /[\w-]+(?=\.)/g;
const BEARER = /^bearer +([\w-]+\.[\w-]+\.[\w-]+) *$/i;

/** Names of fields are compared by length first: most are something else. */
const isNamed = (name: string, wanted: string): boolean =>
  name.length === wanted.length && name.toLowerCase() === wanted;

const valuesOf = (lines: readonly string[], name: string): string[] => {
  const values: string[] = [];
  for (let index = 0; index < lines.length; index += 2) {
    if (isNamed(lines[index]!, name)) values.push(lines[index + 1]!);
  }
  return values;
};

const isPortToken = (jwt: string): boolean => {
  try {
    return readHeader(jwt).typ === PORT_TOKEN_TYPE;
  } catch {
    return false;
  }
};

/** Whether the value of an `Authorization` has one of our tokens in it, well-formed or not. */
export const isPortAuthorization = (value: string): boolean => (value.match(HEAD_LIKE) ?? []).some(isPortToken);

const protocolsOf = (value: string): string[] =>
  value
    .split(',')
    .map((protocol) => protocol.trim())
    .filter((protocol) => protocol !== '');

const isOwnProtocol = (protocol: string): boolean => protocol === PORT_PROTOCOL || protocol.startsWith(TOKEN_PROTOCOL);

/** `Sec-WebSocket-Protocol` without what is ours; undefined when nothing is left. Byte for byte what came if nothing was. */
export const protocolsForUpstream = (value: string): string | undefined => {
  const offered = protocolsOf(value);
  const kept = offered.filter((protocol) => !isOwnProtocol(protocol));
  if (kept.length === offered.length) return value;
  return kept.length === 0 ? undefined : kept.join(', ');
};

/** Whether an upgrade whose application chose no protocol is answered {@link PORT_PROTOCOL}. */
export const offersPortProtocol = (lines: readonly string[]): boolean =>
  valuesOf(lines, 'sec-websocket-protocol').flatMap(protocolsOf).includes(PORT_PROTOCOL);

/** The tokens of ours that the request shows; one that is empty or malformed is among them, and will not be accepted. */
export const portTokens = (lines: readonly string[], isUpgrade: boolean): string[] => {
  const authorizations = valuesOf(lines, 'authorization')
    .filter(isPortAuthorization)
    .map((value) => BEARER.exec(value)?.[1] ?? '');
  const protocols = isUpgrade
    ? valuesOf(lines, 'sec-websocket-protocol')
        .flatMap(protocolsOf)
        .filter((protocol) => protocol.startsWith(TOKEN_PROTOCOL))
        .map((protocol) => protocol.slice(TOKEN_PROTOCOL.length))
    : [];
  return [...authorizations, ...valuesOf(lines, PORT_TOKEN_HEADER).map((value) => value.trim()), ...protocols];
};

/** The values of every cookie with the name of the session. A browser keeps one; more are somebody's attempt. */
export const sessionCookies = (lines: readonly string[]): string[] =>
  cookiesWith(lines, (name) => name === PORT_COOKIE).map(({ value }) => value);
