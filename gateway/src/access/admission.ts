/**
 * Who may open a port, as pure functions of what is known of it: the admission it was announced with, the policy of its
 * organization, and who asks. Whatever is not known to be open counts as private.
 */
import {
  ADMISSIONS,
  type Admission,
  type Environment,
  type ExposedPort,
} from '../../../shared/src/protocol/messages.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';

/** What an organization lets its runners open, whatever they announce. */
export interface AdmissionPolicy {
  /** False: every port is for its creator only. */
  readonly portSharing: boolean;
  readonly highestAdmission: Admission;
}

/** Somebody who showed who they are. */
export interface Visitor {
  readonly user: string;
  readonly organizations: readonly string[];
}

/** An environment, and whose runner announces it. A route with a known environment is one. */
export interface OwnedEnvironment {
  readonly environment: Environment;
  readonly organization: string | undefined;
}

/** The narrower of two; {@link ADMISSIONS} goes from the widest to the narrowest. */
const narrower = (one: Admission, other: Admission): Admission =>
  ADMISSIONS.indexOf(one) > ADMISSIONS.indexOf(other) ? one : other;

/** The admission that is in force. A port that is not exposed has the narrowest. */
export const admissionOf = (
  exposed: Pick<ExposedPort, 'admission'> | undefined,
  policy: AdmissionPolicy | undefined,
): Admission => {
  if (!exposed) return 'creator_only';
  if (!policy) return exposed.admission;
  return narrower(exposed.admission, policy.portSharing ? policy.highestAdmission : 'creator_only');
};

export const exposedPort = (environment: Environment, port: number): ExposedPort | undefined =>
  environment.ports.find((candidate) => candidate.port === port);

/** Whether the port is served to anybody. */
export const isOpenToEveryone = (
  route: EnvironmentRoute,
  port: number,
  policy: AdmissionPolicy | undefined,
): boolean => {
  if (route.kind === 'unknown' || !route.environment) return false;
  return admissionOf(exposedPort(route.environment, port), policy) === 'everyone';
};

/**
 * Whether `visitor` (undefined: somebody unknown) may open a port; `exposed` is undefined for one that is not exposed.
 * `policy` is that of the environment's organization.
 */
export const mayOpen = (
  visitor: Visitor | undefined,
  { environment, organization }: OwnedEnvironment,
  exposed: ExposedPort | undefined,
  policy: AdmissionPolicy | undefined,
): boolean => {
  const admission = admissionOf(exposed, policy);
  if (admission === 'everyone') return true;
  if (!visitor) return false;
  if (visitor.user === environment.creator) return true;
  return admission === 'organization' && organization !== undefined && visitor.organizations.includes(organization);
};

/** What of an announcement is served narrower than it was announced, one line for a person; undefined when nothing is. */
export const narrowedBy = (
  { environment, organization }: OwnedEnvironment,
  policy: AdmissionPolicy | undefined,
): string | undefined => {
  const narrowed = environment.ports.filter((port) => admissionOf(port, policy) !== port.admission);
  if (narrowed.length === 0) return undefined;
  const ports = narrowed.map((port) => `${port.port} as ${admissionOf(port, policy)} instead of ${port.admission}`);
  return `the policy of the organization ${organization ?? ''} serves port ${ports.join(', ')}`;
};
