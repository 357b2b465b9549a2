/**
 * Messages of the control stream, protocol version 1. Each is a frame of a 4-byte big-endian length and a JSON
 * object with a `type`. An unknown type is ignored; a known one that does not fit its schema closes the leg.
 *
 *     client                                gateway
 *       hello      ──────────────────────►            versions, membership, nonce, instance
 *                  ◄──────────────────────  challenge version, gateway's membership, nonce
 *       proof      ──────────────────────►            empty where the transport proves the keys (QUIC); see proof.ts
 *                  ◄──────────────────────  welcome   leg id, gateways, limits
 *       activate   ──────────────────────►            only after a hello with `standby`
 *       environments ────────────────────►
 *                  ◄──────────────────────  environmentsResult
 *                  ◄──────────────────────  path      packets lost, where the transport counts them
 *       drain, goodbye, ping, pong ◄─────►
 *
 * Versions: 1 (first).
 */
import * as z from 'zod';
import { ID_RULE, isExposablePort, isId } from '../hostname.ts';

export const PROTOCOL_VERSIONS: readonly number[] = [1];

/** Largest control message, bytes of JSON. Announcements are cut into parts far below it. */
export const MAX_MESSAGE_BYTES = 1 << 20;
/** Largest part of an announcement, bytes of JSON; the sender cuts, the receiver only has {@link MAX_MESSAGE_BYTES}. */
export const MAX_ENVIRONMENTS_PART_BYTES = 256 << 10;
/** Parts of one announcement; more closes the leg. 64 MiB hold 1,000 environments of 64 KiB. */
export const MAX_ENVIRONMENTS_PARTS = 256;
/** Live environments of one runner (design: 1,000); what is beyond is refused one by one with `environment_limit`. */
export const MAX_ENVIRONMENTS = 1_000;
/** Exposed ports of one environment. */
const MAX_PORTS_PER_ENVIRONMENT = 128;

const id = z.string().refine(isId, ID_RULE);
const shortText = z.string().max(256);
const jwt = z.string().max(8_192);
const nonce = z.string().regex(/^[A-Za-z0-9_-]{43}$/, 'a nonce is 32 bytes in base64url');

export const ADMISSIONS = ['everyone', 'organization', 'creator_only'] as const;
export type Admission = (typeof ADMISSIONS)[number];

export const exposedPortSchema = z.object({
  port: z.number().refine(isExposablePort, 'a port is 1024 to 65535, and not 22999 (the log port)'),
  /** What the tunnel client speaks to the upstream. */
  protocol: z.enum(['http', 'https']).default('http'),
  /** Who may open the port; the narrowest when nothing is said. */
  admission: z.enum(ADMISSIONS).default('creator_only'),
  name: shortText.optional(),
  /** `local`: Host becomes `localhost:<port>` for dev servers that refuse unknown hosts. */
  hostHeader: z.enum(['preserve', 'local']).default('preserve'),
});
export type ExposedPort = Readonly<z.output<typeof exposedPortSchema>>;

export const environmentSchema = z.object({
  id,
  /** User id of who made the environment. */
  creator: shortText.optional(),
  /** Host name or address that the tunnel client dials; the gateway only shows it. */
  host: shortText.default('127.0.0.1'),
  ports: z
    .array(exposedPortSchema)
    .max(MAX_PORTS_PER_ENVIRONMENT)
    .default([])
    .superRefine((ports, context) => {
      const seen = new Set<number>();
      ports.forEach(({ port }, index) => {
        if (seen.has(port))
          context.addIssue({ code: 'custom', path: [index, 'port'], message: `port ${port} stands twice` });
        seen.add(port);
      });
    }),
  /** Who answers at the log port: the tunnel client itself, or a server of the environment. */
  logs: z.enum(['builtin', 'upstream']).default('upstream'),
  /** Raised on each change of admission: older browser sessions end. */
  authNonce: z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER).default(0),
});
/** An environment as its runner announces it. */
export type Environment = Readonly<Omit<z.output<typeof environmentSchema>, 'ports'>> & {
  readonly ports: readonly ExposedPort[];
};

/** A gateway that runners can dial. */
export const gatewayAddressSchema = z.object({
  id: shortText,
  /** For people. */
  name: shortText.optional(),
  region: shortText.optional(),
  /** The domain that it serves. */
  domain: shortText.optional(),
  /** `host:port` to dial over UDP; the host is a name or an address, IPv6 in brackets. */
  quic: z.array(shortText).max(16),
  /** `tunnel.<domain>:port` to dial over TCP. Absent: not told, which is not to say that there are none. */
  tcp: z.array(shortText).max(16).optional(),
  /** Its Ed25519 keys, base64url, for people and their firewalls: what counts is the membership that it shows. */
  keys: z.array(shortText).max(16).optional(),
});
export type GatewayAddress = Readonly<z.output<typeof gatewayAddressSchema>>;

/**
 * What a `hello` may ask for. `standby`: the leg takes no tunnel streams until `activate`; until then it `replaces`
 * nothing. For a client that dials by several ways and keeps one, and for one that measures.
 */
const LEG_FEATURES = ['standby'] as const;
export type LegFeature = (typeof LEG_FEATURES)[number];

const hello = z.object({
  type: z.literal('hello'),
  versions: z.array(z.number().int()).min(1).max(16),
  features: z.array(shortText).max(32).default([]),
  membership: jwt,
  nonce,
  /** One process of the runner: random, new with each start. */
  instance: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  /** When the instance started, ms since the epoch by its own clock: the latest one is routed to first. */
  instanceStartedAt: z.number().int().nonnegative(),
  /** Program and version, for the operator's eyes. */
  agent: shortText,
  /** Leg of this instance that this one replaces, if any. */
  replaces: shortText.optional(),
});
/** Where the transport proves no keys, see proof.ts. */
const keyProof = {
  signature: z
    .string()
    .regex(/^[A-Za-z0-9_-]{86}$/, 'a signature is 64 bytes in base64url')
    .optional(),
  binding: z
    .string()
    .regex(/^[A-Za-z0-9_-]{43}$/, 'a binding is 32 bytes in base64url')
    .optional(),
};
const challenge = z.object({
  type: z.literal('challenge'),
  version: z.number().int(),
  membership: jwt,
  nonce,
  ...keyProof,
});
const proof = z.object({ type: z.literal('proof'), ...keyProof });
const welcome = z.object({
  type: z.literal('welcome'),
  legId: shortText,
  gatewayId: shortText,
  gateways: z.array(gatewayAddressSchema).max(64),
  /** JWKS of the authority: current and previous keys. */
  trust: z.object({ keys: z.array(z.record(z.string(), z.unknown())).max(16) }).optional(),
});
/** A leg that came up on standby serves from now on. */
const activate = z.object({ type: z.literal('activate') });
const environments = z.object({
  type: z.literal('environments'),
  /** Counts up per instance. One that is not above the last one is ignored. */
  revision: z.number().int().positive(),
  part: z
    .number()
    .int()
    .nonnegative()
    .max(MAX_ENVIRONMENTS_PARTS - 1),
  last: z.boolean(),
  /** `set` is everything there is; otherwise a change to what was announced before. */
  full: z.boolean(),
  /** Checked one by one against {@link environmentSchema}, so that one bad environment does not take the others down. */
  set: z.array(z.unknown()).max(10_000).default([]),
  delete: z.array(shortText).max(10_000).default([]),
});
/** Why one environment of an announcement was not accepted. */
export const ENVIRONMENT_REFUSALS = {
  invalid: 'the announcement of this environment is not valid',
  claimed: 'another runner holds this environment id',
  released: 'an operator has taken this environment id from the runner; it is announced again when it is set anew',
  environment_limit: 'the runner has as many environments as it may have',
  unavailable: 'the directory cannot be reached, so that no new environment can be claimed',
} as const;
export type EnvironmentRefusal = keyof typeof ENVIRONMENT_REFUSALS;

/** `code` of an environment that was accepted and is not served as announced; `message` says what of it. */
export const ADMISSION_NARROWED = 'admission_narrowed';

const environmentResult = z.object({
  id: shortText,
  accepted: z.boolean(),
  code: z.string().max(64).optional(),
  message: z.string().max(1_024).optional(),
  /** URL of each exposed port. */
  urls: z
    .array(z.object({ port: z.number().int(), url: z.string().max(1_024) }))
    .max(MAX_PORTS_PER_ENVIRONMENT)
    .default([]),
});
export type EnvironmentResult = Readonly<z.output<typeof environmentResult>>;
const environmentsResult = z.object({
  type: z.literal('environmentsResult'),
  revision: z.number().int().positive(),
  part: z.number().int().nonnegative(),
  last: z.boolean(),
  results: z.array(environmentResult).max(10_000),
});
const drain = z.object({
  type: z.literal('drain'),
  /** `shutdown`: the process ends. `data_path`: this leg carries nothing, make another. `update`: a newer instance serves. */
  reason: z.string().max(64),
  /** After this many ms the sender closes what is left; absent: no deadline. */
  deadlineMs: z.number().nonnegative().optional(),
});
const goodbye = z.object({
  type: z.literal('goodbye'),
  code: z.string().max(64),
  reason: z.string().max(1_024).optional(),
  /** With `protocol_version`: what the sender speaks. */
  supported: z.array(z.number().int()).max(16).optional(),
  /** With `clock_skew`: the sender's wall clock, ms since the epoch. */
  serverTime: z.number().optional(),
  retryAfterMs: z.number().nonnegative().max(600_000).optional(),
});
const packetCount = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
/** Packets that the sender has sent on this leg, and those of them that were lost; from whoever accepted it. */
const path = z.object({ type: z.literal('path'), sent: packetCount, lost: packetCount });
const ping = z.object({ type: z.literal('ping'), id: z.number().int() });
const pong = z.object({ type: z.literal('pong'), id: z.number().int() });

export const MESSAGE_SCHEMAS = {
  hello,
  challenge,
  proof,
  welcome,
  activate,
  environments,
  environmentsResult,
  drain,
  goodbye,
  path,
  ping,
  pong,
} as const;

export type MessageType = keyof typeof MESSAGE_SCHEMAS;
export type Message = { [T in MessageType]: z.output<(typeof MESSAGE_SCHEMAS)[T]> }[MessageType];
/** What may be handed to the encoder: fields with a default may be absent. */
export type OutgoingMessage = { [T in MessageType]: z.input<(typeof MESSAGE_SCHEMAS)[T]> }[MessageType];
export type MessageOf<T extends MessageType> = Extract<Message, { type: T }>;
