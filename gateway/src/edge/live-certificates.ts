/**
 * Certificates whose files are followed: a replacement serves the next handshakes, connections that are up keep what they
 * have. One that cannot be used is reported, and the one before it stays.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Logger } from '../observability/log.ts';
import {
  CertificateError,
  createStore,
  findWarnings,
  loadPairs,
  parsePair,
  readPair,
  type CertificateOptions,
  type CertificateStore,
  type LoadedCertificate,
} from './certificates.ts';

/**
 * How often the files are read, ms. They are asked instead of watched: mounts of containers and network file systems
 * tell of no change. A few KiB each time; a new certificate has to be in use within a minute.
 */
export const CERTIFICATE_CHECK_MS = 10_000;
/**
 * Checks that have to fail in a row before the fault is reported: certificate and key are two files, and may be caught
 * between the writing of the one and of the other.
 */
const CHECKS_BEFORE_REPORT = 2;

export interface LiveCertificates extends CertificateStore {
  /** Calls back when any certificate was replaced. Returns what ends it. */
  onChange(listener: () => void): () => void;
  /** What is wrong with files that would replace a certificate, one sentence each. */
  faults(): readonly string[];
  /** Reads the files now, and reports faults at once. */
  check(): Promise<{ readonly replaced: readonly string[]; readonly faults: readonly string[] }>;
  close(): void;
}

/** Rejects with {@link CertificateError} when one cannot be used now. */
export const openCertificates = async (
  deps: { readonly clock: Clock; readonly log: Pick<Logger, 'info' | 'warn' | 'error'> },
  options: CertificateOptions,
): Promise<LiveCertificates> => {
  const { clock, log } = deps;
  const { pairs, loaded, store: first } = await loadPairs({ clock }, options);
  let store = first;
  const current: LoadedCertificate[] = [...loaded];
  const faults = pairs.map(() => ({ message: '', seen: 0 }));
  const listeners = new Set<() => void>();
  let isClosed = false;
  let cancel: () => void = () => {};
  let running: Promise<readonly string[]> | undefined;

  const describe = ({ info }: LoadedCertificate) => ({
    names: info.names,
    certificatePath: info.certificatePath,
    fingerprint: info.fingerprint,
    validTo: new Date(info.validTo).toISOString(),
  });

  /** The replacement of one pair, if there is one. Rejects with {@link CertificateError}. */
  const findReplacement = async (index: number): Promise<LoadedCertificate | undefined> => {
    const pair = pairs[index]!;
    const text = await readPair(pair);
    const { cert, key } = current[index]!;
    return text.cert === cert && text.key === key ? undefined : parsePair(pair, text);
  };

  const note = (index: number, error: CertificateError, isUrgent: boolean): void => {
    const fault = faults[index]!;
    const seen = fault.message === error.message ? fault.seen : 0;
    faults[index] = { message: error.message, seen: isUrgent ? CHECKS_BEFORE_REPORT : seen + 1 };
    if (seen >= CHECKS_BEFORE_REPORT || faults[index].seen < CHECKS_BEFORE_REPORT) return;
    log.error(
      { code: error.code, problem: error.message, stays: describe(current[index]!) },
      'a certificate cannot be replaced, the one before it stays',
    );
  };

  const checkAll = async (isUrgent: boolean): Promise<readonly string[]> => {
    const replaced: string[] = [];
    for (const index of pairs.keys()) {
      try {
        const replacement = await findReplacement(index);
        faults[index] = { message: '', seen: 0 };
        if (!replacement) continue;
        current[index] = replacement;
        replaced.push(replacement.info.certificatePath);
        log.info(describe(replacement), 'certificate replaced');
      } catch (error) {
        if (!(error instanceof CertificateError)) throw error;
        note(index, error, isUrgent);
      }
    }
    if (replaced.length > 0 && !isClosed) {
      const [head, ...rest] = current;
      const all = [head!, ...rest] as const;
      store = createStore(all, findWarnings(all, options.domains, clock.now()));
      for (const warning of store.warnings) log.warn({ warning }, 'a certificate needs attention');
      for (const listener of [...listeners]) listener();
    }
    return replaced;
  };
  /** One at a time. */
  const check = async (isUrgent: boolean): Promise<readonly string[]> => {
    await running?.catch(() => undefined);
    running = checkAll(isUrgent);
    return running;
  };
  const schedule = (): void => {
    if (isClosed) return;
    cancel = clock.timer(CERTIFICATE_CHECK_MS, () => {
      check(false)
        .catch((error: unknown) => log.error({ err: error }, 'the certificates could not be checked'))
        .finally(schedule);
    });
  };
  schedule();

  const reported = (): string[] =>
    faults.filter(({ seen }) => seen >= CHECKS_BEFORE_REPORT).map(({ message }) => message);
  return {
    contextFor: (serverName) => store.contextFor(serverName),
    get fallback() {
      return store.fallback;
    },
    get certificates() {
      return store.certificates;
    },
    get warnings() {
      return store.warnings;
    },
    onChange(listener) {
      const own = (): void => listener();
      listeners.add(own);
      return () => listeners.delete(own);
    },
    faults: reported,
    async check() {
      const replaced = await check(true);
      return { replaced, faults: reported() };
    },
    close() {
      isClosed = true;
      cancel();
      listeners.clear();
    },
  };
};
