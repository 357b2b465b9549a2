/**
 * How a runner signs somebody in with an SCM, as short as it can be and still be right (RFC 6749, RFC 7636, RFC 9700).
 * The application lives on a port host, the callback comes to the runner's host; a browser shares no cookie between
 * the two. So:
 *
 *  1. `/login` on the port host: a random number goes into a cookie of that host, and signed into `state`; the browser
 *     is sent to the SCM.
 *  2. The callback on the runner's host: `state` must be signed by us; the code is exchanged with the secret and the
 *     PKCE verifier. Who has signed in goes back to the port host in a signed ticket that lives for a minute.
 *  3. `/login/done` on the port host: the ticket must be for the number in this browser's cookie. That makes it worth
 *     nothing to anybody else, and once.
 *
 * Nothing is remembered in between, so that a runner may be restarted in the middle of a login.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { z } from 'zod';

export interface SampleLoginOptions {
  /** Signs what the browser carries. The same after a restart. */
  readonly key: Uint8Array;
  readonly client: { readonly id: string; readonly secret: string; readonly redirectUri: string };
  readonly scm: {
    /** Where browsers are sent. */
    readonly authorizationEndpoint: string;
    /** What this program asks. */
    readonly tokenEndpoint: string;
    readonly userEndpoint: string;
  };
  /** Origin of the port host that the application is reached at. */
  readonly home: string;
  /** `form_post`: the SCM lets the browser post the code. */
  readonly responseMode?: 'query' | 'form_post';
  /** Asks the SCM; absent: `fetch`. */
  readonly fetch?: typeof fetch;
}

export interface SampleLogin {
  /** Answers what belongs to logins; false for everything else. */
  handle(request: IncomingMessage, response: ServerResponse): Promise<boolean>;
  /** Who is signed in. */
  userOf(request: IncomingMessage): string | undefined;
}

const LOGIN_COOKIE = '__Host-login';
const SESSION_COOKIE = '__Host-session';
/** A login that takes longer is started anew, ms. */
const LOGIN_LIFETIME_MS = 600_000;
/** From the callback to the port host, one redirect, ms. */
const TICKET_LIFETIME_MS = 60_000;
const SESSION_LIFETIME_MS = 3_600_000;
/** The SCM's answers, ms. */
const SCM_TIMEOUT_MS = 10_000;

const tokenAnswer = z.object({ access_token: z.string() });
const userAnswer = z.object({ name: z.string() });
const signedContent = z.object({ for: z.string(), value: z.string(), expires: z.number() });

/** A login that did not come to its end; what the person is told. */
class LoginError extends Error {}

const cookieOf = (request: IncomingMessage, name: string): string | undefined =>
  request.headers.cookie
    ?.split('; ')
    .find((pair) => pair.startsWith(`${name}=`))
    ?.slice(name.length + 1);

const redirect = (response: ServerResponse, location: string, cookies: readonly string[] = []): void => {
  response.writeHead(303, { Location: location, 'Cache-Control': 'no-store', 'Set-Cookie': [...cookies] });
  response.end();
};

const cookie = (name: string, value: string, maxAgeMs: number): string =>
  `${name}=${value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=${maxAgeMs / 1_000}`;

export const createSampleLogin = (options: SampleLoginOptions): SampleLogin => {
  const { client, scm, home } = options;
  const ask = options.fetch ?? fetch;
  const callbackPath = new URL(client.redirectUri).pathname;

  const mac = (content: string): string => createHmac('sha256', options.key).update(content).digest('base64url');
  /** `purpose` keeps a ticket from being shown as a session. */
  const sign = (purpose: string, value: string, lifetimeMs: number): string => {
    const content = Buffer.from(JSON.stringify({ for: purpose, value, expires: Date.now() + lifetimeMs })).toString(
      'base64url',
    );
    return `${content}.${mac(content)}`;
  };
  const open = (purpose: string, signed: string | null | undefined): string | undefined => {
    const [content = '', given = ''] = (signed ?? '').split('.');
    const expected = mac(content);
    if (given.length !== expected.length || !timingSafeEqual(Buffer.from(given), Buffer.from(expected)))
      return undefined;
    const opened = signedContent.parse(JSON.parse(Buffer.from(content, 'base64url').toString()));
    return opened.for === purpose && opened.expires > Date.now() ? opened.value : undefined;
  };
  /** PKCE: only who has the key can exchange the code that this number asked for. */
  const verifierOf = (number: string): string => mac(`verifier ${number}`);

  const start = (response: ServerResponse): void => {
    const number = randomBytes(16).toString('base64url');
    const to = new URL(scm.authorizationEndpoint);
    to.search = new URLSearchParams({
      client_id: client.id,
      redirect_uri: client.redirectUri,
      response_type: 'code',
      ...(options.responseMode === 'form_post' ? { response_mode: 'form_post' } : {}),
      scope: 'openid profile',
      state: sign('login', number, LOGIN_LIFETIME_MS),
      code_challenge: createHash('sha256').update(verifierOf(number)).digest('base64url'),
      code_challenge_method: 'S256',
    }).toString();
    redirect(response, to.href, [cookie(LOGIN_COOKIE, number, LOGIN_LIFETIME_MS)]);
  };

  const askJson = async (url: string, init: RequestInit): Promise<unknown> => {
    const answer = await ask(url, { ...init, signal: AbortSignal.timeout(SCM_TIMEOUT_MS) });
    if (!answer.ok) throw new LoginError(`the SCM answered ${answer.status}`);
    return answer.json();
  };

  const exchange = async (code: string, number: string): Promise<string> => {
    const credentials = `${encodeURIComponent(client.id)}:${encodeURIComponent(client.secret)}`;
    const { access_token: token } = tokenAnswer.parse(
      await askJson(scm.tokenEndpoint, {
        method: 'POST',
        headers: { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` },
        body: new URLSearchParams({
          grant_type: 'authorization_code',
          code,
          redirect_uri: client.redirectUri,
          code_verifier: verifierOf(number),
        }),
      }),
    );
    return userAnswer.parse(await askJson(scm.userEndpoint, { headers: { authorization: `Bearer ${token}` } })).name;
  };

  const callback = async (
    request: IncomingMessage,
    response: ServerResponse,
    query: URLSearchParams,
  ): Promise<void> => {
    // Whoever sent this has bounded it; an application of your own bounds what it reads, too.
    const answer = request.method === 'POST' ? new URLSearchParams(await text(request)) : query;
    const number = open('login', answer.get('state'));
    const code = answer.get('code');
    if (number === undefined) throw new LoginError('the login was not started here, or too long ago');
    if (code === null) throw new LoginError('the SCM did not agree');
    const user = await exchange(code, number);
    const ticket = sign('ticket', JSON.stringify([number, user]), TICKET_LIFETIME_MS);
    redirect(response, `${home}/login/done?${new URLSearchParams({ ticket })}`);
  };

  const finish = (request: IncomingMessage, response: ServerResponse, query: URLSearchParams): void => {
    const ticket = open('ticket', query.get('ticket'));
    const [number, user = ''] = ticket === undefined ? [] : (JSON.parse(ticket) as string[]);
    if (number === undefined || number !== cookieOf(request, LOGIN_COOKIE)) {
      throw new LoginError('it was started in another browser, or is over');
    }
    redirect(response, '/', [
      cookie(LOGIN_COOKIE, '', 0),
      cookie(SESSION_COOKIE, sign('session', user, SESSION_LIFETIME_MS), SESSION_LIFETIME_MS),
    ]);
  };

  const route = async (request: IncomingMessage, response: ServerResponse): Promise<boolean> => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://here.invalid');
    if (pathname === callbackPath) await callback(request, response, searchParams);
    else if (request.method !== 'GET') return false;
    else if (pathname === '/login') start(response);
    else if (pathname === '/login/done') finish(request, response, searchParams);
    else if (pathname === '/logout') redirect(response, '/', [cookie(SESSION_COOKIE, '', 0)]);
    else return false;
    return true;
  };

  return {
    async handle(request, response) {
      try {
        return await route(request, response);
      } catch (error) {
        const reason = error instanceof LoginError ? error.message : 'something went wrong';
        const body = `The login failed: ${reason}. Start it again at ${home}/login\n`;
        response.writeHead(400, { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
        response.end(body);
        return true;
      }
    },
    userOf(request) {
      try {
        return open('session', cookieOf(request, SESSION_COOKIE));
      } catch {
        return undefined; // somebody wrote the cookie by hand
      }
    },
  };
};
