/** Asks the running gateway of a configuration, at its internal listener. */
import { request } from 'node:http';
import { internalTokenPath, readInternalToken } from '../../../shared/src/identity/internal-token.ts';
import {
  formatInternalAddress,
  type InternalAddress,
  internalTarget,
} from '../../../shared/src/transport/internal-address.ts';
import type { GatewayConfig } from '../config.ts';
import { CliError } from './context.ts';

/** A gateway that needs longer to answer is not well. */
const ANSWER_TIMEOUT_MS = 5_000;
/** Of an answer, bytes: the status of a gateway with 10,000 legs. More is not read. */
const MAX_ANSWER_BYTES = 16 << 20;

/** Rejects with {@link CliError} when nobody answers. */
export const askInternal = async (
  internal: InternalAddress,
  path: string,
  options: { readonly stop: AbortSignal; readonly token?: string },
): Promise<{ readonly status: number; readonly text: string }> => {
  if (internal.kind === 'tcp' && internal.port === 0) {
    throw new CliError('The internal listener has port 0, so that nobody knows where it is. Set listeners.internal');
  }
  const signal = AbortSignal.any([options.stop, AbortSignal.timeout(ANSWER_TIMEOUT_MS)]);
  const headers = {
    ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
    ...(internal.kind === 'unix' ? { host: 'localhost' } : {}),
  };
  return new Promise<{ status: number; text: string }>((resolve, reject) => {
    const asked = request({ ...internalTarget(internal), headers, path, agent: false, signal }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        if (text.length < MAX_ANSWER_BYTES) text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text: text.trim() }));
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  }).catch((cause: unknown) => {
    throw new CliError(`No gateway answers at ${formatInternalAddress(internal)}`, { cause });
  });
};

/** What `GET /status` says, as far as the commands use it. */
export interface GatewayStatusAnswer {
  readonly gateway: { readonly id: string; readonly upForMs: number; readonly notReady?: string };
  readonly signIn?: { readonly issuer?: string; readonly problem?: string };
  readonly listeners: Readonly<Record<'https' | 'http' | 'quic', readonly { host: string; port: number }[]>>;
  readonly certificates: readonly { readonly names: readonly string[]; readonly validTo: string }[];
  readonly edge: { readonly connections: number; readonly requestsInFlight: number; readonly upgrades: number };
  readonly legs: readonly {
    readonly runnerId: string;
    readonly transport: string;
    readonly remoteAddress: string;
    readonly state: string;
    readonly rttMs?: number;
    readonly openStreams: number;
  }[];
  readonly environments: readonly { readonly environmentId: string; readonly runnerId: string }[];
  /** Of runners that have no leg now. */
  readonly lastSeen: readonly { readonly runnerId: string; readonly at: string }[];
}

/** Rejects with {@link CliError}. */
export const askStatus = async (config: GatewayConfig, stop: AbortSignal): Promise<GatewayStatusAnswer> => {
  const { internal } = config.listeners;
  // Without one that can be read, the gateway says so.
  const token = internal.kind === 'unix' ? undefined : await readInternalToken(config.stateDir).catch(() => undefined);
  const answer = await askInternal(internal, '/status', { stop, ...(token === undefined ? {} : { token }) });
  if (answer.status === 401) {
    throw new CliError(`The gateway does not accept the token in ${internalTokenPath(config.stateDir)}`);
  }
  if (answer.status !== 200) throw new CliError(`The gateway answered ${answer.status}`);
  return JSON.parse(answer.text) as GatewayStatusAnswer;
};
