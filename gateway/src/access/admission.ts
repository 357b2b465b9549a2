/**
 * Who may open a port. Until visitors can sign in, only ports that are open to everyone are served; whatever is not
 * known to be open counts as private.
 */
import type { GatewayErrorCode } from '../errors.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';

export type AdmissionResult = { readonly allow: true } | { readonly allow: false; readonly error: GatewayErrorCode };

const ALLOW: AdmissionResult = { allow: true };
const refuse = (error: GatewayErrorCode): AdmissionResult => ({ allow: false, error });

/**
 * Decides in the order of design section 8: existence, access, availability. `tls` (the "s" of a port host) changes
 * how the upstream is spoken to, never who may speak to it.
 */
export const admit = (route: EnvironmentRoute, port: number, _tls: boolean): AdmissionResult => {
  if (route.kind === 'unknown') return refuse('unknown_environment');
  // An environment whose announcement was never seen, or is forgotten: nothing says that its ports are open.
  if (!route.environment) return refuse('sign_in_required');
  const exposed = route.environment.ports.find((candidate) => candidate.port === port);
  if (exposed && exposed.admission !== 'everyone') return refuse('sign_in_required');
  if (route.kind === 'offline') return refuse('runner_offline');
  return exposed ? ALLOW : refuse('port_not_exposed');
};
