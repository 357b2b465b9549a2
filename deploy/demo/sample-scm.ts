/** An OAuth server that plays the SCM of the demo: oidc-provider, with a login page that takes any name. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { Provider, type Context } from 'oidc-provider';
import { createMemoryAdapter } from './memory-adapter.ts';
import { sendHtml, simplePage } from './simple-page.ts';

export interface SampleScmOptions {
  /** URL at which browsers reach it. */
  readonly issuer: string;
  readonly client: { readonly id: string; readonly secret: string; readonly redirectUri: string };
}

/** Longest body of the login form, bytes. */
const MAX_FORM_BYTES = 4 << 10;
const MAX_NAME_LENGTH = 40;

const escapeHtml = (value: string): string => value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const loginPage = (uid: string, clientId: string): string =>
  simplePage(
    'Sample SCM',
    `<h1>Sample SCM</h1>
<p>This page plays GitHub, GitLab, Bitbucket or Azure DevOps. <b>${escapeHtml(clientId)}</b> wants to know who you are.</p>
<form method="post" action="/interaction/${uid}">
<label for="name">Your name, whatever you like</label>
<input id="name" name="name" value="Ada" maxlength="${MAX_NAME_LENGTH}" required autocomplete="off">
<button>Authorize</button>
</form>`,
  );

const readForm = async (request: IncomingMessage): Promise<URLSearchParams> => {
  const length = Number(request.headers['content-length'] ?? Infinity);
  if (!(length <= MAX_FORM_BYTES)) throw new Error('the form is too large');
  return new URLSearchParams(await text(request));
};

const configuration = ({ client }: SampleScmOptions) => ({
  adapter: createMemoryAdapter(),
  clients: [
    {
      client_id: client.id,
      client_secret: client.secret,
      redirect_uris: [client.redirectUri],
      response_types: ['code'],
      grant_types: ['authorization_code'],
      id_token_signed_response_alg: 'ES256',
    },
  ],
  claims: { openid: ['sub'], profile: ['name'] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  features: { devInteractions: { enabled: false } },
  findAccount: (_context: unknown, id: string) => ({ accountId: id, claims: async () => ({ sub: id, name: id }) }),
  interactions: { url: (_context: unknown, { uid }: { readonly uid: string }) => `/interaction/${uid}` },
  jwks: {
    keys: [{ ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), use: 'sig' }],
  },
  // Who presses the button has agreed.
  async loadExistingGrant({ oidc }: Context) {
    const grant = new oidc.provider.Grant({ accountId: oidc.session.accountId, clientId: oidc.client.clientId });
    grant.addOIDCScope([...oidc.requestParamScopes].join(' '));
    await grant.save();
    return grant;
  },
  ttl: { AuthorizationCode: 600, AccessToken: 600, IdToken: 600, Interaction: 600, Session: 3_600, Grant: 3_600 },
});

export const createSampleScm = (options: SampleScmOptions): RequestListener => {
  const provider = new Provider(options.issuer, configuration(options));
  // It stands behind the gateway, which says what the browser asked for.
  provider.proxy = true;
  const serveProvider = provider.callback();

  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (!/^\/interaction\/[\w-]+$/.test(request.url ?? '')) return serveProvider(request, response);
    const { uid, params } = await provider.interactionDetails(request, response);
    if (request.method !== 'POST') return sendHtml(response, 200, loginPage(uid, String(params['client_id'])));
    const name = (await readForm(request)).get('name')?.trim().slice(0, MAX_NAME_LENGTH);
    if (!name) return sendHtml(response, 400, loginPage(uid, String(params['client_id'])));
    await provider.interactionFinished(request, response, { login: { accountId: name } });
  };

  return (request, response) => {
    serve(request, response).catch(() => {
      if (response.headersSent) return response.destroy();
      const again = '<h1>This login is over</h1><p>Go back to the application and start it again.</p>';
      sendHtml(response, 400, simplePage('Sample SCM', again));
    });
  };
};
