/**
 * Names to addresses. The system's resolver (`getaddrinfo`) runs on a pool of four threads that file access shares, and
 * it cannot be cancelled: one slow name server must not take them all. So a name is asked for once at a time, a few
 * names are asked for together, and a name that finds no free place goes to the DNS resolver that needs no thread.
 */
import dns from 'node:dns';
import { isIP } from 'node:net';
import type { Clock } from '../../shared/src/clock.ts';
import type { ResolvedAddress } from './happy-eyeballs.ts';

/** Look-ups in the thread pool at once; of four threads, two stay free for files. */
const MAX_SYSTEM_LOOKUPS = 2;
/** How long an answer is used again, ms: long enough for the requests of a page, short enough for a moved server. */
const ANSWER_LIFETIME_MS = 5_000;
/** Names whose answer is kept; beyond that the oldest is dropped. */
const MAX_ANSWERS = 1_024;
/** The whole time a look-up may take, ms. Below 5 s, so that the request is answered within these. */
export const RESOLVE_TIMEOUT_MS = 4_500;

export type ResolveErrorCode = 'not_found' | 'timeout' | 'failed';

export class ResolveError extends Error {
  override readonly name = 'ResolveError';
  readonly code: ResolveErrorCode;
  constructor(code: ResolveErrorCode, host: string, options: { cause?: unknown } = {}) {
    const texts = { not_found: 'has no address', timeout: 'was not resolved in time', failed: 'could not be resolved' };
    super(`the name ${host} ${texts[code]}`, options);
    this.code = code;
  }
}

export interface Resolver {
  /** Addresses of a name, or the address itself. Rejects with {@link ResolveError} or the signal's reason. */
  resolve(host: string, options: { signal: AbortSignal }): Promise<readonly ResolvedAddress[]>;
  /** What was known of the name did not work. */
  forget(host: string): void;
}

const toFamily = (family: number): 4 | 6 => (family === 6 ? 6 : 4);

/** RFC 6761 section 6.3: names that end in `.localhost` are loopback; the C library does not see to it everywhere. */
const isLocalhostName = (host: string): boolean => /^(?:.+\.)?localhost\.?$/i.test(host);
const LOOPBACK_ADDRESSES: readonly ResolvedAddress[] = [
  { address: '127.0.0.1', family: 4 },
  { address: '::1', family: 6 },
];

const isNotFound = (error: unknown): boolean =>
  ['ENOTFOUND', 'ENODATA', 'EAI_NODATA', 'EAI_NONAME'].includes((error as NodeJS.ErrnoException).code ?? '');

export interface ResolverDeps {
  readonly clock: Clock;
  /** The system's resolver. */
  readonly lookup?: (host: string) => Promise<readonly { address: string; family: number }[]>;
  /** DNS without the thread pool. */
  readonly query?: (host: string) => Promise<readonly ResolvedAddress[]>;
}

const queryDns = async (host: string): Promise<readonly ResolvedAddress[]> => {
  const resolver = new dns.promises.Resolver({ timeout: 1_500, tries: 2 });
  const [four, six] = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)]);
  const found = [
    ...(four.status === 'fulfilled' ? four.value.map((address) => ({ address, family: 4 as const })) : []),
    ...(six.status === 'fulfilled' ? six.value.map((address) => ({ address, family: 6 as const })) : []),
  ];
  if (found.length === 0 && four.status === 'rejected') throw four.reason as Error;
  return found;
};

const waitFor = <T>(clock: Clock, host: string, answer: Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const finish = (act: () => void): void => {
      cancel();
      signal.removeEventListener('abort', onAbort);
      act();
    };
    const onAbort = (): void => finish(() => reject(signal.reason as Error));
    const cancel = clock.timer(RESOLVE_TIMEOUT_MS, () => finish(() => reject(new ResolveError('timeout', host))));
    signal.addEventListener('abort', onAbort, { once: true });
    answer.then(
      (value) => finish(() => resolve(value)),
      (error: Error) => finish(() => reject(error)),
    );
  });

export const createResolver = (deps: ResolverDeps): Resolver => {
  const { clock } = deps;
  const lookup = deps.lookup ?? ((host: string) => dns.promises.lookup(host, { all: true, order: 'verbatim' }));
  const query = deps.query ?? queryDns;
  const asking = new Map<string, Promise<readonly ResolvedAddress[]>>();
  const answers = new Map<string, { readonly addresses: readonly ResolvedAddress[]; readonly until: number }>();
  let systemLookups = 0;

  const ask = async (host: string): Promise<readonly ResolvedAddress[]> => {
    if (systemLookups >= MAX_SYSTEM_LOOKUPS) return query(host);
    systemLookups += 1;
    try {
      return (await lookup(host)).map(({ address, family }) => ({ address, family: toFamily(family) }));
    } finally {
      systemLookups -= 1;
    }
  };

  const askAndRemember = async (host: string): Promise<readonly ResolvedAddress[]> => {
    try {
      const addresses = await ask(host);
      if (addresses.length === 0) throw new ResolveError('not_found', host);
      if (answers.size >= MAX_ANSWERS) answers.delete(answers.keys().next().value ?? '');
      answers.set(host, { addresses, until: clock.monotonic() + ANSWER_LIFETIME_MS });
      return addresses;
    } catch (error) {
      if (error instanceof ResolveError) throw error;
      throw new ResolveError(isNotFound(error) ? 'not_found' : 'failed', host, { cause: error });
    } finally {
      asking.delete(host);
    }
  };

  return {
    async resolve(host, { signal }) {
      const family = isIP(host);
      if (family !== 0) return [{ address: host, family: toFamily(family) }];
      if (isLocalhostName(host)) return LOOPBACK_ADDRESSES;
      const known = answers.get(host);
      if (known && known.until > clock.monotonic()) return known.addresses;
      answers.delete(host);
      let answer = asking.get(host);
      if (!answer) {
        answer = askAndRemember(host);
        // It may outlive everybody who waited for it.
        answer.catch(() => undefined);
        asking.set(host, answer);
      }
      return waitFor(clock, host, answer, signal);
    },
    forget(host) {
      answers.delete(host);
    },
  };
};
