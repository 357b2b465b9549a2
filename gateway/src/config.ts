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
import { dirname, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import type * as z from 'zod';
import { applyVariables } from '../../shared/src/config-variables.ts';
import type { Admission } from '../../shared/src/protocol/messages.ts';
import { suggest } from '../../shared/src/suggestion.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';
import type { InternalAddress } from '../../shared/src/transport/internal-address.ts';
import { configSchema, keysAt, VARIABLES } from './config-schema.ts';
import type { LOG_LEVELS, PROXY_PROTOCOLS } from './config-schema.ts';
import { GATEWAY_LIMITS } from './limits.ts';
import type { GatewayLimits, OrganizationLimits } from './limits.ts';

export interface ListenAddress {
  /** IP address or host name, without brackets. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

export interface OrganizationPolicy {
  readonly portSharing: boolean;
  /** The widest admission that ports of the organization may have. */
  readonly highestAdmission: Admission;
  readonly allowInspectedTls: boolean;
  readonly limits: Partial<OrganizationLimits>;
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

/** Where OpenTelemetry spans go, see docs/tracing.md. */
export interface TracingConfig {
  /** URL of an OTLP/HTTP receiver; `v1/traces` is added to its path. */
  readonly endpoint: string;
  /** File with header fields that show the receiver who we are. Absolute. */
  readonly headersFile: string | undefined;
  /** File with an additional root certificate for the receiver. Absolute. */
  readonly ca: string | undefined;
  /** Share of the requests that are traced, 0 to 1. */
  readonly sampleRatio: number;
}

export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * Whether trusted proxies send PROXY protocol. `optional`: where a connection begins with it. `required`: always on
 * https listeners; on plain ones X-Forwarded-* does as well. `off`: never, such bytes are refused.
 */
export type ProxyProtocol = (typeof PROXY_PROTOCOLS)[number];

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
  /** Addresses and networks (CIDR) of proxies that are believed about their clients. */
  readonly trustedProxies: readonly string[];
  readonly proxyProtocol: ProxyProtocol;
  readonly logLevel: LogLevel;
  readonly accessLog: {
    readonly enabled: boolean;
    /** Share of the requests that are logged, 0 to 1. Errors are logged always. */
    readonly sample: number;
  };
  /** Undefined: no spans are made. */
  readonly tracing: TracingConfig | undefined;
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
/** YAML aliases that are followed; a few that refer to each other could make gigabytes. */
const MAX_ALIASES = 100;

type Tree = Record<string, unknown>;

const didYouMean = (word: string, known: Iterable<string>): string => {
  const suggestion = suggest(word, known);
  return suggestion === undefined ? '' : `; did you mean ${suggestion}?`;
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

const crossCheckProxies = (config: z.output<typeof configSchema>): ConfigProblem[] => {
  const { trustedProxies, proxyProtocol, listeners, publicPort, advertise, domains } = config;
  if (trustedProxies.length === 0) {
    if (proxyProtocol !== 'required') return [];
    return [{ path: 'proxyProtocol', message: 'nobody may send it: name the load balancers in trustedProxies' }];
  }
  const isOwnPort = listeners.https.some(({ port }) => port === publicPort);
  if (listeners.http.length === 0 || publicPort === undefined || isOwnPort || advertise.tcp.length > 0) return [];
  const example = `tunnel.${domains[0]}:${listeners.https[0]?.port || 8443}`;
  return [
    {
      path: 'advertise.tcp',
      message: `is missing: runners would be told port ${publicPort}, where a proxy may end TLS before the gateway; name where connections are passed through to the https listener, like ${example}`,
    },
  ];
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
  problems.push(...crossCheckProxies(config));
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
    tracing,
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
    tracing: tracing && {
      ...tracing,
      headersFile: tracing.headersFile && resolve(directory, tracing.headersFile),
      ca: tracing.ca && resolve(directory, tracing.ca),
    },
    limits: { ...GATEWAY_LIMITS, ...data.limits },
    drainDelayMs: drainDelay,
    drainTimeoutMs: drainTimeout,
  });
};
