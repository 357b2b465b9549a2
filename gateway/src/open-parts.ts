/** Opens what a gateway finds on disk or elsewhere; what goes wrong is a {@link StartError} that names the option. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { loadOrCreateKey, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { createOtherAuthority, type OtherAuthority } from './access/other-authority.ts';
import { createSignIn, type SignIn, type SignInDeps } from './access/sign-in/sign-in.ts';
import type { GatewayConfig } from './config.ts';
import type { Directory } from './directory/directory.ts';
import { openEmbeddedDirectory } from './directory/embedded.ts';
import { CertificateError } from './edge/certificates.ts';
import { openCertificates, type LiveCertificates } from './edge/live-certificates.ts';
import type { Logger } from './observability/log.ts';
import type { Tracing } from './observability/tracing.ts';
import { StartError } from './start-error.ts';

export const openDirectory = async (
  config: GatewayConfig,
  deps: { readonly log: Logger },
  clock: Clock,
): Promise<Directory> => {
  try {
    return await openEmbeddedDirectory(
      { clock, log: deps.log },
      { path: join(config.stateDir, 'directory.sqlite'), issuer: `https://api.${config.domains[0]}` },
    );
  } catch (error) {
    throw new StartError('stateDir', describeError(error), { cause: error });
  }
};

export const openOtherAuthority = async (
  { authority }: GatewayConfig,
  deps: { readonly log: Logger },
  clock: Clock,
  directory: Directory,
): Promise<OtherAuthority | undefined> => {
  if (!authority) return undefined;
  if ((await directory.keyRing('authority')).issuer === authority.issuer) {
    throw new StartError('authority.issuer', `${authority.issuer} is the issuer of this cluster itself`);
  }
  const ca =
    authority.ca === undefined
      ? undefined
      : await readFile(authority.ca, 'utf8').catch((cause: unknown) => {
          throw new StartError('authority.ca', describeError(cause), { cause });
        });
  const other = createOtherAuthority({ clock, log: deps.log }, authority, { ca });
  // Its keys are there when the first runner comes; while it does not answer, everything else goes on.
  other.trust(undefined).catch(() => undefined);
  return other;
};

/** Undefined where no spans are wanted: then nothing of it is loaded. */
export const openTracing = async (
  { tracing }: GatewayConfig,
  deps: { readonly clock: Clock; readonly log: Logger; readonly instance: string },
): Promise<Tracing | undefined> => tracing && (await import('./observability/tracing.ts')).createTracing(deps, tracing);

export const loadKey = async (config: GatewayConfig): Promise<IdentityKey> => {
  try {
    return await loadOrCreateKey(join(config.stateDir, 'gateway-key.json'));
  } catch (error) {
    throw new StartError('stateDir', describeError(error), { cause: error });
  }
};

export const openSignIn = async (config: GatewayConfig, deps: SignInDeps): Promise<SignIn | undefined> => {
  if (!config.signIn) return undefined;
  try {
    return await createSignIn(deps, config.signIn);
  } catch (error) {
    throw new StartError('signIn', describeError(error), { cause: error });
  }
};

export const openCertificateStore = async (
  config: GatewayConfig,
  log: Logger,
  clock: Clock,
): Promise<LiveCertificates> => {
  try {
    const store = await openCertificates({ clock, log }, config);
    for (const { names, certificatePath, fingerprint, selfSigned, validTo } of store.certificates) {
      log.info(
        { names, certificatePath, fingerprint, selfSigned, validTo: new Date(validTo).toISOString() },
        'certificate',
      );
    }
    for (const warning of store.warnings) log.warn({ warning }, 'a certificate needs attention');
    return store;
  } catch (error) {
    if (!(error instanceof CertificateError)) throw error;
    throw new StartError(config.tls.length > 0 ? 'tls' : 'stateDir', error.message, { cause: error });
  }
};
