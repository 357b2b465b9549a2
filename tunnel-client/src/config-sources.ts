/** Who says what each setting is: a YAML file, `TUNNEL_…` variables, flags; the later wins. Pure. */
import { dirname, resolve } from 'node:path';
import type { FileContent } from './config-file.ts';
import { SETTING_KEYS, type SettingKey } from './config-schema.ts';
import { suggest } from './problems.ts';

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

export interface Settings {
  readonly values: Record<string, unknown>;
  /** Who said it, for messages: the key itself, a variable, or a flag. */
  readonly names: Record<string, string>;
}

/** Where the relative paths of the file begin. */
export const baseOfFile = ({ file, cwd }: ConfigSources): string => (file ? dirname(resolve(cwd, file.path)) : cwd);

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

export const mergeSettings = (sources: ConfigSources, file: FileContent): Settings => {
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
