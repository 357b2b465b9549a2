/** What each setting of the tunnel client may be, one at a time. Pure. */
import * as z from 'zod';
import { ID_RULE, isId } from '../../shared/src/hostname.ts';
import { parseInternalAddress } from '../../shared/src/transport/internal-address.ts';
import { parseGatewayUrl } from './gateway-url.ts';
import { parseOauthTarget } from './oauth-target.ts';
import { TRANSPORT_CHOICES } from './transport.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export const LOG_FORMATS = ['auto', 'human', 'json'] as const;

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

export const settingsSchema = z.object({
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
export type SettingKey = keyof typeof settingsSchema.shape;

export const SETTING_KEYS = Object.keys(settingsSchema.shape) as SettingKey[];
