import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { ConfigFlags, ConfigSources } from '../config-sources.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';

export type ConfigFlagsWithFile = ConfigFlags & { readonly config?: string };

/** Reads the configuration file that `--config` or `TUNNEL_CONFIG` names, if any. */
export const readSources = async (flags: ConfigFlagsWithFile, io: CliIo): Promise<ConfigSources> => {
  const name = flags.config ?? io.env['TUNNEL_CONFIG'];
  const sources = { env: io.env, flags, cwd: io.cwd };
  if (name === undefined || name === '') return sources;
  const path = resolve(io.cwd, name);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw new CommandError(`The configuration file ${path} cannot be read: ${(error as Error).message}`, {
      exitCode: EXIT.usage,
      cause: error,
    });
  });
  return { ...sources, file: { path, text } };
};
