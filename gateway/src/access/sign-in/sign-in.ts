/** Puts the parts of the sign-in together. */
import type { Clock } from '../../../../shared/src/clock.ts';
import type { SignInConfig } from '../../config.ts';
import type { Logger } from '../../observability/log.ts';
import { createPortSessions, type PortSessions } from '../port-session.ts';
import type { Revocations } from '../revocations.ts';
import type { SigningKeys } from '../signing-keys.ts';
import { createApexRoutes } from './apex-routes.ts';
import type { LandingDeps } from './landing.ts';
import { createLogins } from './login.ts';
import { createPortCodes } from './port-code.ts';
import { createPortPages, type PortPages } from './port-pages.ts';
import { createProvider, type Provider } from './provider.ts';
import type { RegisterRoutes } from './routes.ts';
import { createSessions } from './session.ts';

export interface SignInDeps extends LandingDeps {
  readonly keys: Pick<SigningKeys, 'sign' | 'verify'>;
  readonly revocations: Pick<Revocations, 'isRevoked' | 'revokeSession'>;
  /** Ports at which browsers reach the gateway. */
  readonly ports: Pick<ReadonlySet<number>, 'has'>;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface SignIn {
  readonly apex: RegisterRoutes;
  readonly portPages: PortPages;
  readonly portSessions: PortSessions;
  /** Why nobody can sign in right now, for operators. */
  problem(): string | undefined;
  /**
   * Another provider, or another account at it. Sessions go on; who is at the old one to sign in has to begin again.
   * Rejects when a file of the configuration cannot be read, and nothing has changed then.
   */
  reconfigure(config: SignInConfig): Promise<void>;
  close(): void;
}

/** Does not wait for the provider. Rejects when a file of the configuration cannot be read. */
export const createSignIn = async (deps: SignInDeps, config: SignInConfig): Promise<SignIn> => {
  let current = await createProvider(deps, config);
  const provider: Pick<Provider, 'authorizationUrl' | 'finish' | 'endSessionUrl'> = {
    authorizationUrl: (...args) => current.authorizationUrl(...args),
    finish: (...args) => current.finish(...args),
    endSessionUrl: () => current.endSessionUrl(),
  };
  const portSessions = createPortSessions(deps);
  const codes = createPortCodes(deps);
  return {
    apex: createApexRoutes({
      ...deps,
      provider,
      codes,
      sessions: createSessions(deps),
      logins: createLogins(deps),
    }),
    portPages: createPortPages({ ...deps, codes, sessions: portSessions }),
    portSessions,
    problem: () => current.problem(),
    async reconfigure(next) {
      const replaced = current;
      current = await createProvider(deps, next);
      replaced.close();
    },
    close: () => current.close(),
  };
};
