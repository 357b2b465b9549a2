/**
 * Who may open a port. Until visitors can sign in, only ports that are open to everyone are served; whatever is not
 * known to be open counts as private.
 */
import { ADMISSIONS, type Admission } from '../../../shared/src/protocol/messages.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';

export type AdmissionResult = { readonly allow: true } | { readonly allow: false; readonly error: GatewayErrorCode };

const ALLOW: AdmissionResult = { allow: true };
const refuse = (error: GatewayErrorCode): AdmissionResult => ({ allow: false, error });

/** What an organization lets its runners open, whatever they announce. */
export interface AdmissionPolicy {
  /** False: every port is for its creator only. */
  readonly portSharing: boolean;
  readonly highestAdmission: Admission;
}

/** The narrower of two; {@link ADMISSIONS} goes from the widest to the narrowest. */
const narrower = (one: Admission, other: Admission): Admission =>
  ADMISSIONS.indexOf(one) > ADMISSIONS.indexOf(other) ? one : other;

const admissionOf = (announced: Admission, policy: AdmissionPolicy | undefined): Admission =>
  policy ? narrower(announced, policy.portSharing ? policy.highestAdmission : 'creator_only') : announced;

/** Decides in this order: existence, access, availability. `policy` is that of the environment's organization. */
export const admit = (route: EnvironmentRoute, port: number, policy: AdmissionPolicy | undefined): AdmissionResult => {
  if (route.kind === 'unknown') return refuse('unknown_environment');
  // An environment whose announcement was never seen, or is forgotten: nothing says that its ports are open.
  if (!route.environment) return refuse('sign_in_required');
  const exposed = route.environment.ports.find((candidate) => candidate.port === port);
  if (exposed && admissionOf(exposed.admission, policy) !== 'everyone') return refuse('sign_in_required');
  if (route.kind === 'offline') return refuse('runner_offline');
  return exposed ? ALLOW : refuse('port_not_exposed');
};
