/**
 * Keeps a valid membership: joins with the exchange token, renews with the key from half-life on, and goes on trying.
 *
 *     stored and valid ───────────────────────────► use it
 *     a token that was not used yet ──► join ─────► use it
 *     otherwise ──────────────────────► renew ────► use it          also when the last one has expired
 *     a join that is refused ─────────► renew                       the key may be on record from an earlier join
 *     a renewal that is refused ──────► join, once, if there is a token that was not used yet
 */
import { randomBytes } from 'node:crypto';
import { type BackoffOptions, createBackoff, RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import { type Clock } from '../../shared/src/clock.ts';
import { REFUSALS, type Refusal, RefusedError } from '../../shared/src/errors.ts';
import {
  type EnrolmentResponse,
  enrolmentResponseSchema,
  GATEWAYS_PATH,
  gatewaysResponseSchema,
  JOIN_PATH,
  joinPayload,
  RENEW_PATH,
  renewPayload,
} from '../../shared/src/identity/enrolment.ts';
import { type IdentityKey, sign } from '../../shared/src/identity/keys.ts';
import { readMembership } from '../../shared/src/identity/membership.ts';
import type { ApiClient } from './api-client.ts';
import { type ClusterNews, type Enrolled, isShowable, withNews } from './enrolled.ts';
import { type EnrolmentStore, hashToken, type StoredEnrolment } from './enrolment-store.ts';
import type { Logger } from './logger.ts';
import { createWaker } from './waker.ts';

/** How often something is tried again that needs a person first, ms: it ends by itself, and hammers at nobody. */
export const PERSON_RETRY_MS = 300_000;
/** The wall clock is looked at as often, ms: a timer does not count the time a laptop sleeps. */
const CLOCK_CHECK_MS = 60_000;
/** Share of the lifetime within which renewals are spread, so that runners that joined together renew apart. */
const RENEWAL_JITTER = 0.1;
/** Renewals asked for because a gateway refused the membership: not more often than this, ms. */
const FORCED_RENEWAL_INTERVAL_MS = 10_000;
/** A clock that differs less is left as it is, ms: below the precision of the measurement. */
const MIN_CORRECTION_MS = 1_000;

export interface EnrolmentDeps {
  /** Of this machine; may be wrong. */
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly api: ApiClient;
  readonly store: EnrolmentStore;
  readonly key: IdentityKey;
  /** A membership was got, or the gateways or keys changed. */
  readonly onChange: (enrolled: Enrolled) => void;
  /** An attempt failed; it is tried again after `retryInMs`. */
  readonly onError: (error: Error, retryInMs: number) => void;
}

export interface EnrolmentOptions {
  readonly runnerId: string;
  /** Origin and host name of the API. */
  readonly gateway: { readonly origin: string; readonly host: string };
  readonly exchangeToken: string | undefined;
  readonly backoff?: BackoffOptions;
}

export interface Enrolment {
  /** Runs until `signal` is aborted; then rejects with its reason. */
  run(options: { signal: AbortSignal }): Promise<never>;
  /** The membership, if it is valid now. */
  current(): Enrolled | undefined;
  /** The clock that credentials are judged by: this machine's, corrected by what the gateway said of it. */
  readonly clock: Clock;
  /** A gateway did not accept the membership: get a new one soon. */
  renewSoon(): void;
  learn(news: ClusterNews): void;
  /** Asks the API for the list of gateways. */
  refreshGateways(options: { signal: AbortSignal }): Promise<void>;
}

/** Refusals after which the other way in may still work. */
const isRefusedWith = (error: unknown, codes: readonly Refusal[]): error is RefusedError =>
  error instanceof RefusedError && codes.includes(error.code);
const JOIN_REFUSALS: readonly Refusal[] = ['token_invalid', 'token_expired', 'token_used'];
const RENEW_REFUSALS: readonly Refusal[] = ['revoked', 'key_mismatch', 'runner_unknown'];

export const createEnrolment = (deps: EnrolmentDeps, options: EnrolmentOptions): Enrolment => {
  const { api, log, store } = deps;
  const { runnerId, gateway, exchangeToken } = options;
  const backoff = createBackoff(deps, options.backoff ?? RECONNECT_BACKOFF);
  const waker = createWaker(deps.clock);
  let correctionMs = 0;
  let enrolled: Enrolled | undefined;
  let joinedWith: string | undefined;
  let renewAt = 0;
  let forcedAt = -Infinity;

  const clock: Clock = { ...deps.clock, now: () => deps.clock.now() + correctionMs };

  const save = (next: Enrolled): Promise<void> => {
    const stored: StoredEnrolment = {
      version: 1,
      gateway: gateway.origin,
      runnerId,
      ...(next.membership.organization === undefined ? {} : { organization: next.membership.organization }),
      membership: next.token,
      issuer: next.issuer,
      trust: next.trust,
      gateways: next.gateways.map((entry) => ({ ...entry, quic: [...entry.quic] })),
      ...(joinedWith === undefined ? {} : { joinedWith }),
    };
    return store.save(stored);
  };

  const adopt = (response: Omit<EnrolmentResponse, 'organization'>): Enrolled => {
    const membership = readMembership(response.membership);
    if (response.runnerId !== runnerId || membership.id !== runnerId) throw new RefusedError('runner_mismatch');
    if (!Buffer.from(membership.publicKey).equals(deps.key.publicKey)) throw new RefusedError('key_mismatch');
    const lifetimeMs = membership.expiresAt - membership.issuedAt;
    renewAt = membership.issuedAt + lifetimeMs * (0.5 + (deps.random() - 0.5) * RENEWAL_JITTER);
    enrolled = {
      token: response.membership,
      membership,
      issuer: response.issuer,
      trust: response.trust,
      gateways: response.gateways,
    };
    return enrolled;
  };

  const stamp = (): { runnerId: string; time: number; nonce: string } => ({
    runnerId,
    time: Math.round(clock.now()),
    nonce: randomBytes(32).toString('base64url'),
  });
  const signature = (payload: Uint8Array): string => Buffer.from(sign(deps.key, payload)).toString('base64url');

  const join = async (token: string, signal: AbortSignal): Promise<EnrolmentResponse> => {
    const publicKey = Buffer.from(deps.key.publicKey).toString('base64url');
    const request = { ...stamp(), exchangeToken: token, publicKey };
    const body = { ...request, signature: signature(joinPayload(gateway.host, request)) };
    const response = await api.post(JOIN_PATH, body, enrolmentResponseSchema, { signal });
    joinedWith = hashToken(token);
    return response;
  };

  const renew = (signal: AbortSignal): Promise<EnrolmentResponse> => {
    const request = stamp();
    const body = { ...request, signature: signature(renewPayload(gateway.host, request)) };
    return api.post(RENEW_PATH, body, enrolmentResponseSchema, { signal });
  };

  /** Signs again with the gateway's time when the gateway says that the clocks differ. */
  const corrected = async <T>(attempt: () => Promise<T>): Promise<T> => {
    const startedAt = deps.clock.monotonic();
    try {
      return await attempt();
    } catch (error) {
      if (!isRefusedWith(error, ['clock_skew']) || error.serverTime === undefined) throw error;
      const tripMs = (deps.clock.monotonic() - startedAt) / 2;
      const differenceMs = Math.round(error.serverTime + tripMs - deps.clock.now());
      if (Math.abs(differenceMs - correctionMs) < MIN_CORRECTION_MS) throw error;
      correctionMs = differenceMs;
      log.warn({ differenceMs }, 'the clock of this machine is wrong; credentials go by the clock of the gateway');
      return attempt();
    }
  };

  const unusedToken = (): string | undefined =>
    exchangeToken !== undefined && hashToken(exchangeToken) !== joinedWith ? exchangeToken : undefined;

  const obtain = async (signal: AbortSignal): Promise<EnrolmentResponse> => {
    const token = unusedToken();
    if (token !== undefined && !enrolled) {
      try {
        return await corrected(() => join(token, signal));
      } catch (joinError) {
        if (!isRefusedWith(joinError, JOIN_REFUSALS)) throw joinError;
        return corrected(() => renew(signal)).catch((error: unknown) => {
          throw isRefusedWith(error, RENEW_REFUSALS) ? joinError : error;
        });
      }
    }
    try {
      return await corrected(() => renew(signal));
    } catch (error) {
      if (token === undefined || !isRefusedWith(error, RENEW_REFUSALS)) throw error;
      return corrected(() => join(token, signal));
    }
  };

  /** ms until the next attempt after `error`. */
  const pauseAfter = (error: unknown): number => {
    if (error instanceof RefusedError && !REFUSALS[error.code].retry) return error.retryAfterMs ?? PERSON_RETRY_MS;
    return backoff.next(error instanceof RefusedError ? error.retryAfterMs : 0);
  };

  const attempt = async (signal: AbortSignal): Promise<void> => {
    try {
      const next = adopt(await obtain(signal));
      backoff.succeeded();
      // Without the file a restart has to join or renew again, which works; so a full disk stops nobody.
      await save(next).catch((error: unknown) => deps.onError(error as Error, 0));
      deps.onChange(next);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const pauseMs = pauseAfter(error);
      deps.onError(error as Error, pauseMs);
      await waker.wait(pauseMs, signal);
    }
  };

  return {
    clock,
    async run({ signal }) {
      const stored = await store.load();
      if (stored) {
        joinedWith = stored.joinedWith;
        try {
          const known = adopt(stored);
          if (isShowable(known.membership, clock)) deps.onChange(known);
        } catch (error) {
          log.warn({ err: error }, 'the stored membership is of no use');
          enrolled = undefined;
        }
      }
      for (;;) {
        signal.throwIfAborted();
        const remainingMs = enrolled ? renewAt - clock.now() : 0;
        if (remainingMs > 0) await waker.wait(Math.min(remainingMs, CLOCK_CHECK_MS), signal);
        else await attempt(signal);
      }
    },
    current: () => (enrolled && isShowable(enrolled.membership, clock) ? enrolled : undefined),
    renewSoon() {
      if (deps.clock.monotonic() - forcedAt < FORCED_RENEWAL_INTERVAL_MS) return;
      forcedAt = deps.clock.monotonic();
      renewAt = 0;
      waker.wake();
    },
    learn(news) {
      const next = enrolled && withNews(enrolled, news);
      if (!next) return;
      enrolled = next;
      save(next).catch((error: unknown) => deps.onError(error as Error, 0));
      deps.onChange(next);
    },
    async refreshGateways({ signal }) {
      const { gateways } = await api.get(GATEWAYS_PATH, gatewaysResponseSchema, { signal });
      this.learn({ gateways });
    },
  };
};
