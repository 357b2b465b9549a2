/** `gateway config check|show` */
import { access, constants } from 'node:fs/promises';
import { stringify } from 'yaml';
import { describeError } from '../../../shared/src/errors.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { formatInternalAddress } from '../../../shared/src/transport/internal-address.ts';
import { ConfigError, type ConfigProblem, type GatewayConfig, type ListenAddress } from '../config.ts';
import { parsePair, readPair } from '../edge/certificates.ts';
import { configPath, loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson } from './output.ts';

/** The keys and values of a file that means the same, with every default and every variable in it. */
export const describeConfig = (config: GatewayConfig): Record<string, unknown> => {
  const { drainDelayMs, drainTimeoutMs, listeners, ...rest } = config;
  const addresses = (list: readonly ListenAddress[]): string[] =>
    list.map(({ host, port }) => formatHostPort(host, port));
  return {
    ...rest,
    listeners: {
      https: addresses(listeners.https),
      quic: addresses(listeners.quic),
      http: addresses(listeners.http),
      internal: formatInternalAddress(listeners.internal),
    },
    drainDelay: `${drainDelayMs}ms`,
    drainTimeout: `${drainTimeoutMs}ms`,
  };
};

/** Faults of the files that a configuration names. */
export const checkFiles = async (config: GatewayConfig): Promise<ConfigProblem[]> => {
  const problems: ConfigProblem[] = [];
  for (const [index, pair] of config.tls.entries()) {
    try {
      parsePair(pair, await readPair(pair));
    } catch (error) {
      problems.push({ path: config.tls.length === 1 ? 'tls' : `tls.${index}`, message: describeError(error) });
    }
  }
  for (const [path, file] of [
    ['signIn.clientSecretFile', config.signIn?.clientSecretFile],
    ['signIn.ca', config.signIn?.ca],
    ['authority.ca', config.authority?.ca],
    ['tracing.headersFile', config.tracing?.headersFile],
    ['tracing.ca', config.tracing?.ca],
  ] as const) {
    if (file === undefined) continue;
    await access(file, constants.R_OK).catch(() => problems.push({ path, message: `${file} cannot be read` }));
  }
  return problems;
};

interface ConfigOptions {
  readonly config?: string;
  readonly json?: boolean;
}

/** Rejects with {@link ConfigError}, which names every fault. */
export const checkConfig = async (world: CliWorld, file: string | undefined, options: ConfigOptions): Promise<void> => {
  const path = configPath(world, file ?? options.config);
  const config = await loadConfig(world, file ?? options.config);
  const problems = await checkFiles(config);
  if (problems.length > 0) throw new ConfigError(problems, path ?? 'variables');
  if (options.json) return void world.stdout.write(formatJson({ valid: true, file: path ?? null }));
  world.stdout.write(`The configuration (${path ?? 'variables and defaults'}) is valid.\n`);
};

export const showConfig = async (world: CliWorld, options: ConfigOptions): Promise<void> => {
  const described = describeConfig(await loadConfig(world, options.config));
  world.stdout.write(options.json ? formatJson(described) : stringify(described));
};
