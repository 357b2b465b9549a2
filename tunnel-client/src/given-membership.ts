/**
 * The membership of a runner that another authority vouches for: it comes from outside, as a file that somebody renews
 * or as text, and nothing is joined or renewed here. Who signs the memberships of gateways is asked of the gateway's
 * API, over HTTPS that is verified.
 */
import { readFile } from 'node:fs/promises';
import { createBackoff, RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../shared/src/identity/enrolment.ts';
import { readGivenMembership, type Membership } from '../../shared/src/identity/membership.ts';
import { type Enrolled, isShowable, withNews } from './enrolled.ts';
import type { Enrolment, EnrolmentDeps } from './enrolment.ts';
import { watchFile, type WatchedFile } from './environment-file.ts';
import { createWaker } from './waker.ts';

export type GivenMembership = { readonly file: string } | { readonly token: string };

/** The authority publishes a new key a day before it signs with it; its keys are asked for this often, ms. */
const TRUST_REFRESH_MS = 6 * 60 * 60 * 1_000;
/** Asked anew because a gateway refused the membership or was not believed: not more often than this, ms. */
const FORCED_INTERVAL_MS = 10_000;

export const createGivenEnrolment = (
  deps: Omit<EnrolmentDeps, 'store'>,
  options: { readonly runnerId: string; readonly membership: GivenMembership },
): Enrolment => {
  const { api, clock, log, key } = deps;
  const { runnerId, membership: given } = options;
  const waker = createWaker(clock);
  const backoff = createBackoff(deps, RECONNECT_BACKOFF);
  let enrolled: Enrolled | undefined;
  let forcedAt = -Infinity;
  let watched: WatchedFile | undefined;

  const readToken = async (): Promise<string> => {
    if ('token' in given) return given.token.trim();
    const text = await readFile(given.file, 'utf8').catch((cause: unknown) => {
      throw new Error(`The membership file ${given.file} cannot be read`, { cause });
    });
    watched ??= watchFile(
      { clock, onChange: () => waker.wake(), onError: (error) => deps.onError(error, 0) },
      { path: given.file, text },
    );
    return text.trim();
  };
  const check = (membership: Membership): void => {
    if (!Buffer.from(membership.publicKey).equals(key.publicKey)) {
      throw new RefusedError('key_mismatch', {
        detail: 'the membership was given to another key than this runner has',
      });
    }
    if (!isShowable(membership, clock)) {
      throw new RefusedError('membership_expired', { detail: 'the membership that was given has expired' });
    }
  };

  const load = async (signal: AbortSignal): Promise<void> => {
    const token = await readToken();
    const membership = readGivenMembership(token, runnerId);
    check(membership);
    const { gateways, issuer, trust } = await api.get(GATEWAYS_PATH, gatewaysResponseSchema, { signal });
    if (issuer === undefined || !trust) throw new Error('the gateway does not say who signs for it: update it');
    enrolled = { token, membership, issuer, trust, gateways };
    log.info({ issuer: membership.issuer, expiresAt: new Date(membership.expiresAt).toISOString() }, 'membership read');
    deps.onChange(enrolled);
  };

  return {
    clock,
    async run({ signal }) {
      try {
        for (;;) {
          signal.throwIfAborted();
          let pauseMs = TRUST_REFRESH_MS;
          try {
            await load(signal);
            backoff.succeeded();
          } catch (error) {
            signal.throwIfAborted();
            pauseMs = backoff.next(error instanceof RefusedError ? error.retryAfterMs : 0);
            deps.onError(error as Error, pauseMs);
          }
          await waker.wait(pauseMs, signal);
        }
      } finally {
        watched?.close();
      }
    },
    current: () => (enrolled && isShowable(enrolled.membership, clock) ? enrolled : undefined),
    renewSoon() {
      if (clock.monotonic() - forcedAt < FORCED_INTERVAL_MS) return;
      forcedAt = clock.monotonic();
      waker.wake();
    },
    learn(news) {
      const next = enrolled && withNews(enrolled, news);
      if (!next) return;
      enrolled = next;
      deps.onChange(next);
    },
    async refreshGateways({ signal }) {
      const { gateways } = await api.get(GATEWAYS_PATH, gatewaysResponseSchema, { signal });
      this.learn({ gateways });
    },
  };
};
