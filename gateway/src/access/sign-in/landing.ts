/** What the landing page lists: the environments that the visitor has made, with the addresses of their ports. */
import { portHost, publicUrl } from '../../../../shared/src/hostname.ts';
import type { Admission } from '../../../../shared/src/protocol/messages.ts';
import type { EnvironmentRoute } from '../../tunnels/route.ts';
import { admissionOf, type AdmissionPolicy } from '../admission.ts';
import type { ListedEnvironment } from './pages.ts';

/** Environments on the page; somebody with more knows their addresses. Beyond: counted, not shown. */
const MAX_LISTED_ENVIRONMENTS = 100;

const AUDIENCES: Readonly<Record<Admission, (organization: string | undefined) => string>> = {
  everyone: () => 'open to everyone',
  organization: (organization) => (organization === undefined ? 'only you' : `open to ${organization}`),
  creator_only: () => 'only you',
};

export interface LandingDeps {
  /** Ids of the environments whose creator is the user. Rejects with RefusedError `unavailable`. */
  readonly environmentsOf: (user: string) => Promise<readonly string[]>;
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  readonly policy: (organization: string | undefined) => AdmissionPolicy | undefined;
  readonly publicPort: () => number;
}

export const listEnvironments = async (
  user: string,
  domain: string,
  deps: LandingDeps,
): Promise<{ readonly environments: readonly ListedEnvironment[]; readonly hidden: number }> => {
  const ids = await deps.environmentsOf(user);
  const environments: ListedEnvironment[] = [];
  for (const id of ids.slice(0, MAX_LISTED_ENVIRONMENTS)) {
    const route = await deps.route(id);
    // It may have changed hands since the list was made.
    if (route.kind === 'unknown' || route.environment?.creator !== user) continue;
    const policy = deps.policy(route.organization);
    environments.push({
      id,
      isOnline: route.kind === 'online',
      ports: [...route.environment.ports]
        .sort((one, other) => one.port - other.port)
        .map((exposed) => ({
          port: exposed.port,
          name: exposed.name,
          url: publicUrl(portHost(exposed.port, id, domain), deps.publicPort()),
          audience: AUDIENCES[admissionOf(exposed, policy)](route.organization),
        })),
    });
  }
  return { environments, hidden: Math.max(0, ids.length - MAX_LISTED_ENVIRONMENTS) };
};
