/**
 * The configuration of the command line: a YAML file, `TUNNEL_…` variables, flags; the later wins. All faults are found
 * at once. The result is frozen and of another type than what was written.
 */
import { dirname, resolve } from 'node:path';
import type { InternalAddress } from '../../shared/src/transport/internal-address.ts';
import {
  checkEnvironments,
  environmentsOfVariable,
  exposedByFlags,
  FLAG_OF_ENVIRONMENT,
  withLogsAt,
} from './config-environments.ts';
import { EMPTY_FILE, fileProblems, lineAt, readYaml } from './config-file.ts';
import { type LOG_FORMATS, type LOG_LEVELS, SETTING_KEYS, settingsSchema } from './config-schema.ts';
import { baseOfFile, type ConfigSources, mergeSettings } from './config-sources.ts';
import type { EnvironmentSettings } from './environments.ts';
import { ConfigError, formatPath, type Problem, zodProblems } from './problems.ts';
import type { RemoteWriteTarget } from './remote-write.ts';
import { proxySettingsOf, type ProxySettings } from './proxy-settings.ts';
import type { TransportChoice } from './transport.ts';

export interface ClientConfig {
  /** The first of {@link gateways}. */
  readonly gateway: string;
  /** Those to choose from; one is the rule. */
  readonly gateways: readonly string[];
  /** Undefined: gateways are measured again only when asked to. */
  readonly reselectAfterMs: number | undefined;
  readonly runnerId: string;
  readonly exchangeToken: string | undefined;
  readonly exchangeTokenFile: string | undefined;
  /** The private key as a JWK. */
  readonly key: string | undefined;
  /** Path. */
  readonly keyFile: string | undefined;
  /** A membership that another authority has signed. */
  readonly membership: string | undefined;
  /** Path; followed. */
  readonly membershipFile: string | undefined;
  readonly stateDir: string;
  /** Path of a PEM file. */
  readonly ca: string | undefined;
  /** Of `HTTPS_PROXY` and `NO_PROXY`. */
  readonly proxy: ProxySettings;
  readonly transport: TransportChoice;
  readonly internal: InternalAddress;
  /** Where OAuth callbacks go. */
  readonly oauth: { readonly target: string } | undefined;
  /** Where metrics are sent to; undefined: nowhere. */
  readonly remoteWrite: RemoteWriteTarget | undefined;
  /** Whether the last requests are kept, to be looked at. */
  readonly inspector: boolean;
  readonly environments: readonly EnvironmentSettings[];
  readonly drainTimeoutMs: number;
  readonly logLevel: (typeof LOG_LEVELS)[number];
  readonly logFormat: (typeof LOG_FORMATS)[number];
}

const FILE_KEYS: readonly string[] = [...SETTING_KEYS, 'environments'];

/** The environments of a configuration file; what else stands there is left alone. Throws {@link ConfigError}. */
export const parseEnvironmentsOfFile = (file: { path: string; text: string }): readonly EnvironmentSettings[] => {
  const content = readYaml(file.text);
  const { environments, problems } = checkEnvironments(content.values['environments'] ?? []);
  const all = [
    ...fileProblems(content, FILE_KEYS),
    ...problems.map((problem) => ({ ...problem, ...lineAt(content, problem.parts) })),
  ];
  if (all.length > 0) throw new ConfigError(all, { source: file.path });
  return environments.map((environment) => withLogsAt(dirname(resolve(file.path)), environment));
};

/** Throws {@link ConfigError} with everything that is wrong. */
export const parseClientConfig = (sources: ConfigSources): ClientConfig => {
  const file = sources.file ? readYaml(sources.file.text) : EMPTY_FILE;
  const { values, names } = mergeSettings(sources, file);
  const settings = settingsSchema.safeParse(values);
  const proxy = proxySettingsOf(sources.env ?? {});
  const flagged = exposedByFlags(sources.flags ?? {}, values['runnerId']);
  const variable = environmentsOfVariable(sources.env?.['TUNNEL_ENVIRONMENTS']);
  const inFile: unknown = file.values['environments'] ?? [];
  const list: unknown = Array.isArray(inFile)
    ? [...(inFile as unknown[]), ...variable.list, ...(flagged.environment === undefined ? [] : [flagged.environment])]
    : inFile;
  const checked = checkEnvironments(list);

  const problems: Problem[] = [...fileProblems(file, FILE_KEYS)];
  // A file that cannot be read says nothing of what is missing.
  if (file.problems.length === 0) {
    for (const problem of settings.success ? [] : zodProblems(settings.error)) {
      // A gateway that stands alone is not spoken of as a list.
      const isAlone = !Array.isArray(file.values['gateway']) || names['gateway'] !== 'gateway';
      const parts = problem.parts[0] === 'gateway' && isAlone ? ['gateway'] : problem.parts;
      const path = formatPath(parts);
      const name = names[path] ?? path;
      problems.push({ path: name, message: problem.message, ...(name === path ? lineAt(file, parts) : {}) });
    }
  }
  problems.push(...proxy.problems, ...flagged.problems, ...variable.problems);
  const flaggedAt = flagged.environment !== undefined && Array.isArray(list) ? list.length - 1 : undefined;
  for (const { parts, path, message } of checked.problems) {
    if (parts[1] !== flaggedAt || flaggedAt === undefined) problems.push({ path, message, ...lineAt(file, parts) });
    // An id that is the runner's was already spoken of.
    else if (parts[2] !== 'id' || sources.flags?.environment !== undefined) {
      problems.push({ path: FLAG_OF_ENVIRONMENT[String(parts[2])] ?? '--expose', message });
    }
  }
  for (const secret of ['exchangeToken', 'key', 'membership'] as const) {
    if (values[secret] === undefined || values[`${secret}File`] === undefined) continue;
    problems.push({ path: names[secret] ?? secret, message: `stands beside ${secret}File; keep one` });
  }
  if (problems.length > 0 || !settings.success) {
    throw new ConfigError(problems, sources.file ? { source: sources.file.path } : {});
  }
  const {
    gateway,
    reselectAfter,
    drainTimeout,
    exchangeToken,
    exchangeTokenFile,
    key,
    keyFile,
    membership,
    membershipFile,
    ca,
    oauth,
    remoteWrite,
    ...rest
  } = settings.data;
  const inFileCount = Array.isArray(inFile) ? inFile.length : 0;
  return deepFreeze({
    ...rest,
    gateway: gateway[0] ?? '',
    gateways: gateway,
    reselectAfterMs: reselectAfter,
    exchangeToken,
    exchangeTokenFile,
    key,
    keyFile,
    membership,
    membershipFile,
    ca,
    proxy: proxy.settings,
    drainTimeoutMs: drainTimeout,
    oauth,
    remoteWrite: remoteWrite && {
      url: remoteWrite.url,
      username: remoteWrite.username,
      passwordFile: remoteWrite.passwordFile,
    },
    environments: checked.environments.map((environment, index) =>
      withLogsAt(index < inFileCount ? baseOfFile(sources) : sources.cwd, environment),
    ),
  });
};

/** Where a running client is asked, of the same sources; what else is wrong there does not matter for that. */
export const parseClientEndpoint = (sources: ConfigSources): Pick<ClientConfig, 'stateDir' | 'internal'> => {
  const file = sources.file ? readYaml(sources.file.text) : EMPTY_FILE;
  const { values, names } = mergeSettings(sources, file);
  const parsed = settingsSchema.pick({ stateDir: true, internal: true }).safeParse(values);
  if (parsed.success) return parsed.data;
  throw new ConfigError(
    zodProblems(parsed.error).map(({ path, message }) => ({ path: names[path] ?? path, message })),
    sources.file ? { source: sources.file.path } : {},
  );
};

const deepFreeze = <T extends object>(value: T): T => {
  // Bytes cannot be frozen.
  for (const inner of Object.values(value))
    if (typeof inner === 'object' && inner !== null && !ArrayBuffer.isView(inner)) deepFreeze(inner as object);
  return Object.freeze(value);
};
