/** What keeps a gateway from starting, said so that a person can act: which option, what is wrong, what to do. */
import { describeError } from '../../shared/src/errors.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';

export class StartError extends Error {
  override readonly name = 'StartError';
  /** Path of the option in the configuration. */
  readonly option: string;
  /** The whole text for a person. */
  readonly problem: string;
  constructor(option: string, problem: string, options: { cause?: unknown } = {}) {
    super(`${option}: ${problem}`, options);
    this.option = option;
    this.problem = this.message;
  }
}

/** The system's code behind an error of `listen`, wherever it stands in the chain of causes. */
const systemCode = (error: unknown): string | undefined => {
  for (let current = error, depth = 0; current instanceof Error && depth < 5; depth++, current = current.cause) {
    if ('code' in current && typeof current.code === 'string' && /^E[A-Z]+$/.test(current.code)) return current.code;
  }
  return undefined;
};

/** Whether the machine has no IPv6 at all, so that `[::]` cannot be listened on. */
export const isNoIPv6 = (error: unknown): boolean => {
  const code = systemCode(error);
  return code === 'EAFNOSUPPORT' || code === 'EADDRNOTAVAIL';
};

/** Turns the error of a listener into one that names the option and what to do. */
export const listenError = (
  option: string,
  address: { readonly host: string; readonly port: number } | string,
  protocol: 'TCP' | 'UDP' | 'socket',
  cause: unknown,
): StartError => {
  const where = typeof address === 'string' ? address : `${protocol} ${formatHostPort(address.host, address.port)}`;
  switch (systemCode(cause)) {
    case 'EADDRINUSE':
      return new StartError(
        option,
        `${where} is in use by another process. Stop that process, or set ${option} to a free port.`,
        { cause },
      );
    case 'EACCES':
    case 'EPERM':
      return new StartError(
        option,
        `${where} may not be listened on. Ports below 1024 need CAP_NET_BIND_SERVICE (or a load balancer in front); ` +
          `or set ${option} to another port.`,
        { cause },
      );
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
      return new StartError(option, `${where} is not an address of this machine. Set ${option} to one that is.`, {
        cause,
      });
    default:
      return new StartError(option, `${where} cannot be listened on: ${describeError(cause)}`, { cause });
  }
};
