/** Certificates of the public listeners, picked by the server name of the TLS handshake. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type SecureContext } from 'node:tls';
import type { Clock } from '../../../shared/src/clock.ts';
import { ensureSelfSigned } from './self-signed.ts';
import { TLS_OPTIONS } from './tls-options.ts';

export interface CertificatePair {
  readonly certificate: string;
  readonly key: string;
}

export interface CertificateOptions {
  readonly tls: readonly CertificatePair[];
  readonly stateDir: string;
  readonly domains: readonly string[];
}

export interface CertificateInfo {
  readonly certificatePath: string;
  readonly names: readonly string[];
  /** ms since the epoch. */
  readonly validTo: number;
  /** SHA-256 of the certificate, hex with colons. */
  readonly fingerprint: string;
  readonly selfSigned: boolean;
}

export interface CertificateStore {
  /** The context for a server name; the first certificate for a name that none covers, and for none. */
  contextFor(serverName: string | undefined): SecureContext;
  /** PEM texts of the first certificate, for clients that send no server name. */
  readonly fallback: { readonly cert: string; readonly key: string };
  readonly certificates: readonly CertificateInfo[];
  /** What does not stop the gateway but an operator wants to know, one sentence each. */
  readonly warnings: readonly string[];
}

export type CertificateFault = 'unreadable' | 'not_pem' | 'encrypted' | 'key_mismatch' | 'no_names' | 'refused';

/** A certificate or key file cannot be used. The message names the file and says what is wrong with it. */
export class CertificateError extends Error {
  override readonly name = 'CertificateError';
  readonly code: CertificateFault;
  readonly path: string;
  constructor(code: CertificateFault, path: string, detail: string, options: { cause?: unknown } = {}) {
    super(`${path}: ${detail}`, options);
    this.code = code;
    this.path = path;
  }
}

/** What the two files of a pair hold. */
interface PairText {
  readonly cert: string;
  readonly key: string;
}

export interface LoadedCertificate extends PairText {
  readonly info: CertificateInfo;
  readonly context: SecureContext;
}
type Loaded = LoadedCertificate;

const READ_FAULTS: Readonly<Record<string, string>> = {
  ENOENT: 'the file does not exist',
  EACCES: 'the gateway may not read the file',
  EISDIR: 'this is a directory, not a file',
};

const readPem = async (path: string, what: string, marker: RegExp): Promise<string> => {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    throw new CertificateError('unreadable', path, `${what}: ${READ_FAULTS[code] ?? `cannot be read (${code})`}`, {
      cause,
    });
  }
  if (!marker.test(text)) throw new CertificateError('not_pem', path, `${what}: the file is not in PEM format`);
  return text;
};

/** DNS names of a certificate in lower case; the common name where it has none of them, as in old private ones. */
const namesOf = (certificate: X509Certificate): string[] => {
  const alternative = (certificate.subjectAltName ?? '')
    .split(', ')
    .filter((name) => name.startsWith('DNS:'))
    .map((name) => name.slice(4).toLowerCase());
  if (alternative.length > 0) return alternative;
  const common = /^CN=(.+)$/m.exec(certificate.subject)?.[1];
  return common ? [common.toLowerCase()] : [];
};

/** Rejects with {@link CertificateError}. */
export const readPair = async (pair: CertificatePair): Promise<PairText> => ({
  cert: await readPem(pair.certificate, 'TLS certificate', /-----BEGIN (?:TRUSTED )?CERTIFICATE-----/),
  key: await readPem(pair.key, 'TLS key', /-----BEGIN [A-Z ]*PRIVATE KEY-----/),
});

/** Throws {@link CertificateError}. */
export const parsePair = (pair: CertificatePair, { cert, key }: PairText): LoadedCertificate => {
  if (/ENCRYPTED/.test(key)) {
    throw new CertificateError(
      'encrypted',
      pair.key,
      'TLS key: the key is encrypted with a passphrase; decrypt it first',
    );
  }
  let parsed: X509Certificate;
  try {
    parsed = new X509Certificate(cert);
  } catch (cause) {
    throw new CertificateError(
      'not_pem',
      pair.certificate,
      'TLS certificate: the PEM text holds no valid certificate',
      { cause },
    );
  }
  let matches: boolean;
  try {
    matches = parsed.checkPrivateKey(createPrivateKey(key));
  } catch (cause) {
    throw new CertificateError('not_pem', pair.key, 'TLS key: the PEM text holds no valid private key', { cause });
  }
  if (!matches) {
    throw new CertificateError(
      'key_mismatch',
      pair.key,
      `TLS key: the key does not belong to the first certificate in ${pair.certificate}`,
    );
  }
  const names = namesOf(parsed);
  if (names.length === 0) {
    throw new CertificateError('no_names', pair.certificate, 'TLS certificate: it names no host (subjectAltName)');
  }
  let context: SecureContext;
  try {
    context = createSecureContext({ ...TLS_OPTIONS, cert, key });
  } catch (cause) {
    throw new CertificateError(
      'refused',
      pair.certificate,
      `TLS certificate: OpenSSL refuses it (${(cause as Error).message})`,
      { cause },
    );
  }
  const info: CertificateInfo = {
    certificatePath: pair.certificate,
    names,
    validTo: parsed.validToDate.getTime(),
    fingerprint: parsed.fingerprint256,
    selfSigned: parsed.issuer === parsed.subject && parsed.verify(parsed.publicKey),
  };
  return { info, cert, key, context };
};

export const findWarnings = (loaded: readonly Loaded[], domains: readonly string[], now: number): string[] => {
  const covered = new Set(loaded.flatMap(({ info }) => info.names));
  const uncovered = domains.flatMap((domain) => [domain, `*.${domain}`]).filter((name) => !covered.has(name));
  return [
    ...loaded
      .filter(({ info }) => info.validTo <= now)
      .map(({ info }) => `${info.certificatePath}: the certificate expired on ${new Date(info.validTo).toISOString()}`),
    ...uncovered.map((name) => `no certificate covers ${name}: browsers will refuse it`),
  ];
};

export const createStore = (loaded: readonly [Loaded, ...Loaded[]], warnings: readonly string[]): CertificateStore => {
  const byName = new Map<string, SecureContext>();
  for (const { info, context } of loaded) {
    for (const name of info.names) if (!byName.has(name)) byName.set(name, context);
  }
  const [first] = loaded;
  return {
    contextFor(serverName) {
      const name = (serverName ?? '').toLowerCase().replace(/\.$/, '');
      // A wildcard stands for one label (RFC 6125 section 6.4.3).
      return byName.get(name) ?? byName.get(`*${name.slice(Math.max(0, name.indexOf('.')))}`) ?? first.context;
    },
    fallback: { cert: first.cert, key: first.key },
    certificates: loaded.map(({ info }) => info),
    warnings,
  };
};

/**
 * Reads the certificates of `tls`, or makes one under `stateDir` where that is empty. Rejects with
 * {@link CertificateError} for the first pair that cannot be used; an expired one can.
 */
export const loadCertificates = async (
  deps: { readonly clock: Clock },
  options: CertificateOptions,
): Promise<CertificateStore> => (await loadPairs(deps, options)).store;

/** The same, with what is needed to follow the files. */
export const loadPairs = async (
  deps: { readonly clock: Clock },
  options: CertificateOptions,
): Promise<{
  readonly pairs: readonly CertificatePair[];
  readonly loaded: readonly [LoadedCertificate, ...LoadedCertificate[]];
  readonly store: CertificateStore;
}> => {
  const pairs = options.tls.length > 0 ? options.tls : [await ensureSelfSigned(deps, options)];
  const [first, ...rest] = await Promise.all(pairs.map(async (pair) => parsePair(pair, await readPair(pair))));
  if (!first) throw new TypeError('there is no certificate');
  const loaded = [first, ...rest] as const;
  return { pairs, loaded, store: createStore(loaded, findWarnings(loaded, options.domains, deps.clock.now())) };
};
