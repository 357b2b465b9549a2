/**
 * The configuration of a gateway: YAML and variables are parsed into one frozen type, or every fault is named.
 *
 * Each key is also a variable: its path in capitals, joined with `_`, behind `GATEWAY_`. Variables win over the file;
 * an empty one counts as absent; lists are separated by commas, `[]` is an empty list; what has structure is JSON.
 *
 *     domains                   GATEWAY_DOMAINS=gateway.example,eu.gateway.example
 *     listeners.https           GATEWAY_LISTENERS_HTTPS=[::]:443,[::]:8443
 *     listeners.internal        GATEWAY_LISTENERS_INTERNAL=unix:/run/gateway.sock
 *     publicPort                GATEWAY_PUBLIC_PORT=443
 *     advertise.quic            GATEWAY_ADVERTISE_QUIC=198.51.100.7:4242
 *     tls                       GATEWAY_TLS_CERTIFICATE=/tls/cert.pem and GATEWAY_TLS_KEY=/tls/key.pem, or GATEWAY_TLS=JSON
 *     stateDir                  GATEWAY_STATE_DIR=/var/lib/gateway
 *     organizations             GATEWAY_ORGANIZATIONS={"acme":{"portSharing":false}}
 *     limits.headersTimeoutMs   GATEWAY_LIMITS_HEADERS_TIMEOUT_MS=15s
 *     drainDelay                GATEWAY_DRAIN_DELAY=5s
 *
 * Secrets are never values here: keys are given as the paths of their files. Paths in the file are relative to the
 * file, paths in variables to the working directory.
 */
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import * as z from 'zod';
import { ADMISSIONS } from '../../shared/src/protocol/messages.ts';
import type { Admission } from '../../shared/src/protocol/messages.ts';
import { isOrganization } from '../../shared/src/identity/membership.ts';
import { applyVariables } from '../../shared/src/config-variables.ts';
import type { Variable } from '../../shared/src/config-variables.ts';
import { suggest } from '../../shared/src/suggestion.ts';
import { formatHostPort, parseHostPort } from '../../shared/src/transport/address.ts';
import { DURATION_RULE, parseDuration, parseSize, SIZE_RULE } from '../../shared/src/units.ts';
import { GATEWAY_LIMITS } from './limits.ts';
import type { GatewayLimits } from './limits.ts';

export interface ListenAddress {
  /** IP address or host name, without brackets. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}
export type InternalAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface OrganizationPolicy {
  readonly portSharing: boolean;
  /** The widest admission that ports of the organization may have. */
  readonly highestAdmission: Admission;
  readonly allowInspectedTls: boolean;
  readonly limits: Partial<GatewayLimits>;
}

/** The OpenID Connect provider at which visitors sign in. */
export interface SignInConfig {
  /** As the provider writes it in its tokens. https, or http on this machine. */
  readonly issuer: string;
  readonly clientId: string;
  /** Absolute. Undefined: a public client, which PKCE alone protects. */
  readonly clientSecretFile: string | undefined;
  readonly scopes: readonly string[];
  readonly claims: { readonly user: string; readonly name: string; readonly organizations: string };
  /** The `prompt` with which the provider offers another account. */
  readonly switchPrompt: 'login' | 'select_account';
  /** File with an additional root certificate for the provider. Absolute. */
  readonly ca: string | undefined;
}

/** An issuer outside of the cluster whose memberships and tokens count, see docs/access.md. */
export interface AuthorityConfig {
  /** `iss` of what it signs. */
  readonly issuer: string;
  /** Where its keys are, over https. */
  readonly jwksUri: string;
  /** Has to stand in `aud` of what it signs. */
  readonly audience: string;
  /** The cluster's own memberships of runners, exchange tokens and access tokens do not count. */
  readonly only: boolean;
  /** Names of the claims that stand for ours. */
  readonly claims: {
    readonly subject: string;
    readonly groups: string;
    readonly environment: string;
    readonly port: string;
    readonly scope: string;
    readonly user: string;
  };
  /** Path of a PEM file: root of the https server, beside those of the system. */
  readonly ca: string | undefined;
}

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface GatewayConfig {
  /** Lower-case; at least one. */
  readonly domains: readonly string[];
  readonly listeners: {
    readonly https: readonly ListenAddress[];
    readonly quic: readonly ListenAddress[];
    readonly http: readonly ListenAddress[];
    readonly internal: InternalAddress;
  };
  /** Port in the URLs that are printed; undefined: that of the first https listener. */
  readonly publicPort: number | undefined;
  /** `host:port` that runners dial over UDP; empty: the API's host name and the port of the QUIC listener. */
  /** What runners are told to dial; empty: made of the domain and the listeners. */
  readonly advertise: { readonly quic: readonly string[]; readonly tcp: readonly string[] };
  /** For people who look at a list of gateways. */
  readonly name: string | undefined;
  readonly region: string | undefined;
  /** Paths, absolute. Empty: self-signed, in `<stateDir>/self-signed`. */
  readonly tls: readonly { readonly certificate: string; readonly key: string }[];
  /** Absolute. */
  readonly stateDir: string;
  readonly directory: { readonly type: 'embedded' };
  /** Undefined: nobody can sign in. */
  readonly signIn: SignInConfig | undefined;
  /** Undefined: the cluster alone says who a runner is. */
  readonly authority: AuthorityConfig | undefined;
  readonly organizations: Readonly<Record<string, OrganizationPolicy>>;
  /**
   * Whose scripts may use a visitor's session at a port, beside those of its own environment: origins as browsers write
   * them (`https://app.example`), or {@link SAME_CREATOR}.
   */
  readonly cors: readonly string[];
  /** Of ports that are open to everyone. */
  readonly everyonePorts: {
    /** Visitors see whose it is before they see it. */
    readonly interstitial: boolean;
    /** Search engines are told to pass over them. */
    readonly noindex: boolean;
  };
  readonly limits: GatewayLimits;
  readonly drainDelayMs: number;
  readonly drainTimeoutMs: number;
  /** Addresses and networks (CIDR) of proxies that are believed. */
  readonly trustedProxies: readonly string[];
  readonly logLevel: LogLevel;
  readonly accessLog: {
    readonly enabled: boolean;
    /** Share of the requests that are logged, 0 to 1. Errors are logged always. */
    readonly sample: number;
  };
}

export interface ConfigProblem {
  /** Key as it stands in the file (`listeners.https.0`), name of the variable, or place (`line 3, column 5`). */
  readonly path: string;
  readonly message: string;
}

/** All that is wrong with a configuration. The message has a line for each problem. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly ConfigProblem[];
  constructor(problems: readonly ConfigProblem[], source: string) {
    super(
      [`The configuration (${source}) is not valid:`, ...problems.map((p) => `  ${p.path}: ${p.message}`)].join('\n'),
    );
    this.problems = problems;
  }
}

const VARIABLE_PREFIX = 'GATEWAY_';
/**
 * Not part of the configuration: where its file is (read by the command line), and what Kubernetes sets for every
 * service that is named "gateway".
 */
const FOREIGN_VARIABLE = /^GATEWAY_(?:CONFIG$|SERVICE_(?:HOST|PORT)|PORT$|PORT_\d+_)/;
/** Timers of the platform end here (2^31 − 1 ms), and counts have no use beyond. */
const MAX_LIMIT = 2_147_483_647;
/** Longest drain, ms: orchestrators kill long before. */
const MAX_DRAIN_MS = 24 * 60 * 60 * 1_000;
/** YAML aliases that are followed; a few that refer to each other could make gigabytes. */
const MAX_ALIASES = 100;
/** A label of up to 63 characters and a dot stand before the domain; a name has at most 253 (RFC 1035 section 2.3.4). */
const MAX_DOMAIN_LENGTH = 253 - 64;

const DOMAIN = /^(?=.*[a-z])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A schema of text that `parse` turns into something; what it throws is the fault. */
const text = <T>(parse: (value: string) => T, hint = 'must be text'): z.ZodType<T> =>
  z.string({ error: hint }).transform((value, context): T => {
    try {
      return parse(value);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : 'is not valid' });
      return z.NEVER;
    }
  });

const domain = text((value) => {
  const name = value.toLowerCase().replace(/\.$/, '');
  if (!DOMAIN.test(name) || isIP(name) !== 0 || name.length > MAX_DOMAIN_LENGTH) {
    throw new RangeError(`"${value}" is no domain: write a name like gateway.example, without scheme, port and "*"`);
  }
  return name;
});
const listenAddress = text((value): ListenAddress => parseHostPort(/^:\d+$/.test(value) ? `[::]${value}` : value));
const quicAddress = text((value): ListenAddress => {
  const address = parseHostPort(/^:\d+$/.test(value) ? `[::]${value}` : value);
  if (isIP(address.host) === 0) throw new RangeError(`"${value}" has no IP address: QUIC listens on addresses only`);
  return address;
});
const internalAddress = text((value): InternalAddress => {
  if (!value.startsWith('unix:')) return { kind: 'tcp', ...parseHostPort(value) };
  const path = value.slice('unix:'.length);
  if (path === '') throw new RangeError('the path is missing: write unix:/run/gateway.sock');
  return { kind: 'unix', path };
});
const advertised = text((value) => {
  const { host, port } = parseHostPort(value);
  if (port === 0) throw new RangeError(`"${value}" has port 0, which nobody can dial`);
  return formatHostPort(host, port);
});
const trustedProxy = text((value) => {
  const [address = '', prefix, ...rest] = value.split('/');
  const bits = isIP(address) === 4 ? 32 : 128;
  const isPrefix = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits);
  if (isIP(address) !== 0 && isPrefix && rest.length === 0) return value;
  throw new RangeError(`"${value}" is neither an IP address nor a network like 10.0.0.0/8`);
});
const duration = z.preprocess(
  (value) => (value === 0 ? '0' : value),
  text((value) => {
    const ms = parseDuration(value);
    if (ms === undefined) throw new RangeError(`"${value}" is no duration: ${DURATION_RULE}`);
    if (ms > MAX_DRAIN_MS) throw new RangeError(`"${value}" is longer than 24h`);
    return ms;
  }, DURATION_RULE),
);

const limitRule = (name: string): string => {
  if (name.endsWith('Ms')) return DURATION_RULE;
  return name.endsWith('Bytes') ? SIZE_RULE : 'must be a number';
};

/** A limit is a number in the unit of its name, or a duration or size with its unit. */
const limit = (name: string) =>
  z.preprocess(
    (value) => {
      if (typeof value !== 'string') return value;
      if (/^\d+$/.test(value)) return Number(value);
      if (name.endsWith('Ms')) return parseDuration(value) ?? value;
      return name.endsWith('Bytes') ? (parseSize(value) ?? value) : value;
    },
    z
      .number({ error: limitRule(name) })
      .int('must be a whole number')
      .min(1, 'must be at least 1')
      .max(MAX_LIMIT, `must be at most ${MAX_LIMIT}`),
  );
const limits = z.strictObject(
  Object.fromEntries(Object.keys(GATEWAY_LIMITS).map((name) => [name, limit(name).optional()])),
) as unknown as z.ZodType<Partial<GatewayLimits>>;

const PUBLIC_PORT_RULE = 'must be a port from 1 to 65535';
const publicPort = z
  .number({ error: PUBLIC_PORT_RULE })
  .refine((port) => Number.isInteger(port) && port >= 1 && port <= 65_535, PUBLIC_PORT_RULE);
const list = <T>(item: z.ZodType<T>) => z.array(item).max(256);
const certificate = z.strictObject({ certificate: z.string().min(1), key: z.string().min(1) });
const organization = z.strictObject({
  portSharing: z.boolean().default(true),
  highestAdmission: z.enum(ADMISSIONS).default('everyone'),
  allowInspectedTls: z.boolean().default(true),
  limits: limits.default({}),
});

const issuer = text((value) => {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  const isLocal = url !== undefined && /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
  if (
    url &&
    url.search === '' &&
    url.hash === '' &&
    (url.protocol === 'https:' || (url.protocol === 'http:' && isLocal))
  ) {
    return value;
  }
  throw new RangeError(`"${value}" is no issuer: write its https URL, without query`);
});
const claimName = z.string().min(1).max(256);
const signIn = z.strictObject({
  issuer,
  clientId: z.string().min(1).max(1_024),
  clientSecretFile: z.string().min(1).optional(),
  scopes: list(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]+$/, 'is no scope'))
    .refine((scopes) => scopes.includes('openid'), 'has to contain openid')
    .default(['openid', 'profile']),
  claims: z
    .strictObject({
      user: claimName.default('sub'),
      name: claimName.default('name'),
      organizations: claimName.default('groups'),
    })
    .prefault({}),
  switchPrompt: z.enum(['login', 'select_account']).default('login'),
  ca: z.string().min(1).optional(),
});

/** The ports of environments of the same creator. */
export const SAME_CREATOR = 'same-creator';
const corsEntry = text((value) => {
  if (value === SAME_CREATOR) return value;
  const origin = URL.canParse(value) ? new URL(value).origin : undefined;
  if (origin === value && value.startsWith('https://')) return value;
  const hint = origin?.startsWith('https://') ? `; did you mean ${origin}?` : '';
  throw new RangeError(`"${value}" is neither ${SAME_CREATOR} nor an origin like https://app.example${hint}`);
});
const cors = z.preprocess((value) => (typeof value === 'string' ? [value] : value), list(corsEntry));
const everyonePorts = z.strictObject({
  interstitial: z.boolean().default(false),
  noindex: z.boolean().default(false),
});

const authority = z.strictObject({
  issuer: z.string().min(1).max(1_024),
  jwksUri: text((value) => {
    if (URL.canParse(value) && new URL(value).protocol === 'https:') return value;
    throw new RangeError(`"${value}" is no https URL: keys that come over anything else could be anybody's`);
  }),
  audience: z.string().min(1).max(1_024),
  only: z.boolean().default(false),
  claims: z
    .strictObject({
      subject: claimName.default('sub'),
      groups: claimName.default('groups'),
      environment: claimName.default('env'),
      port: claimName.default('port'),
      scope: claimName.default('scope'),
      user: claimName.default('sub'),
    })
    .prefault({}),
  ca: z.string().min(1).optional(),
});

const SAMPLE_RULE = 'must be a number from 0 to 1';
const accessLog = z.strictObject({
  enabled: z.boolean().default(true),
  sample: z.number({ error: SAMPLE_RULE }).min(0, SAMPLE_RULE).max(1, SAMPLE_RULE).default(1),
});

const configSchema = z.strictObject({
  domains: list(domain).min(1, 'name at least one domain').default(['gateway.localhost']),
  listeners: z
    .strictObject({
      https: list(listenAddress)
        .min(1, 'at least one address is needed')
        .default([{ host: '::', port: 8443 }]),
      quic: list(quicAddress)
        .min(1, 'at least one address is needed')
        .default([
          { host: '0.0.0.0', port: 4242 },
          { host: '::', port: 4242 },
        ]),
      http: list(listenAddress).default([]),
      internal: internalAddress.default({ kind: 'tcp', host: '127.0.0.1', port: 9090 }),
    })
    .prefault({}),
  publicPort: publicPort.optional(),
  advertise: z.strictObject({ quic: list(advertised).default([]), tcp: list(advertised).default([]) }).prefault({}),
  name: z.string().min(1).max(256).optional(),
  region: z.string().min(1).max(256).optional(),
  tls: z
    .preprocess((value) => (value === undefined || Array.isArray(value) ? value : [value]), list(certificate))
    .default([]),
  stateDir: z.string().min(1).default('state'),
  directory: z
    .strictObject({ type: z.literal('embedded', { error: 'this version has the embedded directory only' }) })
    .default({ type: 'embedded' }),
  signIn: signIn.optional(),
  authority: authority.optional(),
  organizations: z.record(z.string().refine(isOrganization, 'is no name of an organization'), organization).default({}),
  cors: cors.default([]),
  everyonePorts: everyonePorts.prefault({}),
  limits: limits.default({}),
  drainDelay: duration.default(0),
  drainTimeout: duration.default(30_000),
  trustedProxies: list(trustedProxy).default([]),
  logLevel: z.enum(LOG_LEVELS).default('info'),
  accessLog: accessLog.prefault({}),
});

const VARIABLES: readonly Variable[] = [
  ...[
    'domains',
    'listeners.https',
    'listeners.quic',
    'listeners.http',
    'advertise.quic',
    'advertise.tcp',
    'trustedProxies',
  ].map((key): Variable => ({ key, kind: 'list' })),
  ...['listeners.internal', 'directory.type', 'drainDelay', 'drainTimeout', 'logLevel', 'name', 'region'].map(
    (key): Variable => ({
      key,
      kind: 'text',
    }),
  ),
  ...['signIn.issuer', 'signIn.clientId', 'signIn.switchPrompt'].map((key): Variable => ({ key, kind: 'text' })),
  ...['user', 'name', 'organizations'].map((name): Variable => ({ key: `signIn.claims.${name}`, kind: 'text' })),
  { key: 'signIn.scopes', kind: 'list' },
  ...['stateDir', 'tls.certificate', 'tls.key', 'signIn.clientSecretFile', 'signIn.ca'].map((key): Variable => ({
    key,
    kind: 'path',
  })),
  { key: 'publicPort', kind: 'number' },
  ...['issuer', 'jwksUri', 'audience'].map((key): Variable => ({ key: `authority.${key}`, kind: 'text' })),
  ...Object.keys(authority.shape.claims.unwrap().shape).map((name): Variable => ({
    key: `authority.claims.${name}`,
    kind: 'text',
  })),
  { key: 'authority.only', kind: 'json' },
  { key: 'authority.ca', kind: 'path' },
  { key: 'tls', kind: 'json' },
  { key: 'organizations', kind: 'json' },
  { key: 'cors', kind: 'list' },
  ...['interstitial', 'noindex'].map((name): Variable => ({ key: `everyonePorts.${name}`, kind: 'json' })),
  { key: 'accessLog.enabled', kind: 'json' },
  { key: 'accessLog.sample', kind: 'json' },
  ...Object.keys(GATEWAY_LIMITS).map((name): Variable => ({ key: `limits.${name}`, kind: 'text' })),
];

type Tree = Record<string, unknown>;

const didYouMean = (word: string, known: Iterable<string>): string => {
  const suggestion = suggest(word, known);
  return suggestion === undefined ? '' : `; did you mean ${suggestion}?`;
};

/** The keys that may stand where an unknown one does. */
const keysAt = (path: readonly PropertyKey[]): readonly string[] => {
  const [first, second] = path.map(String);
  if (path.length === 0) return Object.keys(configSchema.shape);
  if (first === 'limits' || path[2] === 'limits') return Object.keys(GATEWAY_LIMITS);
  if (first === 'listeners') return ['https', 'quic', 'http', 'internal'];
  if (first === 'signIn')
    return second === 'claims' ? Object.keys(signIn.shape.claims.unwrap().shape) : Object.keys(signIn.shape);
  if (first === 'authority')
    return second === 'claims' ? Object.keys(authority.shape.claims.unwrap().shape) : Object.keys(authority.shape);
  if (first === 'tls') return ['certificate', 'key'];
  if (first === 'accessLog') return Object.keys(accessLog.shape);
  if (first === 'everyonePorts') return Object.keys(everyonePorts.shape);
  if (first === 'organizations' && second !== undefined) return Object.keys(organization.shape);
  return first === 'advertise' ? ['quic', 'tcp'] : ['type'];
};

const describeIssue = (issue: z.core.$ZodIssue, sources: ReadonlyMap<string, string>): ConfigProblem[] => {
  const dotted = issue.path.map(String).join('.');
  const variable = [...sources].find(([path]) => dotted === path || dotted.startsWith(`${path}.`))?.[1];
  const path = variable ?? (dotted || 'configuration');
  if (issue.code !== 'unrecognized_keys') return [{ path, message: issue.message }];
  return issue.keys.map((key) => ({
    path: variable ?? [...issue.path.map(String), key].join('.'),
    message: `unknown key${didYouMean(key, keysAt(issue.path))}`,
  }));
};

const readYaml = (yamlText: string, problems: ConfigProblem[]): Tree => {
  const lineCounter = new LineCounter();
  const document = parseDocument(yamlText, { lineCounter, prettyErrors: false });
  for (const error of document.errors) {
    const { line, col } = lineCounter.linePos(error.pos[0]);
    problems.push({ path: `line ${line}, column ${col}`, message: error.message });
  }
  if (document.errors.length > 0) return {};
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    // An alias that names nothing, or too many of them.
    problems.push({ path: 'configuration', message: error instanceof Error ? error.message : 'cannot be read' });
    return {};
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Tree;
  if (value !== null) {
    problems.push({ path: 'configuration', message: 'must be keys and values, like "domains: [gateway.example]"' });
  }
  return {};
};

/** Faults between keys that are valid one by one. */
const crossCheck = (config: z.output<typeof configSchema>): ConfigProblem[] => {
  const problems: ConfigProblem[] = [];
  const { https, quic, http, internal } = config.listeners;
  // TCP and UDP ports are apart from each other.
  const groups = [[...https, ...http, ...(internal.kind === 'tcp' ? [internal] : [])], quic];
  for (const addresses of groups) {
    const seen = new Set<string>();
    for (const { host, port } of addresses.filter(({ port }) => port !== 0)) {
      const address = formatHostPort(host, port);
      if (seen.has(address)) problems.push({ path: 'listeners', message: `${address} stands twice` });
      seen.add(address);
    }
  }
  if (new Set(config.domains).size !== config.domains.length) {
    problems.push({ path: 'domains', message: 'a domain stands twice' });
  }
  return problems;
};

const freeze = <T>(value: T): T => {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(freeze);
  return value;
};

/**
 * Parses the text of a configuration file (undefined: none) and the variables. Throws ConfigError with all that is
 * wrong. `options.path` is the file's path, for errors and for the paths in it.
 */
export const parseGatewayConfig = (
  yamlText: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
  options: { readonly path?: string } = {},
): GatewayConfig => {
  const source = options.path ?? (yamlText === undefined ? 'variables' : 'text');
  const problems: ConfigProblem[] = [];
  const tree = readYaml(yamlText ?? '', problems);
  const sources = applyVariables(
    tree,
    env,
    { prefix: VARIABLE_PREFIX, variables: VARIABLES, foreign: FOREIGN_VARIABLE },
    (path, message) => problems.push({ path, message }),
  );
  const result = configSchema.safeParse(tree);
  if (!result.success) problems.push(...result.error.issues.flatMap((issue) => describeIssue(issue, sources)));
  else problems.push(...crossCheck(result.data));
  if (!result.success || problems.length > 0) throw new ConfigError(problems, source);

  const {
    drainDelay,
    drainTimeout,
    publicPort,
    name,
    region,
    signIn: visitors,
    authority: other,
    ...data
  } = result.data;
  const directory = options.path === undefined ? '.' : dirname(options.path);
  const { internal } = data.listeners;
  return freeze({
    ...data,
    listeners: {
      ...data.listeners,
      internal: internal.kind === 'unix' ? { ...internal, path: resolve(directory, internal.path) } : internal,
    },
    publicPort,
    name,
    region,
    tls: data.tls.map((pair) => ({
      certificate: resolve(directory, pair.certificate),
      key: resolve(directory, pair.key),
    })),
    stateDir: resolve(directory, data.stateDir),
    signIn: visitors && {
      ...visitors,
      clientSecretFile: visitors.clientSecretFile && resolve(directory, visitors.clientSecretFile),
      ca: visitors.ca && resolve(directory, visitors.ca),
    },
    authority: other && { ...other, ca: other.ca && resolve(directory, other.ca) },
    limits: { ...GATEWAY_LIMITS, ...data.limits },
    drainDelayMs: drainDelay,
    drainTimeoutMs: drainTimeout,
  });
};
