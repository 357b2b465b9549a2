/**
 * A page before the first page of a port that is open to everyone: whose it is, and that it is not the gateway's. Going
 * on sets a cookie of that host, so that it comes once for each owner. Somebody who hands out links cannot take the step
 * for the visitor: it is a form of the gateway's own page.
 */
import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import type { Exchange } from '../proxy/exchange.ts';
import { isNavigation } from '../proxy/navigation.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';
import { cookieOf, setCookie } from './cookies.ts';
import { INTERSTITIAL_POLICY, renderInterstitial } from './interstitial-page.ts';
import { fieldValue } from './origins.ts';
import type { AskedPort } from './port-access.ts';

/** Host-only by its prefix; the proxy takes it out of what applications get and set. */
const SEEN_COOKIE = '__Host-gitpod_port_seen';
/** Where the form of the page goes. */
const CONTINUE_PATH = '/_gitpod/continue';
/** Until the page is shown to a visitor again, ms: 30 days. */
const SEEN_LIFETIME_MS = 30 * 24 * 60 * 60 * 1_000;
/** Longest target that is kept over the page, characters; from a longer one the visitor comes to the front page. */
const MAX_RETURN_LENGTH = 4_096;

type Online = Extract<EnvironmentRoute, { kind: 'online' }>;

export interface Interstitial {
  /** Shows the page, and says so. Otherwise the request is to go on. */
  shows(exchange: Exchange, asked: AskedPort, route: EnvironmentRoute): boolean;
  /** Answers the form of the page; false if the request is for something else. */
  serve(exchange: Exchange, asked: AskedPort): boolean;
}

/** Changes with the owner: a name that somebody else holds now is shown anew. */
const ownerMark = ({ runnerId, organization, environment }: Online): string =>
  createHash('sha256')
    .update(JSON.stringify([runnerId, organization ?? null, environment.creator ?? null]))
    .digest('base64url')
    .slice(0, 22);

/** A target on the same host: never `//host`, nor anything that a browser would take for it. */
const ownTarget = (text: string | null): string =>
  text !== null && text.length <= MAX_RETURN_LENGTH && /^\/(?![/\\])[\x21-\x5b\x5d-\x7e]*$/.test(text) ? text : '/';

/** Where the form of `exchange` leads; undefined for what is not the form of the own page, which is then refused. */
const formTarget = (exchange: Exchange): string | undefined => {
  const { method, host, authorityPort, rawHeaders, target } = exchange;
  const own = `https://${host}${authorityPort === 443 ? '' : `:${authorityPort}`}`;
  if (method === 'POST' && fieldValue(rawHeaders, 'origin') === own) {
    return ownTarget(new URL(target, own).searchParams.get('to'));
  }
  exchange.fail(method === 'POST' ? 'cross_origin' : 'method_not_allowed');
  return undefined;
};

const goOn = (exchange: Exchange, to: string, cookie: string | undefined): void => {
  const response = exchange.response as ServerResponse;
  response.statusCode = 303;
  if (cookie !== undefined) response.setHeader('Set-Cookie', cookie);
  response.setHeader('Location', to);
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Content-Length', '0');
  response.end();
  // The form has no fields; whatever came with it is read and thrown away.
  exchange.request.resume();
};

export const createInterstitial = (deps: {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  /** Whether operators want the page. */
  readonly isOn: () => boolean;
}): Interstitial => ({
  shows(exchange, asked, route) {
    const { method, rawHeaders } = exchange;
    if (!deps.isOn() || route.kind !== 'online' || !isNavigation(method, rawHeaders)) return false;
    if (method !== 'GET' && method !== 'HEAD') return false;
    if (cookieOf(rawHeaders, SEEN_COOKIE) === ownerMark(route)) return false;
    const body = renderInterstitial({
      host: exchange.host,
      port: asked.port,
      organization: route.organization,
      creator: route.environment.creator,
      action: `${CONTINUE_PATH}?to=${encodeURIComponent(ownTarget(exchange.target))}`,
    });
    const response = exchange.response as ServerResponse;
    response.statusCode = 200;
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.setHeader('Content-Length', String(Buffer.byteLength(body)));
    response.setHeader('Content-Security-Policy', INTERSTITIAL_POLICY);
    response.setHeader('Cache-Control', 'no-store');
    response.setHeader('Referrer-Policy', 'same-origin');
    response.setHeader('X-Content-Type-Options', 'nosniff');
    response.setHeader('X-Robots-Tag', 'noindex');
    if (method !== 'HEAD') exchange.record.bytesSent += Buffer.byteLength(body);
    response.end(method === 'HEAD' ? '' : body);
    return true;
  },
  serve(exchange, { environmentId }) {
    if (!deps.isOn() || exchange.target.split('?', 1)[0] !== CONTINUE_PATH) return false;
    const to = formTarget(exchange);
    if (to === undefined) return true;
    void (async () => {
      try {
        const route = await deps.route(environmentId);
        if (exchange.gone) return;
        const isOnline = route.kind === 'online';
        goOn(exchange, to, isOnline ? setCookie(SEEN_COOKIE, ownerMark(route), SEEN_LIFETIME_MS) : undefined);
      } catch (cause) {
        exchange.fail('directory_unavailable', { cause });
      }
    })();
    return true;
  },
});
