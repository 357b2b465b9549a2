/** Asks the running client over its internal listener. */
import { request } from 'node:http';
import { describeError } from '../../../shared/src/errors.ts';
import { internalTokenPath, readInternalToken } from '../../../shared/src/identity/internal-token.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import type { InternalAddress } from '../config.ts';
import { CommandError } from './io.ts';

/** A local answer takes milliseconds; a client that is stuck is told as such. */
const ANSWER_TIMEOUT_MS = 5_000;

export interface InternalAnswer {
  readonly status: number;
  readonly body: string;
}

const describeAddress = (address: InternalAddress): string =>
  address.kind === 'unix' ? `unix:${address.path}` : formatHostPort(address.host, address.port);

/** Where a listener is reached that listens everywhere. */
const reachable = (host: string): string => (host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host);

export const askInternal = async (
  path: string,
  endpoint: { internal: InternalAddress; stateDir: string },
  options: { authorized: boolean; signal: AbortSignal; method?: 'GET' | 'POST'; timeoutMs?: number },
): Promise<InternalAnswer> => {
  const { internal, stateDir } = endpoint;
  const headers: Record<string, string> = {};
  if (options.authorized && internal.kind === 'tcp') {
    const token = await readInternalToken(stateDir).catch((error: unknown) => {
      throw new CommandError(
        `The token ${internalTokenPath(stateDir)} cannot be read. ` +
          'Give the state directory of the running client with --state-dir, and run this as the same user.',
        { cause: error },
      );
    });
    headers['authorization'] = `Bearer ${token}`;
  }
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs ?? ANSWER_TIMEOUT_MS)]);
  try {
    return await new Promise<InternalAnswer>((resolve, reject) => {
      const where =
        internal.kind === 'unix'
          ? { socketPath: internal.path }
          : { host: reachable(internal.host), port: internal.port };
      const outgoing = request({ ...where, method: options.method ?? 'GET', path, headers, agent: false, signal });
      outgoing.once('error', reject);
      outgoing.once('response', (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.once('error', reject);
        response.once('end', () =>
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
        );
      });
      outgoing.end();
    });
  } catch (error) {
    throw new CommandError(
      `No tunnel client answers at ${describeAddress(internal)}: ${describeError(error)}. ` +
        'Is it running, and with the same --internal?',
      { cause: error },
    );
  }
};
