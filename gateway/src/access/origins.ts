/**
 * Whose requests carry the session cookie of a port. All environments are same-site to each other, so that the cookie's
 * own rules do not keep a hostile sibling's page from riding on it. Pure.
 *
 *     Sec-Fetch-Site same-origin or none                            counts
 *     GET, Sec-Fetch-Mode navigate, Sec-Fetch-Dest document         counts: a link that was followed
 *     Origin                                                        counts if it is listed
 *     GET, navigate, in a frame: the origin of Referer              counts if it is listed: who shows the frame
 *     no Sec-Fetch-* at all and no Origin, GET or HEAD              counts: an old browser, or a program
 *     WebSocket                                                     by a listed Origin alone
 *     anything else                                                 the request has no cookie
 *
 * Listed are the port's own origin, the other ports of its environment, and what the configuration names.
 */
import { SAME_CREATOR } from '../config-schema.ts';
import { isExposablePort, isId } from '../../../shared/src/hostname.ts';

export interface FetchRequest {
  readonly method: string;
  /** Lower-case, without port. */
  readonly host: string;
  /** Port of the authority; 443 where it names none. */
  readonly authorityPort: number;
  readonly rawHeaders: readonly string[];
  readonly isUpgrade: boolean;
}

/** What the configuration adds to the ports of the environment itself. */
export interface OriginRules {
  /** The ports of environments of the same creator and organization too. */
  readonly sameCreator: boolean;
  /** Exact origins, `https://app.example`. */
  readonly origins: readonly string[];
}

export const originRules = (configured: readonly string[]): OriginRules => ({
  sameCreator: configured.includes(SAME_CREATOR),
  origins: configured.filter((entry) => entry !== SAME_CREATOR),
});

/** `always` and `never` hold without a list; otherwise the origin has to be on it. */
export type CookieVerdict = 'always' | 'never' | { readonly origin: string };

const HTTPS_PORT = 443;

/** The value of a field; of several lines, all of them, which is no valid value. */
export const fieldValue = (lines: readonly string[], name: string): string | undefined => {
  let value: string | undefined;
  for (let index = 0; index < lines.length; index += 2) {
    if (lines[index]!.toLowerCase() !== name) continue;
    value = value === undefined ? lines[index + 1]! : `${value}, ${lines[index + 1]!}`;
  }
  return value;
};

const originOf = (url: string | undefined): string | undefined =>
  url !== undefined && URL.canParse(url) ? new URL(url).origin : undefined;

/** Whether the session cookie of the request counts. */
export const cookieVerdict = ({ method, rawHeaders, isUpgrade }: FetchRequest): CookieVerdict => {
  const origin = fieldValue(rawHeaders, 'origin');
  const byOrigin = origin === undefined ? 'never' : { origin };
  if (isUpgrade) return byOrigin;
  const site = fieldValue(rawHeaders, 'sec-fetch-site');
  const mode = fieldValue(rawHeaders, 'sec-fetch-mode');
  const destination = fieldValue(rawHeaders, 'sec-fetch-dest');
  if (site === undefined && mode === undefined && destination === undefined) {
    return origin === undefined && (method === 'GET' || method === 'HEAD') ? 'always' : byOrigin;
  }
  if (site === 'same-origin' || site === 'none') return 'always';
  if (method === 'GET' && mode === 'navigate') {
    if (destination === 'document') return 'always';
    // No Origin comes with a GET that navigates; a page can withhold its Referer, but not invent one.
    const shownBy = originOf(fieldValue(rawHeaders, 'referer'));
    if (origin === undefined && (destination === 'iframe' || destination === 'frame') && shownBy !== undefined) {
      return { origin: shownBy };
    }
  }
  return byOrigin;
};

/** What follows the label of a port host: `.gateway.example`. */
const domainOf = (host: string): string => host.slice(host.indexOf('.'));

/** The environment whose port host, on the domain and port that the request came to, `origin` is. */
export const environmentOfOrigin = (
  origin: string,
  { host, authorityPort }: Pick<FetchRequest, 'host' | 'authorityPort'>,
): string | undefined => {
  const suffix = `${domainOf(host)}${authorityPort === HTTPS_PORT ? '' : `:${authorityPort}`}`;
  if (!origin.startsWith('https://') || !origin.endsWith(suffix)) return undefined;
  const label = origin.slice('https://'.length, origin.length - suffix.length);
  const [, port, id] = /^([1-9]\d{3,4})s?--([a-z0-9-]+)$/.exec(label) ?? [];
  return port !== undefined && isExposablePort(Number(port)) && isId(id!) ? id : undefined;
};

export type Listed = 'yes' | 'no' | { readonly ifSameCreatorAs: string };

/** Whether `origin` is on the list of a port of `environmentId`; with the creator still to be compared where it matters. */
export const isListed = (
  origin: string,
  environmentId: string,
  request: Pick<FetchRequest, 'host' | 'authorityPort'>,
  rules: OriginRules,
): Listed => {
  const other = environmentOfOrigin(origin, request);
  if (other === environmentId || rules.origins.includes(origin)) return 'yes';
  return other !== undefined && rules.sameCreator ? { ifSameCreatorAs: other } : 'no';
};
