/** A gateway with a sign-in, a real provider, a runner, and a visitor who follows redirects as a browser does. */
import { writeFile } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { SignInConfig } from '../../gateway/src/config.ts';
import type { EnvironmentInput } from '../../tunnel-client/src/client.ts';
import { DOMAIN, startTestGateway, type GatewayOptions, type TestGateway } from './gateway.ts';
import { startIdentityProvider, type IdentityProvider, type IdentityProviderOptions } from './identity-provider.ts';
import { temporaryDirectory } from './programs.ts';
import { startTestRunner, startUpstream, type TestRunner, type TestUpstream } from './runner.ts';

export interface SignInWorld {
  readonly gateway: TestGateway;
  readonly provider: IdentityProvider;
  readonly runner: TestRunner;
  readonly apex: string;
  readonly secretFile: string;
  /** `https://3000--demo.gateway.localhost:port` */
  origin(environmentId: string, port: number): string;
  announce(environment: EnvironmentInput): Promise<void>;
}

/** Grace made the environments of these tests; Mallory is somebody else. */
export const ACCOUNTS = {
  grace: { name: 'Grace Hopper', groups: ['navy', 'acme'] },
  ada: { name: 'Ada Lovelace', groups: ['acme'] },
  mallory: { name: 'Mallory', groups: [] },
};

export interface SignInWorldOptions {
  readonly provider?: Partial<IdentityProviderOptions>;
  readonly signIn?: Partial<SignInConfig>;
  readonly gateway?: GatewayOptions;
  readonly organization?: string;
  /** False: the provider knows no redirect URI yet, and answers 503. */
  readonly serve?: boolean;
}

export const startSignInWorld = async (t: TestContext, options: SignInWorldOptions = {}): Promise<SignInWorld> => {
  const provider = await startIdentityProvider({ accounts: ACCOUNTS, ...options.provider });
  t.after(() => provider.close());
  // It answers before the gateway asks; the redirect URI is known when the gateway listens.
  if (options.serve ?? true) provider.serve(['https://gateway.invalid/auth/callback']);
  const secretFile = join(await temporaryDirectory(t), 'client-secret');
  await writeFile(secretFile, `${provider.clientSecret}\n`, { mode: 0o600 });
  const signIn: SignInConfig = {
    issuer: provider.issuer,
    clientId: provider.clientId,
    clientSecretFile: options.provider?.authMethod === 'none' ? undefined : secretFile,
    scopes: ['openid', 'profile'],
    claims: { user: 'sub', name: 'name', organizations: 'groups' },
    switchPrompt: 'login',
    ca: undefined,
    ...options.signIn,
  };
  const gateway = await startTestGateway({ ...options.gateway, config: { ...options.gateway?.config, signIn } });
  t.after(() => gateway.close());
  const apex = `https://${DOMAIN}:${gateway.httpsPort}`;
  if (options.serve ?? true) provider.serve([`${apex}/auth/callback`]);
  const runner = await startTestRunner(
    gateway,
    options.organization === undefined ? {} : { organization: options.organization },
  );
  t.after(() => runner.close());
  return {
    gateway,
    provider,
    runner,
    apex,
    secretFile,
    origin: (environmentId, port) => `https://${port}--${environmentId}.${DOMAIN}:${gateway.httpsPort}`,
    async announce(environment) {
      const verdict = await runner.announce(environment);
      if (!verdict.accepted) throw new Error(`the environment was not accepted: ${verdict.code ?? ''}`);
    },
  };
};

/** An application that says on which port and path it was asked, and keeps what it was sent. */
export const startApplication = async (t: TestContext): Promise<TestUpstream & { readonly cookies: string[] }> => {
  const cookies: string[] = [];
  const upstream = await startUpstream((request, response) => {
    cookies.push(request.headers.cookie ?? '');
    response.setHeader('Content-Type', 'text/html');
    response.end(`<!doctype html><title>application</title><p id="target">${request.url ?? ''}</p>`);
  });
  t.after(() => upstream.close());
  return { ...upstream, cookies };
};

export interface Visit {
  readonly url: string;
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** A visitor without scripts: a cookie jar, and redirects that are followed one by one. */
export interface TestVisitor {
  readonly jar: Map<string, Map<string, string>>;
  /** One request; redirects are not followed. */
  get(url: string, options?: { method?: string; headers?: Record<string, string>; payload?: string }): Promise<Visit>;
  /** From one address on over every redirect, at most 20. */
  open(
    url: string,
    options?: { method?: string; headers?: Record<string, string>; payload?: string },
  ): Promise<Visit[]>;
  /** Opens `url` and fills in the form of the provider. The last visit is where it ends. */
  signIn(url: string, name: string): Promise<Visit[]>;
}

const MAX_REDIRECTS = 20;
const REQUEST_TIMEOUT_MS = 20_000;

export const createVisitor = (world: Pick<SignInWorld, 'provider'>): TestVisitor => {
  const jar = new Map<string, Map<string, string>>();
  const cookiesOf = (host: string): Map<string, string> => {
    const cookies = jar.get(host) ?? new Map<string, string>();
    jar.set(host, cookies);
    return cookies;
  };
  const keep = (host: string, lines: readonly string[]): void => {
    for (const line of lines) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      if (/; *max-age=0/i.test(line) || /expires=Thu, 01 Jan 1970/i.test(line)) cookiesOf(host).delete(name);
      else cookiesOf(host).set(name, value);
    }
  };

  const get: TestVisitor['get'] = async (text, { method = 'GET', headers = {}, payload } = {}) => {
    const url = new URL(text);
    const cookie = [...cookiesOf(url.host)].map(([name, value]) => `${name}=${value}`).join('; ');
    const all = { accept: 'text/html', ...(cookie === '' ? {} : { cookie }), ...headers };
    if (url.protocol === 'http:') {
      const response = await fetch(url, { method, headers: all, redirect: 'manual', body: payload ?? null });
      keep(url.host, response.headers.getSetCookie());
      return {
        url: text,
        status: response.status,
        headers: Object.fromEntries(response.headers),
        body: await response.text(),
      };
    }
    const visit = await new Promise<Visit>((resolve, reject) => {
      const request = httpsRequest(
        {
          host: '127.0.0.1',
          port: url.port,
          servername: url.hostname,
          method,
          path: url.pathname + url.search,
          agent: false,
          rejectUnauthorized: false,
          timeout: REQUEST_TIMEOUT_MS,
          headers: { host: url.host, ...all },
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('end', () =>
            resolve({
              url: text,
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: Buffer.concat(chunks).toString('utf8'),
            }),
          );
        },
      );
      request.on('timeout', () => request.destroy(new Error('no answer in time')));
      request.on('error', reject);
      request.end(payload);
    });
    keep(url.host, visit.headers['set-cookie'] ?? []);
    return visit;
  };

  const open: TestVisitor['open'] = async (url, options) => {
    const visits = [await get(url, options)];
    for (let last = visits[0]!; last.status >= 300 && last.status < 400; last = visits.at(-1)!) {
      if (visits.length > MAX_REDIRECTS) throw new Error('too many redirects');
      visits.push(await get(new URL(last.headers.location ?? '', last.url).href));
    }
    return visits;
  };

  return {
    jar,
    get,
    open,
    async signIn(url, name) {
      const there = await open(url);
      const form = there.at(-1)!;
      const [, action = ''] = /action="([^"]+)"/.exec(form.body) ?? [];
      if (!form.url.startsWith(world.provider.issuer) || action === '') {
        throw new Error(`no form of the provider, but ${form.status} at ${form.url}`);
      }
      const back = await open(new URL(action, form.url).href, {
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
        payload: `name=${encodeURIComponent(name)}`,
      });
      return [...there, ...back];
    },
  };
};
