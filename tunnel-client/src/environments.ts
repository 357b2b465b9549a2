/** Environments as people write them: in a file, over the internal HTTP, through the library. */
import * as z from 'zod';
import { type Environment, environmentSchema, exposedPortSchema } from '../../shared/src/protocol/messages.ts';
import { isHost } from '../../shared/src/transport/address.ts';
import { isForbiddenAddress, parseIp } from './ip-address.ts';

/** An environment as it is written: what has a default may be absent. */
export type EnvironmentInput = Readonly<Omit<z.input<typeof environmentSchema>, 'ports'>> & {
  readonly ports?: readonly Readonly<z.input<typeof exposedPortSchema>>[];
};

export const ENVIRONMENT_KEYS: readonly string[] = Object.keys(environmentSchema.shape);
export const PORT_KEYS: readonly string[] = Object.keys(exposedPortSchema.shape);

/** Why `host` cannot be the host of an environment, or undefined. */
export const hostProblem = (host: string): string | undefined => {
  if (!isHost(host)) return `"${host}" is neither a host name nor an IP address`;
  if (!parseIp(host) || !isForbiddenAddress(host)) return undefined;
  if (host === '0.0.0.0' || host === '::')
    return `${host} is an address to listen at, not to connect to: write 127.0.0.1`;
  return `${host} is link-local, multicast or a metadata address, which is never connected to`;
};

const environmentInputSchema = environmentSchema.superRefine(({ host }, context) => {
  const message = hostProblem(host);
  if (message !== undefined) context.addIssue({ code: 'custom', path: ['host'], message });
});

const environmentListSchema = z.array(environmentInputSchema).superRefine((list, context) => {
  const seen = new Set<string>();
  list.forEach(({ id }, index) => {
    if (seen.has(id))
      context.addIssue({ code: 'custom', path: [index, 'id'], message: `environment ${id} stands twice` });
    seen.add(id);
  });
});

/** Throws a ZodError. */
export const parseEnvironment = (input: unknown): Environment => environmentInputSchema.parse(input);

/** Every environment is checked before any is used, and an id may stand only once. Throws a ZodError with all faults. */
export const parseEnvironments = (input: unknown): readonly Environment[] => environmentListSchema.parse(input);
