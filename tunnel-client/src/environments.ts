/** Environments as people write them: in a file, over the internal HTTP, through the library. */
import * as z from 'zod';
import { type Environment, environmentSchema, exposedPortSchema } from '../../shared/src/protocol/messages.ts';
import { isHost } from '../../shared/src/transport/address.ts';
import { isForbiddenAddress, parseIp } from './ip-address.ts';
import type { LogSettings } from './log-server/log-source.ts';

/** An environment as it is written: what has a default may be absent. */
export type EnvironmentInput = Readonly<Omit<z.input<typeof environmentSchema>, 'ports' | 'logs'>> & {
  readonly ports?: readonly Readonly<z.input<typeof exposedPortSchema>>[];
  /** Read by the tunnel client itself; absent: the environment has a server of its own at the log port. */
  readonly logs?: LogSettings | undefined;
};
/** The same with its defaults, checked. */
export type EnvironmentSettings = Omit<Environment, 'logs'> & { readonly logs?: LogSettings | undefined };

export const ENVIRONMENT_KEYS: readonly string[] = Object.keys(environmentSchema.shape);
export const PORT_KEYS: readonly string[] = Object.keys(exposedPortSchema.shape);

const logSettingsShape = {
  file: z.string().min(1),
  /** Program and parameters; no shell reads them. */
  command: z.array(z.string()).min(1).max(256),
};
export const LOG_KEYS: readonly string[] = Object.keys(logSettingsShape);
const logSettingsSchema = z
  .object(logSettingsShape, { error: 'must be { file: PATH } or { command: [PROGRAM, …] }' })
  .partial()
  .transform(({ file, command }, context): LogSettings => {
    if (file !== undefined && command === undefined) return { file };
    if (command !== undefined && file === undefined && command[0] !== '') return { command };
    context.addIssue({ code: 'custom', message: 'must be { file: PATH } or { command: [PROGRAM, …] }' });
    return z.NEVER;
  });

/** Why `host` cannot be the host of an environment, or undefined. */
export const hostProblem = (host: string): string | undefined => {
  if (!isHost(host)) return `"${host}" is neither a host name nor an IP address`;
  if (!parseIp(host) || !isForbiddenAddress(host)) return undefined;
  if (host === '0.0.0.0' || host === '::')
    return `${host} is an address to listen at, not to connect to: write 127.0.0.1`;
  return `${host} is link-local, multicast or a metadata address, which is never connected to`;
};

const environmentInputSchema = environmentSchema
  .omit({ logs: true })
  .extend({ logs: logSettingsSchema.optional() })
  .superRefine(({ host }, context) => {
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
export const parseEnvironment = (input: unknown): EnvironmentSettings => environmentInputSchema.parse(input);

/** Every environment is checked before any is used, and an id may stand only once. Throws a ZodError with all faults. */
export const parseEnvironments = (input: unknown): readonly EnvironmentSettings[] => environmentListSchema.parse(input);

/** What gateways are told of it. */
export const announcementOf = ({ logs, ...environment }: EnvironmentSettings): Environment => ({
  ...environment,
  logs: logs === undefined ? 'upstream' : 'builtin',
});
