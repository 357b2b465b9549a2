/**
 * The configuration of the command line: a YAML file, `TUNNEL_…` variables, flags; the later wins. All faults are found
 * at once. The result is frozen and of another type than what was written.
 */
import { dirname, resolve } from 'node:path';
import * as z from 'zod';
import { ID_RULE, isId } from '../../shared/src/hostname.ts';
import { ADMISSIONS } from '../../shared/src/protocol/messages.ts';
import { type InternalAddress, parseInternalAddress } from '../../shared/src/transport/internal-address.ts';
import { EMPTY_FILE, type FileContent, fileProblems, lineAt, readYaml } from './config-file.ts';
import { type EnvironmentSettings, parseEnvironments } from './environments.ts';
import { parseGatewayUrl } from './gateway-url.ts';
import { parseOauthTarget } from './oauth-target.ts';
import type { RemoteWriteTarget } from './remote-write.ts';
import { proxySettingsOf, type ProxySettings } from './proxy-settings.ts';
import { ConfigError, formatPath, type Problem, suggest, zodProblems } from './problems.ts';
import { TRANSPORT_CHOICES, type TransportChoice } from './transport.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export const LOG_FORMATS = ['auto', 'human', 'json'] as const;

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

/** As the command line has them. */
export interface ConfigFlags {
  readonly gateway?: string;
  readonly runner?: string;
  readonly exchangeTokenFile?: string;
  readonly stateDir?: string;
  readonly ca?: string;
  readonly transport?: string;
  readonly internal?: string;
  readonly oauthTarget?: string;
  readonly inspector?: boolean;
  readonly expose?: readonly string[];
  readonly environment?: string;
  readonly admission?: string;
  readonly host?: string;
  readonly drainTimeout?: string;
  readonly logLevel?: string;
  readonly logFormat?: string;
}

export interface ConfigSources {
  readonly file?: { readonly path: string; readonly text: string };
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly flags?: ConfigFlags;
  /** Relative paths of variables and flags start here; those of a file at the file. */
  readonly cwd: string;
}

export const DEFAULT_INTERNAL = '127.0.0.1:9091';
export const DEFAULT_STATE_DIR = './runner-state';
const DEFAULT_DRAIN_TIMEOUT = '30s';
/** Gateways to choose from: each is connected to three times. Beyond: a fault. */
const MAX_GATEWAYS = 16;

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const duration = z.string().transform((text, context) => {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  if (match) return Number(match[1]) * (UNITS_MS[match[2] ?? ''] ?? 0);
  context.addIssue({ code: 'custom', message: 'must be a time such as 500ms, 30s or 5m' });
  return z.NEVER;
});

/** Turns the RangeError of a parser into an issue. */
const parsedBy = <T>(parse: (text: string) => T) =>
  z.string({ error: 'must be text' }).transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : 'is not valid' });
      return z.NEVER;
    }
  });

/** Throws RangeError. */
const parseReceiver = (text: string): string => {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) throw new RangeError('must be an http or https URL');
  if (url.username !== '' || url.password !== '') {
    throw new RangeError('must not contain a password: use username and passwordFile');
  }
  return url.href;
};

const missing = (what: string) => (issue: { input?: unknown }) =>
  issue.input === undefined ? `is missing: ${what}` : 'must be text';

const settingsSchema = z.object({
  gateway: z
    .array(
      parsedBy((text) => parseGatewayUrl(text).origin),
      { error: missing('the URL of the gateway, https://api.<domain>') },
    )
    .min(1, 'names no gateway')
    .max(MAX_GATEWAYS, `names more than ${MAX_GATEWAYS} gateways`),
  reselectAfter: duration.optional(),
  runnerId: z.string({ error: missing('the id that `gateway runner create` printed') }).refine(isId, ID_RULE),
  exchangeToken: z.string().min(1).optional(),
  exchangeTokenFile: z.string().min(1).optional(),
  key: z.string().min(1).optional(),
  keyFile: z.string().min(1).optional(),
  membership: z.string().min(1).optional(),
  membershipFile: z.string().min(1).optional(),
  stateDir: z.string().min(1),
  ca: z.string().min(1).optional(),
  transport: z.enum(TRANSPORT_CHOICES, { error: `must be one of ${TRANSPORT_CHOICES.join(', ')}` }),
  internal: parsedBy(parseInternalAddress),
  oauth: z
    .object(
      { target: parsedBy((text) => (parseOauthTarget(text), text)) },
      { error: 'must be { target: URL }, as in http://127.0.0.1:8081' },
    )
    .optional(),
  remoteWrite: z
    .strictObject(
      {
        url: parsedBy(parseReceiver),
        username: z.string().min(1).optional(),
        passwordFile: z.string().min(1).optional(),
      },
      { error: 'must be { url, username, passwordFile }' },
    )
    .refine(
      ({ username, passwordFile }) => passwordFile === undefined || username !== undefined,
      'needs a username too',
    )
    .optional(),
  inspector: z.preprocess(
    (value) => (value === 'true' ? true : value === 'false' ? false : value),
    z.boolean({ error: 'must be true or false' }),
  ),
  drainTimeout: duration,
  logLevel: z.enum(LOG_LEVELS),
  logFormat: z.enum(LOG_FORMATS),
});
type SettingKey = keyof typeof settingsSchema.shape;

const SETTING_KEYS = Object.keys(settingsSchema.shape) as SettingKey[];
const FILE_KEYS: readonly string[] = [...SETTING_KEYS, 'environments'];
const PATH_KEYS: readonly SettingKey[] = ['exchangeTokenFile', 'keyFile', 'membershipFile', 'stateDir', 'ca'];
const FLAG_NAMES: Readonly<Partial<Record<SettingKey, keyof ConfigFlags>>> = {
  gateway: 'gateway',
  runnerId: 'runner',
  exchangeTokenFile: 'exchangeTokenFile',
  stateDir: 'stateDir',
  ca: 'ca',
  transport: 'transport',
  internal: 'internal',
  oauth: 'oauthTarget',
  inspector: 'inspector',
  drainTimeout: 'drainTimeout',
  logLevel: 'logLevel',
  logFormat: 'logFormat',
};

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
/** `exchangeTokenFile` → `TUNNEL_EXCHANGE_TOKEN_FILE`. */
const variableOf = (key: SettingKey): string =>
  `TUNNEL_${kebab(key === 'oauth' ? 'oauthTarget' : key)
    .replaceAll('-', '_')
    .toUpperCase()}`;

// ---- environments

/** A log file is found where the text stands that names it. */
const withLogsAt = (base: string, environment: EnvironmentSettings): EnvironmentSettings =>
  environment.logs && 'file' in environment.logs
    ? { ...environment, logs: { file: resolve(base, environment.logs.file) } }
    : environment;

const checkEnvironments = (
  input: unknown,
): { environments: readonly EnvironmentSettings[]; problems: (Problem & { parts: PropertyKey[] })[] } => {
  try {
    return { environments: parseEnvironments(input), problems: [] };
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error;
    return { environments: [], problems: zodProblems(error, ['environments']) };
  }
};

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

const FLAG_OF_ENVIRONMENT: Readonly<Record<string, string>> = { id: '--environment', host: '--host' };

/** One environment from `--expose 3000[:https]` and its companions, checked with the others later. */
const exposedByFlags = (flags: ConfigFlags, runnerId: unknown): { environment?: unknown; problems: Problem[] } => {
  const problems: Problem[] = [];
  const expose = flags.expose ?? [];
  if (expose.length === 0) {
    for (const flag of ['environment', 'admission', 'host'] as const) {
      if (flags[flag] !== undefined) problems.push({ path: `--${flag}`, message: 'says something only with --expose' });
    }
    return { problems };
  }
  if (flags.admission !== undefined && !(ADMISSIONS as readonly string[]).includes(flags.admission)) {
    problems.push({ path: '--admission', message: `must be one of ${ADMISSIONS.join(', ')}` });
  }
  const admission = problems.length === 0 ? flags.admission : undefined;
  const ports = expose.flatMap((text) => {
    const match = /^(\d{1,5})(?::(http|https))?$/.exec(text);
    if (!match) {
      problems.push({ path: '--expose', message: `"${text}" must be PORT, PORT:http or PORT:https` });
      return [];
    }
    return [
      { port: Number(match[1]), protocol: match[2] ?? 'http', ...(admission === undefined ? {} : { admission }) },
    ];
  });
  const id = flags.environment ?? runnerId;
  return { environment: { id, ...(flags.host === undefined ? {} : { host: flags.host }), ports }, problems };
};

// ---- all of it

interface Settings {
  readonly values: Record<string, unknown>;
  /** Who said it, for messages: the key itself, a variable, or a flag. */
  readonly names: Record<string, string>;
}

/** Where the relative paths of the file begin. */
const baseOfFile = ({ file, cwd }: ConfigSources): string => (file ? dirname(resolve(cwd, file.path)) : cwd);

/** From a file an object; from a variable a URL, or JSON. */
const remoteWriteAt = (base: string, value: unknown): unknown => {
  if (typeof value === 'string') {
    if (!value.startsWith('{')) return { url: value };
    try {
      return remoteWriteAt(base, JSON.parse(value));
    } catch {
      return value; // no JSON: the schema says what it must be
    }
  }
  if (typeof value !== 'object' || value === null || !('passwordFile' in value)) return value;
  const { passwordFile } = value;
  return typeof passwordFile === 'string' ? { ...value, passwordFile: resolve(base, passwordFile) } : value;
};

const mergeSettings = (sources: ConfigSources, file: FileContent): Settings => {
  const values: Record<string, unknown> = {
    stateDir: DEFAULT_STATE_DIR,
    transport: 'auto',
    internal: DEFAULT_INTERNAL,
    inspector: false,
    drainTimeout: DEFAULT_DRAIN_TIMEOUT,
    logLevel: 'info',
    logFormat: 'auto',
  };
  const names: Record<string, string> = {};
  const put = (key: SettingKey, value: unknown, name: string, base: string): void => {
    if (value === undefined || value === null || value === '') return;
    if (key === 'oauth' && typeof value === 'string' && name !== key) {
      values[key] = { target: value };
      names[`${key}.target`] = name;
      return;
    }
    if (key === 'remoteWrite') {
      values[key] = remoteWriteAt(base, value);
      names[`${key}.url`] = name === key ? `${key}.url` : name;
      names[key] = name;
      return;
    }
    if (key === 'gateway' && typeof value === 'string') {
      // A list in one word, as in variables of gateways.
      values[key] = name === key ? [value] : value.split(',').map((each) => each.trim());
      names[key] = name;
      return;
    }
    values[key] = PATH_KEYS.includes(key) && typeof value === 'string' ? resolve(base, value) : value;
    names[key] = name;
  };
  values['stateDir'] = resolve(sources.cwd, DEFAULT_STATE_DIR);
  for (const key of SETTING_KEYS) {
    put(key, file.values[key], key, baseOfFile(sources));
    put(key, sources.env?.[variableOf(key)], variableOf(key), sources.cwd);
    const flag = FLAG_NAMES[key];
    if (flag) put(key, sources.flags?.[flag], `--${kebab(flag)}`, sources.cwd);
  }
  return { values, names };
};

/** Variables that look like ours and are not: other programs may own them, so they are only mentioned. */
export const suspiciousVariables = (env: Readonly<Record<string, string | undefined>>): string[] => {
  const known = [...SETTING_KEYS.map(variableOf), 'TUNNEL_CONFIG', 'TUNNEL_ENVIRONMENTS'];
  return Object.keys(env).flatMap((name) => {
    if (!name.startsWith('TUNNEL_') || known.includes(name)) return [];
    const meant = suggest(name, known);
    return meant === undefined ? [] : [`the variable ${name} is not used; did you mean ${meant}?`];
  });
};

const environmentsOfVariable = (text: string | undefined): { list: unknown[]; problems: Problem[] } => {
  if (text === undefined || text === '') return { list: [], problems: [] };
  try {
    const list: unknown = JSON.parse(text);
    if (Array.isArray(list)) return { list, problems: [] };
  } catch {
    // Reported below, without the text.
  }
  return { list: [], problems: [{ path: 'TUNNEL_ENVIRONMENTS', message: 'must be a JSON array of environments' }] };
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
