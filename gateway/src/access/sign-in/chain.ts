/**
 * Which ports of an environment get a session with the one that the visitor wants to open, so that a page of one can
 * use the others. Pure. The browser is sent over them, first to collect a random value's hash of each, then to give each
 * its session; with n ports beside the wanted one:
 *
 *     apex → n × /_gitpod/chain → apex → n × /_gitpod/auth → /_gitpod/auth of the wanted port → the page
 *
 * These are 2n + 3 redirects. Browsers give up after 20, some after 16.
 */
import { admissionOf, mayOpen, type AdmissionPolicy, type OwnedEnvironment, type Visitor } from '../admission.ts';

/** Ports beside the wanted one. Beyond: the visitor opens them by hand, without another sign-in. */
export const MAX_CHAINED_PORTS = 6;
/** Redirects from one page to the next. Beyond: fewer ports. */
export const MAX_REDIRECTS = 15;

/** From the apex, over `chained` other ports, to the page. */
export const redirectsOf = (chained: number): number => (chained === 0 ? 2 : 2 * chained + 3);

/** `redirectsBefore`: those that brought the browser here from the last page. */
export const chainedPorts = (
  visitor: Visitor,
  owned: OwnedEnvironment,
  policy: AdmissionPolicy | undefined,
  { wanted, redirectsBefore }: { readonly wanted: number; readonly redirectsBefore: number },
): number[] => {
  const affordable = Math.floor((MAX_REDIRECTS - redirectsBefore - 3) / 2);
  return owned.environment.ports
    .filter((exposed) => exposed.port !== wanted && admissionOf(exposed, policy) !== 'everyone')
    .filter((exposed) => mayOpen(visitor, owned, exposed, policy))
    .map(({ port }) => port)
    .slice(0, Math.max(0, Math.min(MAX_CHAINED_PORTS, affordable)));
};
