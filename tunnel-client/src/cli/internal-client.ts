/** Asks the running client over its internal listener. */
import { once } from 'node:events';
import { type IncomingMessage, request as httpRequest } from 'node:http';
import { describeError } from '../../../shared/src/errors.ts';
import { internalTokenPath, readInternalToken } from '../../../shared/src/identity/internal-token.ts';
import {
  formatInternalAddress,
  type InternalAddress,
  internalTarget,
} from '../../../shared/src/transport/internal-address.ts';
import { CommandError } from './io.ts';

/** A local answer takes milliseconds; a client that is stuck is told as such. */
const ANSWER_TIMEOUT_MS = 5_000;

export interface InternalAnswer {
  readonly status: number;
  readonly body: string;
}

interface Endpoint {
  readonly internal: InternalAddress;
  readonly stateDir: string;
}
interface AskOptions {
  readonly authorized: boolean;
  readonly signal: AbortSignal;
  readonly method?: 'GET' | 'POST';
}

/** Resolves with the answer, whose body nobody has read yet. Rejects with CommandError where the token is missing. */
const request = async (path: string, endpoint: Endpoint, options: AskOptions): Promise<IncomingMessage> => {
  const { internal, stateDir } = endpoint;
  const { signal, method = 'GET' } = options;
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
  const outgoing = httpRequest({ ...internalTarget(internal), method, path, headers, agent: false, signal });
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  // The signal goes on for as long as the answer.
  outgoing.on('error', (error) => response.destroy(error));
  return response;
};

const noAnswer = ({ internal }: Endpoint, error: unknown): CommandError =>
  error instanceof CommandError
    ? error
    : new CommandError(
        `No tunnel client answers at ${formatInternalAddress(internal)}: ${describeError(error)}. ` +
          'Is it running, and with the same --internal?',
        { cause: error },
      );

const readAnswer = async (response: IncomingMessage): Promise<InternalAnswer> => {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return { status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') };
};

export const askInternal = async (
  path: string,
  endpoint: Endpoint,
  options: AskOptions & { readonly timeoutMs?: number },
): Promise<InternalAnswer> => {
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs ?? ANSWER_TIMEOUT_MS)]);
  try {
    return await readAnswer(await request(path, endpoint, { ...options, signal }));
  } catch (error) {
    throw noAnswer(endpoint, error);
  }
};

/**
 * Reads a stream of events, and gives the data of each to `onEvent`. Resolves when the signal is aborted; an answer that
 * is no such stream is returned.
 */
export const followInternal = async (
  path: string,
  endpoint: Endpoint,
  { signal }: { signal: AbortSignal },
  onEvent: (data: unknown) => void,
): Promise<InternalAnswer | undefined> => {
  try {
    const response = await request(path, endpoint, { authorized: true, signal });
    if (response.statusCode !== 200) return await readAnswer(response);
    let held = '';
    for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) {
      const events = (held + chunk).split('\n\n');
      held = events.pop() ?? '';
      for (const event of events) {
        const data = /^data: (.*)$/m.exec(event)?.[1];
        if (data !== undefined) onEvent(JSON.parse(data));
      }
    }
  } catch (error) {
    if (!signal.aborted) throw noAnswer(endpoint, error);
  }
  if (!signal.aborted)
    throw new CommandError(`The tunnel client at ${formatInternalAddress(endpoint.internal)} has ended.`);
  return undefined;
};
