/**
 * Another authority: an issuer outside of the cluster whose memberships and tokens count here. Its keys are fetched over
 * HTTPS, again when they have become old or when a key is asked for that is not known, and kept while the issuer is
 * away.
 */
import { rootCertificates } from 'node:tls';
import { Agent, request } from 'undici';
import * as z from 'zod';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, RefusedError } from '../../../shared/src/errors.ts';
import type { JsonWebKeySet } from '../../../shared/src/identity/enrolment.ts';
import type { AuthorityConfig } from '../config.ts';
import type { Logger } from '../observability/log.ts';

/** How long keys are taken from memory, ms. What the issuer removed is accepted for so long. */
export const ISSUER_KEYS_LIFETIME_MS = 600_000;
/** A key that is not known is asked for at most this often, ms: whoever invents key ids must not busy the issuer. */
export const UNKNOWN_ISSUER_KEY_MS = 30_000;
/** From the look-up of the issuer's name to the last byte of its keys, ms. */
const FETCH_TIMEOUT_MS = 5_000;
/** Largest answer, bytes: 64 RSA keys with certificates. */
const MAX_KEYS_BYTES = 256 << 10;
/** Keys of one issuer. */
const MAX_KEYS = 64;

const keysSchema = z.object({
  keys: z
    .array(z.looseObject({ kty: z.string() }))
    .min(1)
    .max(MAX_KEYS),
});

export interface OtherAuthority {
  readonly issuer: string;
  readonly audience: string;
  /** Nothing that the cluster itself signs for runners and visitors counts. */
  readonly only: boolean;
  readonly claims: AuthorityConfig['claims'];
  /** Why its keys are not what they could be, for operators; undefined when nothing is known to be wrong. */
  problem(): string | undefined;
  /** Keys among which `keyId` is, if the issuer has it. Rejects with RefusedError `unavailable` when none were ever fetched. */
  trust(keyId: string | undefined): Promise<JsonWebKeySet>;
  close(): Promise<void>;
}

export const createOtherAuthority = (
  deps: { readonly clock: Clock; readonly log: Pick<Logger, 'info' | 'warn'> },
  config: AuthorityConfig,
  options: { readonly ca?: string | undefined } = {},
): OtherAuthority => {
  const { clock, log } = deps;
  const agent = new Agent({ connect: options.ca === undefined ? {} : { ca: [...rootCertificates, options.ca] } });
  const closing = new AbortController();
  let known: JsonWebKeySet | undefined;
  let fetchedAt = -Infinity;
  let askedAt = -Infinity;
  let fetching: Promise<void> | undefined;
  let problem: string | undefined;

  const read = async (): Promise<JsonWebKeySet> => {
    const { statusCode, body } = await request(config.jwksUri, {
      dispatcher: agent,
      headers: { accept: 'application/json' },
      signal: AbortSignal.any([closing.signal, AbortSignal.timeout(FETCH_TIMEOUT_MS)]),
    });
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MAX_KEYS_BYTES) throw new RangeError('the key set is too large');
      chunks.push(chunk);
    }
    if (statusCode !== 200) throw new Error(`the issuer answered ${statusCode}`);
    return keysSchema.parse(JSON.parse(Buffer.concat(chunks).toString('utf8')));
  };
  /** Never rejects. */
  const fetchKeys = (): Promise<void> => {
    askedAt = clock.monotonic();
    fetching ??= read()
      .then((keys) => {
        if (!known) log.info({ issuer: config.issuer, keys: keys.keys.length }, 'the keys of the other authority');
        known = keys;
        problem = undefined;
        fetchedAt = clock.monotonic();
      })
      .catch((error: unknown) => {
        if (closing.signal.aborted) return;
        problem = `the keys of ${config.issuer} cannot be fetched from ${config.jwksUri}: ${describeError(error)}`;
        log.warn(
          { err: error, issuer: config.issuer, jwksUri: config.jwksUri, known: known !== undefined },
          'the keys of the other authority cannot be fetched',
        );
      })
      .finally(() => {
        fetching = undefined;
      });
    return fetching;
  };
  const mayAsk = (): boolean => clock.monotonic() - askedAt >= UNKNOWN_ISSUER_KEY_MS;

  return {
    issuer: config.issuer,
    audience: config.audience,
    only: config.only,
    claims: config.claims,
    problem: () => problem,
    async trust(keyId) {
      // The first that asks waits; later ones have the keys of before while new ones are fetched.
      if (!known) await (fetching ?? (mayAsk() ? fetchKeys() : undefined));
      else if (clock.monotonic() - fetchedAt >= ISSUER_KEYS_LIFETIME_MS && mayAsk()) void fetchKeys();
      const isKnown = keyId === undefined || known?.keys.some((key) => key['kid'] === keyId);
      if (known && !isKnown) await (fetching ?? (mayAsk() ? fetchKeys() : undefined));
      if (!known) throw new RefusedError('unavailable', { detail: 'the issuer of the membership cannot be asked' });
      return known;
    },
    async close() {
      closing.abort();
      await fetching;
      await agent.destroy();
    },
  };
};
