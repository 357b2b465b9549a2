/**
 * The OpenID Connect provider. What it says of itself (its metadata) is read when it answers, and again every hour; until
 * then nobody can sign in, and everything else goes on. The key set is read anew for each sign-in, so that rotated keys
 * are never missed.
 */
import { readFile } from 'node:fs/promises';
import * as oidc from 'openid-client';
import { rootCertificates } from 'node:tls';
import { Agent, fetch as undiciFetch } from 'undici';
import type { Clock } from '../../../../shared/src/clock.ts';
import { describeError } from '../../../../shared/src/errors.ts';
import { CLOCK_TOLERANCE_MS } from '../../../../shared/src/identity/membership.ts';
import type { SignInConfig } from '../../config.ts';
import type { Logger } from '../../observability/log.ts';
import { lacksClaims, readIdentity, type Claims, type ClaimFault, type Identity } from './claims.ts';
import type { Login } from './login.ts';

/** An answer of the provider, ms. Beyond: the sign-in fails with "the provider does not answer". */
const PROVIDER_TIMEOUT_MS = 10_000;
/** Metadata that is older is read again, ms; the old one serves until the new one is there. */
const METADATA_MAX_AGE_MS = 60 * 60 * 1_000;
/** While the provider has never answered, it is asked this often, ms. */
const DISCOVERY_RETRY_MS = 15_000;
/** And for a visitor who wants to sign in, but not more often than this, ms. */
const DISCOVERY_PAUSE_MS = 1_000;

/** What a sign-in failed of; each is a page of its own. */
export type SignInFault = 'unavailable' | 'refused' | 'misconfigured' | 'clock' | 'invalid';

export class SignInError extends Error {
  override readonly name = 'SignInError';
  readonly fault: SignInFault;
  constructor(fault: SignInFault, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.fault = fault;
  }
}

export interface Provider {
  /** Why nobody can sign in right now, for operators; undefined when nothing is known to be wrong. */
  problem(): string | undefined;
  /** Where the browser goes. Rejects with {@link SignInError}. */
  authorizationUrl(login: Login, redirectUri: string, options: { readonly switchAccount: boolean }): Promise<string>;
  /** Who came back; `callbackUrl` is the redirect URI with what the provider added. Rejects with {@link SignInError}. */
  finish(login: Login, callbackUrl: URL): Promise<Identity>;
  /** Where the session at the provider itself is ended, if the provider has such a page and it is known. */
  endSessionUrl(): string | undefined;
  close(): void;
}

const CLAIM_FAULTS: Readonly<Record<ClaimFault, (user: string) => string>> = {
  user_missing: (user) =>
    `the provider told no claim "${user}": signIn.claims.user names it, signIn.scopes asks for it`,
  user_unusable: (user) => `the claim "${user}" is too long, or has control characters in it`,
  email_unverified: () => 'the provider has not verified the address of this visitor',
};

/** Errors of openid-client have codes; texts are for people. */
const codeOf = (error: unknown): string => {
  const { code } = error as { readonly code?: unknown };
  return typeof code === 'string' ? code : '';
};

const toSignInError = (error: unknown): SignInError => {
  if (error instanceof SignInError) return error;
  if (error instanceof oidc.AuthorizationResponseError) {
    const fault =
      error.error === 'temporarily_unavailable' || error.error === 'server_error' ? 'unavailable' : 'refused';
    return new SignInError(fault, `the provider answered ${error.error}`, { cause: error });
  }
  if (error instanceof oidc.ResponseBodyError) {
    if (error.error === 'invalid_grant') {
      return new SignInError('invalid', 'the provider does not (or no longer) accept the code', { cause: error });
    }
    const hint = error.error === 'invalid_client' ? ': it does not accept clientId with this client secret' : '';
    return new SignInError('misconfigured', `the provider answered ${error.error}${hint}`, { cause: error });
  }
  if (error instanceof oidc.WWWAuthenticateChallengeError) {
    const message = `the provider answered ${error.status}: it does not accept clientId with this client secret`;
    return new SignInError('misconfigured', message, { cause: error });
  }
  switch (codeOf(error)) {
    case 'OAUTH_JWT_TIMESTAMP_CHECK_FAILED':
      return new SignInError('clock', 'the clocks of gateway and provider differ', { cause: error });
    case 'OAUTH_TIMEOUT':
      return new SignInError('unavailable', 'the provider does not answer in time', { cause: error });
    case 'OAUTH_RESPONSE_IS_NOT_CONFORM':
    case 'OAUTH_RESPONSE_IS_NOT_JSON':
      return new SignInError('unavailable', `the provider answers with something else: ${describeError(error)}`, {
        cause: error,
      });
    case '':
      // What fetch throws: no connection, no such name, a certificate that is not trusted.
      return new SignInError('unavailable', `the provider cannot be reached: ${describeError(error)}`, {
        cause: error,
      });
    default:
      return new SignInError('misconfigured', describeError(error), { cause: error });
  }
};

/** fetch with an additional root certificate. */
const createFetch = (ca: string): { readonly fetch: oidc.CustomFetch; close(): void } => {
  const dispatcher = new Agent({ connect: { ca: [...rootCertificates, ca] } });
  return {
    // undici's own types and those of the platform are the same things under two names.
    fetch: (url, options) =>
      undiciFetch(url, { ...options, dispatcher } as never) as Promise<unknown> as Promise<Response>,
    close: () => void dispatcher.destroy(),
  };
};

export interface ProviderDeps {
  readonly clock: Clock;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}

/** Begins to ask for the metadata at once, and does not wait for it. Rejects when a file of the configuration is not readable. */
export const createProvider = async (deps: ProviderDeps, config: SignInConfig): Promise<Provider> => {
  const { clock, log } = deps;
  const readSecret = async (): Promise<string | undefined> =>
    config.clientSecretFile === undefined ? undefined : (await readFile(config.clientSecretFile, 'utf8')).trim();
  await readSecret();
  const ownFetch = config.ca === undefined ? undefined : createFetch(await readFile(config.ca, 'utf8'));

  let metadata: oidc.ServerMetadata | undefined;
  let discovering: Promise<oidc.ServerMetadata> | undefined;
  let discoveredAt = -Infinity;
  let triedAt = -Infinity;
  let problem: string | undefined = 'the provider has not answered yet';
  let cancelRetry = (): void => {};
  let isClosed = false;

  const options = (): oidc.DiscoveryRequestOptions => ({
    timeout: PROVIDER_TIMEOUT_MS / 1_000,
    execute: config.issuer.startsWith('http:') ? [oidc.allowInsecureRequests] : [],
    ...(ownFetch && { [oidc.customFetch]: ownFetch.fetch }),
  });

  const discover = (): Promise<oidc.ServerMetadata> => {
    triedAt = clock.monotonic();
    discovering ??= oidc
      .discovery(new URL(config.issuer), config.clientId, undefined, oidc.None(), options())
      .then((found) => {
        metadata = { ...found.serverMetadata() };
        discoveredAt = clock.monotonic();
        if (problem !== undefined) log.info({ issuer: config.issuer }, 'the sign-in provider answers');
        problem = undefined;
        return metadata;
      })
      .catch((error: unknown) => {
        const failure = toSignInError(error);
        if (problem !== failure.message && !isClosed) {
          log.warn(
            { issuer: config.issuer, error: describeError(error) },
            'the sign-in provider does not answer as it should',
          );
        }
        problem = failure.message;
        throw failure;
      })
      .finally(() => {
        discovering = undefined;
      });
    return discovering;
  };
  const keepTrying = async (): Promise<void> => {
    await discover().catch(() => {
      if (!isClosed) cancelRetry = clock.timer(DISCOVERY_RETRY_MS, () => void keepTrying());
    });
  };
  void keepTrying();

  const currentMetadata = async (): Promise<oidc.ServerMetadata> => {
    const now = clock.monotonic();
    if (!metadata) {
      if (!discovering && now - triedAt < DISCOVERY_PAUSE_MS) {
        throw new SignInError('unavailable', problem ?? 'the provider does not answer');
      }
      return discover();
    }
    // In the background: a visitor does not wait for it, nor fail of it.
    if (now - discoveredAt > METADATA_MAX_AGE_MS && now - triedAt > DISCOVERY_RETRY_MS) void discover().catch(() => {});
    return metadata;
  };

  /** RFC 8414 section 2: `client_secret_basic` where the provider lists nothing. */
  const clientAuthentication = (server: oidc.ServerMetadata, secret: string | undefined): oidc.ClientAuth => {
    if (secret === undefined) return oidc.None();
    const listed = server.token_endpoint_auth_methods_supported ?? ['client_secret_basic'];
    return listed.includes('client_secret_basic') ? oidc.ClientSecretBasic(secret) : oidc.ClientSecretPost(secret);
  };

  /** New for each sign-in, so that secret, key set and the difference of the clocks are those of now. */
  const configure = async (): Promise<oidc.Configuration> => {
    const server = { ...(await currentMetadata()) };
    const client = {
      [oidc.clockSkew]: Math.round((clock.now() - Date.now()) / 1_000),
      [oidc.clockTolerance]: CLOCK_TOLERANCE_MS / 1_000,
    };
    const configuration = new oidc.Configuration(
      server,
      config.clientId,
      client,
      clientAuthentication(server, await readSecret()),
    );
    configuration.timeout = PROVIDER_TIMEOUT_MS / 1_000;
    if (ownFetch) configuration[oidc.customFetch] = ownFetch.fetch;
    if (config.issuer.startsWith('http:')) oidc.allowInsecureRequests(configuration);
    // Without this the token endpoint's TLS alone would vouch for who signed in (OpenID Connect Core section 3.1.3.7).
    oidc.enableNonRepudiationChecks(configuration);
    return configuration;
  };

  const claimsOf = async (configuration: oidc.Configuration, login: Login, callbackUrl: URL): Promise<Claims> => {
    const tokens = await oidc.authorizationCodeGrant(configuration, callbackUrl, {
      pkceCodeVerifier: login.codeVerifier,
      expectedState: login.state,
      expectedNonce: login.nonce,
      idTokenExpected: true,
    });
    const claims: Claims | undefined = tokens.claims();
    if (!claims) throw new SignInError('misconfigured', 'the provider sent no ID token');
    if (!lacksClaims(claims, config.claims) || !configuration.serverMetadata().userinfo_endpoint) return claims;
    const more = await oidc.fetchUserInfo(configuration, tokens.access_token, String(claims['sub']));
    return { ...more, ...claims };
  };

  return {
    problem: () => problem,
    async authorizationUrl(login, redirectUri, { switchAccount }) {
      try {
        const url = oidc.buildAuthorizationUrl(await configure(), {
          redirect_uri: redirectUri,
          scope: config.scopes.join(' '),
          state: login.state,
          nonce: login.nonce,
          code_challenge: await oidc.calculatePKCECodeChallenge(login.codeVerifier),
          code_challenge_method: 'S256',
          ...(switchAccount && { prompt: config.switchPrompt }),
        });
        return url.href;
      } catch (error) {
        throw toSignInError(error);
      }
    },
    async finish(login, callbackUrl) {
      let claims: Claims;
      try {
        claims = await claimsOf(await configure(), login, callbackUrl);
      } catch (error) {
        throw toSignInError(error);
      }
      const identity = readIdentity(claims, config.claims);
      if (typeof identity !== 'string') return identity;
      const fault = identity === 'email_unverified' ? 'refused' : 'misconfigured';
      throw new SignInError(fault, CLAIM_FAULTS[identity](config.claims.user));
    },
    endSessionUrl() {
      if (metadata?.end_session_endpoint === undefined) return undefined;
      const url = new URL(metadata.end_session_endpoint);
      url.searchParams.set('client_id', config.clientId);
      return url.href;
    },
    close() {
      isClosed = true;
      cancelRetry();
      ownFetch?.close();
    },
  };
};
