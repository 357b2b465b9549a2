/** What the commands share: the world outside, the configuration, and the directory. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../../shared/src/clock.ts';
import { parseGatewayConfig } from '../config.ts';
import type { GatewayConfig } from '../config.ts';
import { openEmbeddedDirectory } from '../directory/embedded.ts';
import type { Directory } from '../directory/directory.ts';

/** The process as the command line sees it; `main.ts` gives the real one. */
export interface CliWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdout: { write(text: string): unknown; readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: { write(text: string): unknown };
  /** Calls back when the process is asked to read its configuration again. Returns what ends it. */
  readonly onReload?: (listener: () => void) => () => void;
  /** Aborted when the process is asked to end. */
  readonly stop: AbortSignal;
}

/** A failure with a sentence for the person at the terminal; the exit code is 1. */
export class CliError extends Error {
  override readonly name = 'CliError';
}

const readConfigFile = async (path: string): Promise<string> => {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new CliError(`The configuration file ${path} cannot be read`, { cause: error });
  }
};

/** Of the configuration file, if there is one. */
export const configPath = (world: CliWorld, file: string | undefined): string | undefined =>
  file ?? (world.env['GATEWAY_CONFIG'] || undefined);

/** From `--config`, else the file that GATEWAY_CONFIG names, else the defaults; variables over each. */
export const loadConfig = async (world: CliWorld, file: string | undefined): Promise<GatewayConfig> => {
  const path = configPath(world, file);
  if (path === undefined) return parseGatewayConfig(undefined, world.env);
  return parseGatewayConfig(await readConfigFile(path), world.env, { path });
};

/** Opens the directory beside a gateway that may be running, or without one. */
export const withDirectory = async <T>(
  config: GatewayConfig,
  work: (directory: Directory) => Promise<T>,
): Promise<T> => {
  const directory = await openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(config.stateDir, 'directory.sqlite'), issuer: `https://api.${config.domains[0]!}` },
  );
  try {
    return await work(directory);
  } finally {
    await directory.close();
  }
};
