/** What each key of a gateway's configuration may hold, as zod schemas, and which variables stand for the keys. */
import { isIP } from 'node:net';
import * as z from 'zod';
import type { Variable } from '../../shared/src/config-variables.ts';
import { isOrganization } from '../../shared/src/identity/membership.ts';
import { ADMISSIONS } from '../../shared/src/protocol/messages.ts';
import { formatHostPort, parseHostPort } from '../../shared/src/transport/address.ts';
import { DURATION_RULE, parseDuration, parseSize, SIZE_RULE } from '../../shared/src/units.ts';
import { parseInternalAddress } from '../../shared/src/transport/internal-address.ts';
import type { ListenAddress } from './config.ts';
import { GATEWAY_LIMITS, ORGANIZATION_LIMITS } from './limits.ts';
import type { GatewayLimits } from './limits.ts';

export const PROXY_PROTOCOLS = ['off', 'optional', 'required'] as const;
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/** Timers of the platform end here (2^31 − 1 ms), and counts have no use beyond. */
const MAX_LIMIT = 2_147_483_647;
/** Longest drain, ms: orchestrators kill long before. */
const MAX_DRAIN_MS = 24 * 60 * 60 * 1_000;
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
const internalAddress = text(parseInternalAddress);
const advertised = text((value) => {
  const { host, port } = parseHostPort(value);
  if (port === 0) throw new RangeError(`"${value}" has port 0, which nobody can dial`);
  return formatHostPort(host, port);
});
const trustedProxy = text((value) => {
  const [address = '', prefix, ...rest] = value.split('/');
  const bits = isIP(address) === 4 ? 32 : 128;
  const isPrefix = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits);
  if (Number(prefix) === 0) throw new RangeError(`"${value}" is everybody: strangers would say who they are`);
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
const limitsOf = <Name extends keyof GatewayLimits>(names: readonly Name[]) =>
  z.strictObject(Object.fromEntries(names.map((name) => [name, limit(name).optional()]))) as unknown as z.ZodType<
    Partial<Pick<GatewayLimits, Name>>
  >;
const limits = limitsOf(Object.keys(GATEWAY_LIMITS) as (keyof GatewayLimits)[]);

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
  limits: limitsOf(ORGANIZATION_LIMITS).default({}),
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
const share = z.number({ error: SAMPLE_RULE }).min(0, SAMPLE_RULE).max(1, SAMPLE_RULE);
const accessLog = z.strictObject({
  enabled: z.boolean().default(true),
  sample: share.default(1),
});
/** Of the requests; more is seldom looked at, and each traced request is about 3 KB for the receiver. */
const DEFAULT_TRACED_SHARE = 0.1;
const tracing = z.strictObject({
  endpoint: text((value) => {
    const url = URL.canParse(value) ? new URL(value) : undefined;
    const isPlain = url && url.username === '' && url.password === '' && url.search === '' && url.hash === '';
    if (isPlain && /^https?:$/.test(url.protocol)) return value;
    throw new RangeError(
      `it is no URL of an OTLP/HTTP receiver: write one like http://collector.example:4318, without query; what is secret belongs in tracing.headersFile`,
    );
  }),
  headersFile: z.string().min(1).optional(),
  ca: z.string().min(1).optional(),
  sampleRatio: share.default(DEFAULT_TRACED_SHARE),
});

export const configSchema = z.strictObject({
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
  proxyProtocol: z.enum(PROXY_PROTOCOLS).default('optional'),
  logLevel: z.enum(LOG_LEVELS).default('info'),
  accessLog: accessLog.prefault({}),
  tracing: tracing.optional(),
});

/** Every key that may be given as a variable. */
export const VARIABLES: readonly Variable[] = [
  ...[
    'domains',
    'listeners.https',
    'listeners.quic',
    'listeners.http',
    'advertise.quic',
    'advertise.tcp',
    'trustedProxies',
  ].map((key): Variable => ({ key, kind: 'list' })),
  ...[
    'listeners.internal',
    'directory.type',
    'drainDelay',
    'drainTimeout',
    'logLevel',
    'name',
    'proxyProtocol',
    'region',
  ].map((key): Variable => ({ key, kind: 'text' })),
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
  { key: 'tracing.endpoint', kind: 'text' },
  { key: 'tracing.sampleRatio', kind: 'json' },
  ...['tracing.headersFile', 'tracing.ca'].map((key): Variable => ({ key, kind: 'path' })),
  ...Object.keys(GATEWAY_LIMITS).map((name): Variable => ({ key: `limits.${name}`, kind: 'text' })),
];

/** The keys that may stand where an unknown one does. */
export const keysAt = (path: readonly PropertyKey[]): readonly string[] => {
  const [first, second] = path.map(String);
  if (path.length === 0) return Object.keys(configSchema.shape);
  if (first === 'limits') return Object.keys(GATEWAY_LIMITS);
  if (path[2] === 'limits') return ORGANIZATION_LIMITS;
  if (first === 'listeners') return ['https', 'quic', 'http', 'internal'];
  if (first === 'signIn')
    return second === 'claims' ? Object.keys(signIn.shape.claims.unwrap().shape) : Object.keys(signIn.shape);
  if (first === 'authority')
    return second === 'claims' ? Object.keys(authority.shape.claims.unwrap().shape) : Object.keys(authority.shape);
  if (first === 'tls') return ['certificate', 'key'];
  if (first === 'tracing') return Object.keys(tracing.shape);
  if (first === 'accessLog') return Object.keys(accessLog.shape);
  if (first === 'everyonePorts') return Object.keys(everyonePorts.shape);
  if (first === 'organizations' && second !== undefined) return Object.keys(organization.shape);
  return first === 'advertise' ? ['quic', 'tcp'] : ['type'];
};
