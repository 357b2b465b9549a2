/** Listening on the addresses of an option, with or without IPv6. */
import type { ListenAddress } from './config.ts';
import type { Logger } from './observability/log.ts';
import { isNoIPv6, listenError, StartError } from './start-error.ts';

/** Listens on each address; where the machine has no IPv6, `[::]` is passed over (or becomes 0.0.0.0, see `fallback`). */
export const listenAll = async <T>(
  addresses: readonly ListenAddress[],
  listen: (address: ListenAddress) => Promise<T>,
  options: { option: string; protocol: 'TCP' | 'UDP'; log: Logger; fallback: boolean },
): Promise<T[]> => {
  const bound: T[] = [];
  for (const address of addresses) {
    try {
      bound.push(await listen(address));
    } catch (error) {
      if (address.host !== '::' || !isNoIPv6(error)) {
        throw listenError(options.option, address, options.protocol, error);
      }
      options.log.warn(
        { option: options.option, port: address.port },
        'this machine has no IPv6, IPv4 alone is served',
      );
      if (!options.fallback) continue;
      const ipv4 = { host: '0.0.0.0', port: address.port };
      bound.push(
        await listen(ipv4).catch((cause: unknown) => {
          throw listenError(options.option, ipv4, options.protocol, cause);
        }),
      );
    }
  }
  if (bound.length === 0 && addresses.length > 0) {
    throw new StartError(options.option, 'none of its addresses can be listened on. This machine has no IPv6.');
  }
  return bound;
};
