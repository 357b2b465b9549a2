/** Where OAuth callbacks go: the runner's own HTTP service. And the URLs at which a gateway takes them. */
import { publicUrl } from '../../shared/src/hostname.ts';
import { hostProblem } from './environments.ts';
import type { GatewayUrl } from './gateway-url.ts';

export interface OauthTarget {
  readonly host: string;
  readonly port: number;
  /** The certificate is verified: codes go there. */
  readonly tls: boolean;
}

/** `http://127.0.0.1:8081`. Throws RangeError with a sentence for the person who wrote it. */
export const parseOauthTarget = (text: string): OauthTarget => {
  const url = URL.parse(text);
  const example = 'it looks like http://127.0.0.1:8081';
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new RangeError(`must be the URL of an HTTP service: ${example}`);
  }
  if (url.username || url.password) throw new RangeError('must have no user name and no password in it');
  if (url.pathname !== '/' || url.search || url.hash) {
    throw new RangeError(`must end behind the host, because callbacks come with their own path: ${url.origin}`);
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const problem = hostProblem(host);
  if (problem !== undefined) throw new RangeError(problem);
  const tls = url.protocol === 'https:';
  return { host, port: url.port === '' ? (tls ? 443 : 80) : Number(url.port), tls };
};

/** Source code managers whose callback URLs are told without being asked for; any other name is as good. */
export const KNOWN_SCMS = ['github', 'gitlab', 'bitbucket', 'azure-devops'] as const;

const SCM = /^[a-z0-9][a-z0-9-]{0,31}$/;

/** The URL to register with an SCM. It never changes for a runner. Throws RangeError. */
export const callbackUrl = (gateway: GatewayUrl, runnerId: string, scm: string): string => {
  if (!SCM.test(scm)) {
    throw new RangeError(`"${scm}" must be 1 to 32 lower-case letters, digits and hyphens, and begin with no hyphen`);
  }
  const domain = gateway.host.slice('api.'.length);
  return publicUrl(`${runnerId}.${domain}`, gateway.port, `/oauth/${scm}/callback`);
};
