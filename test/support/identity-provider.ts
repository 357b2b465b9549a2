/** A real OpenID Connect provider in the process of the test: oidc-provider, with a login page that takes a known name. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { Provider, type Context } from 'oidc-provider';
import { createMemoryAdapter } from '../../deploy/demo/memory-adapter.ts';
import { makeTestCertificate } from './certificate.ts';

/** Under which the provider knows the gateway. */
export const CLIENT_ID = 'the-gateway';

export type AccountClaims = Readonly<Record<string, unknown>>;

export interface IdentityProviderOptions {
  /** Whom it knows, by the name that is typed in. `sub` is that name unless the claims say otherwise. */
  readonly accounts: Readonly<Record<string, AccountClaims>>;
  /** True: the ID token has `sub` alone, everything else has to be asked for. */
  readonly userInfoOnly?: boolean;
  /** Over TLS, with a certificate that nobody knows. */
  readonly tls?: boolean;
  readonly authMethod?: 'client_secret_basic' | 'client_secret_post' | 'none';
}

export interface IdentityProvider {
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** PEM, with `tls`; otherwise empty. */
  readonly certificate: string;
  /** What came, from browsers and from the gateway. */
  readonly seen: readonly { readonly method: string; readonly path: string }[];
  /** Serves the application with these redirect URIs from now on. */
  serve(redirectUris: readonly string[]): void;
  /** Signs with a new key from now on; the old one is gone. */
  rotateKey(): void;
  /** Accepts connections and says nothing. */
  setSilent(silent: boolean): void;
  close(): Promise<void>;
}

const newKey = () => ({
  ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
  use: 'sig',
  kid: randomBytes(8).toString('hex'),
});

const loginPage = (uid: string): string => `<!doctype html><title>Provider</title><h1>Provider</h1>
<form method="post" action="/interaction/${uid}"><label>Name <input name="name"></label><button>Continue</button></form>`;

export const startIdentityProvider = async (options: IdentityProviderOptions): Promise<IdentityProvider> => {
  const clientId = CLIENT_ID;
  const clientSecret = randomBytes(24).toString('base64url');
  const cookieKey = randomBytes(32).toString('hex');
  const adapter = createMemoryAdapter();
  const seen: { method: string; path: string }[] = [];
  const names = [...new Set(Object.values(options.accounts).flatMap((claims) => Object.keys(claims)))];
  let key = newKey();
  let uris: readonly string[] = [];
  let provider: Provider | undefined;
  let isSilent = false;

  const serveRequest: RequestListener = (request, response) => {
    const [path = ''] = (request.url ?? '').split('?', 1);
    seen.push({ method: request.method ?? '', path });
    if (isSilent) return;
    if (!provider) return void response.writeHead(503).end();
    answer(provider, request, response).catch(() => response.destroy());
  };
  const pair = options.tls ? await makeTestCertificate('localhost') : undefined;
  const server = pair
    ? createTlsServer({ cert: pair.certificate, key: pair.key }, serveRequest)
    : createServer(serveRequest);
  const answer = async (current: Provider, request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (!request.url?.startsWith('/interaction/')) return current.callback()(request, response);
    const { uid } = await current.interactionDetails(request, response);
    if (request.method !== 'POST') {
      response.writeHead(200, { 'Content-Type': 'text/html' }).end(loginPage(uid));
      return;
    }
    const name = new URLSearchParams(await text(request)).get('name') ?? '';
    const result = Object.hasOwn(options.accounts, name) ? { login: { accountId: name } } : { error: 'access_denied' };
    await current.interactionFinished(request, response, result);
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const issuer = pair ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;

  const renew = (): void => {
    provider = new Provider(issuer, {
      adapter,
      clients: [
        {
          client_id: clientId,
          ...(options.authMethod === 'none' ? {} : { client_secret: clientSecret }),
          redirect_uris: [...uris],
          response_types: ['code'],
          grant_types: ['authorization_code'],
          token_endpoint_auth_method: options.authMethod ?? 'client_secret_basic',
          id_token_signed_response_alg: 'ES256',
        },
      ],
      clientAuthMethods: [options.authMethod ?? 'client_secret_basic'],
      claims: { openid: ['sub'], profile: names },
      conformIdTokenClaims: options.userInfoOnly ?? false,
      cookies: { keys: [cookieKey] },
      features: { devInteractions: { enabled: false } },
      findAccount: (_context: unknown, id: string) => ({
        accountId: id,
        claims: async () => ({ sub: id, ...options.accounts[id] }),
      }),
      interactions: { url: (_context: unknown, { uid }: { readonly uid: string }) => `/interaction/${uid}` },
      jwks: { keys: [key] },
      renderError(context: { body: string }, out: unknown) {
        context.body = `the provider failed: ${JSON.stringify(out)}`;
      },
      pkce: { required: () => true },
      async loadExistingGrant({ oidc }: Context) {
        const grant = new oidc.provider.Grant({ accountId: oidc.session.accountId, clientId: oidc.client.clientId });
        grant.addOIDCScope([...oidc.requestParamScopes].join(' '));
        await grant.save();
        return grant;
      },
      ttl: { AuthorizationCode: 600, AccessToken: 600, IdToken: 600, Interaction: 600, Session: 3_600, Grant: 3_600 },
    });
  };

  return {
    issuer,
    clientId,
    clientSecret,
    certificate: pair?.certificate ?? '',
    seen,
    serve(redirectUris) {
      uris = redirectUris;
      renew();
    },
    rotateKey() {
      key = newKey();
      renew();
    },
    setSilent(silent) {
      isSilent = silent;
    },
    async close() {
      server.closeAllConnections();
      if (!server.listening) return;
      server.close();
      await once(server, 'close');
    },
  };
};
