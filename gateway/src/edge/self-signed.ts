/** The certificate of a gateway that was given none: made once, kept in the state directory, renewed by itself. */
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto';
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../../shared/src/clock.ts';
import { makeSelfSignedCertificate } from './self-signed-certificate.ts';

/** Browsers accept no longer validity of certificates made after 2020-09-01 (Apple, Chromium). */
export const SELF_SIGNED_LIFETIME_MS = 397 * 24 * 3_600_000;
/** Renewed before people see an expired one: gateways run for weeks. */
const SELF_SIGNED_RENEW_BEFORE_MS = 30 * 24 * 3_600_000;
/** Before now, so that clients with a clock behind accept it. */
const BACKDATE_MS = 24 * 3_600_000;

export interface SelfSignedPaths {
  readonly certificate: string;
  readonly key: string;
}

/** Names of the certificate. `localhost` is there for whoever tries the gateway on one machine. */
const namesFor = (domains: readonly string[]): string[] => [
  ...new Set([...domains.flatMap((domain) => [domain, `*.${domain}`]), 'localhost']),
];

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

/** Whether the files hold a pair that still serves; whatever else they hold is replaced. */
const isUsable = (certificate: string, key: string, names: readonly string[], now: number): boolean => {
  try {
    const parsed = new X509Certificate(certificate);
    const held = new Set((parsed.subjectAltName ?? '').split(', ').map((name) => name.replace(/^DNS:/, '')));
    return (
      parsed.checkPrivateKey(createPrivateKey(key)) &&
      names.every((name) => held.has(name)) &&
      held.size === names.length &&
      parsed.validFromDate.getTime() <= now &&
      parsed.validToDate.getTime() - SELF_SIGNED_RENEW_BEFORE_MS > now
    );
  } catch {
    return false;
  }
};

/** Written beside and renamed, so that nobody ever reads half a file. */
const replaceFile = async (path: string, content: string, mode: number): Promise<void> => {
  const beside = `${path}.${randomBytes(6).toString('hex')}`;
  await writeFile(beside, content, { mode, flag: 'wx' });
  await chmod(beside, mode);
  await rename(beside, path);
};

/** Makes sure of a self-signed certificate for `domains` and everything one label below them. */
export const ensureSelfSigned = async (
  deps: { readonly clock: Clock },
  options: { readonly stateDir: string; readonly domains: readonly string[] },
): Promise<SelfSignedPaths & { readonly made: boolean }> => {
  const directory = join(options.stateDir, 'self-signed');
  const paths = { certificate: join(directory, 'certificate.pem'), key: join(directory, 'key.pem') };
  const names = namesFor(options.domains);
  const now = deps.clock.now();
  await mkdir(directory, { recursive: true, mode: 0o700 });
  try {
    const [certificate, key] = await Promise.all([readFile(paths.certificate, 'utf8'), readFile(paths.key, 'utf8')]);
    if (isUsable(certificate, key, names, now)) return { ...paths, made: false };
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const notBefore = now - BACKDATE_MS;
  const { certificate, key } = await makeSelfSignedCertificate({
    names,
    notBefore,
    notAfter: notBefore + SELF_SIGNED_LIFETIME_MS,
  });
  await replaceFile(paths.key, key, 0o600);
  await replaceFile(paths.certificate, certificate, 0o644);
  return { ...paths, made: true };
};
