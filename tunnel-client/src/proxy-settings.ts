/**
 * Which connections go through an HTTP proxy: what `HTTPS_PROXY` and `NO_PROXY` say, in the forms that curl, Go and
 * others take.
 *
 *     HTTPS_PROXY  http://proxy.example:3128   https://user:p%40ss@proxy.example   proxy.example:3128
 *     NO_PROXY     example.com, .example.com   the name and every name below it, with and without a dot or `*.`
 *                  example.com:8443            only at this port
 *                  192.0.2.7, 10.0.0.0/8       an address, a range: of the target itself, or of all that its name means
 *                  *                           everything
 */
import { isIP } from 'node:net';
import { isHost } from '../../shared/src/transport/address.ts';
import { type AddressRange, isInRange, parseIp, parseRange } from './ip-address.ts';
import type { Problem } from './problems.ts';

export interface ProxyServer {
  readonly tls: boolean;
  readonly host: string;
  readonly port: number;
  /** Value of `Proxy-Authorization`: a secret. */
  readonly authorization: string | undefined;
  /** The URL without its credentials, for messages. */
  readonly url: string;
}

/** What is reached without the proxy. */
export type ProxyException = { readonly port: number | undefined } & (
  | { readonly kind: 'all' }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'range'; readonly range: AddressRange }
);

export interface ProxySettings {
  readonly server: ProxyServer | undefined;
  readonly exceptions: readonly ProxyException[];
}

export const NO_PROXY_SETTINGS: ProxySettings = { server: undefined, exceptions: [] };

const EXAMPLE = 'it looks like http://proxy.example:3128, or http://user:password@proxy.example:3128';

const decode = (text: string): string => {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new RangeError('the user name or password has a % that is no escape: write it as %25', { cause });
  }
};

/** Throws RangeError with a sentence for the person who wrote it, never with the text: it may hold a password. */
export const parseProxyUrl = (text: string): ProxyServer => {
  // As curl and Go take it; `new URL` would read the host as a scheme.
  const bare = /^[^/]+:\d{1,5}$/.test(text);
  let url: URL;
  try {
    url = new URL(bare ? `http://${text}` : text);
  } catch {
    // Without a cause: it would repeat the text.
    throw new RangeError(`is not the URL of a proxy: ${EXAMPLE}`);
  }
  const { protocol, username, password } = url;
  if (protocol !== 'http:' && protocol !== 'https:') {
    throw new RangeError(`names no HTTP proxy: the URL begins with http:// or https:// and nothing else`);
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (!isHost(host)) throw new RangeError(`is not the URL of a proxy: ${EXAMPLE}`);
  if (url.pathname !== '/' || url.search || url.hash) {
    throw new RangeError('the URL of a proxy ends behind the port');
  }
  const tls = protocol === 'https:';
  const credentials = `${decode(username)}:${decode(password)}`;
  return {
    tls,
    host,
    port: url.port === '' ? (tls ? 443 : 80) : Number(url.port),
    authorization: credentials === ':' ? undefined : `Basic ${Buffer.from(credentials).toString('base64')}`,
    url: `${protocol}//${url.host}`,
  };
};

const parseException = (entry: string): ProxyException | undefined => {
  if (entry === '*') return { kind: 'all', port: undefined };
  const range = parseRange(entry.replace(/^\[|\]$/g, ''));
  if (range) return { kind: 'range', range, port: undefined };
  const [, host = '', port] = /^(.*?)(?::(\d{1,5}))?$/.exec(entry) ?? [];
  const address = parseRange(host.replace(/^\[|\]$/g, ''));
  const at = port === undefined ? undefined : Number(port);
  if (address) return { kind: 'range', range: address, port: at };
  const name = normalName(host.replace(/^\*?\./, ''));
  return isHost(name) ? { kind: 'name', name, port: at } : undefined;
};

/** Entries that mean nothing are passed over, as every other program does: the variable is shared with them. */
export const parseNoProxy = (text: string): ProxyException[] =>
  text
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .flatMap((entry) => parseException(entry) ?? []);

const normalName = (host: string): string => host.toLowerCase().replace(/\.$/, '');

/** Whether an exception speaks of addresses, so that the target's name has to be resolved. */
export const needsAddresses = ({ exceptions }: ProxySettings, target: { host: string; port: number }): boolean =>
  isIP(target.host) === 0 &&
  exceptions.some(({ kind, port }) => kind === 'range' && (port === undefined || port === target.port));

/** The proxy for a target, whose `addresses` are known where {@link needsAddresses}; undefined: none. */
export const proxyFor = (
  settings: ProxySettings,
  target: { readonly host: string; readonly port: number; readonly addresses: readonly string[] },
): ProxyServer | undefined => {
  const name = normalName(target.host);
  const exceptions = settings.exceptions.filter(({ port }) => port === undefined || port === target.port);
  const isNamed = exceptions.some(
    (exception) =>
      exception.kind === 'all' ||
      (exception.kind === 'name' && (name === exception.name || name.endsWith(`.${exception.name}`))),
  );
  const ranges = exceptions.flatMap((exception) => (exception.kind === 'range' ? [exception.range] : []));
  const isInRanges = (text: string): boolean => {
    const address = parseIp(text);
    return address !== undefined && ranges.some((range) => isInRange(address, range));
  };
  const isExcepted = isNamed || (target.addresses.length > 0 && target.addresses.every(isInRanges));
  return isExcepted ? undefined : settings.server;
};

const firstOf = (env: Readonly<Record<string, string | undefined>>, names: readonly string[]): string | undefined =>
  names.find((name) => env[name] !== undefined && env[name] !== '');

/** Of environment variables; the lower-case one wins, as in curl. */
export const proxySettingsOf = (
  env: Readonly<Record<string, string | undefined>>,
): { settings: ProxySettings; problems: readonly Problem[] } => {
  const name = firstOf(env, ['https_proxy', 'HTTPS_PROXY']);
  const noName = firstOf(env, ['no_proxy', 'NO_PROXY']);
  const exceptions = parseNoProxy(noName === undefined ? '' : (env[noName] ?? ''));
  if (name === undefined) return { settings: { server: undefined, exceptions }, problems: [] };
  try {
    return { settings: { server: parseProxyUrl(env[name] ?? ''), exceptions }, problems: [] };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { settings: NO_PROXY_SETTINGS, problems: [{ path: name, message: error.message }] };
  }
};
