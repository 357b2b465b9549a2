/** The checks of a diagnosis that look at this machine: membership, clock, buffers. */
import { access, readFile } from 'node:fs/promises';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, REFUSALS, RefusedError } from '../../../shared/src/errors.ts';
import { loadOrCreateKey, parseKey, type IdentityKey } from '../../../shared/src/identity/keys.ts';
import { CLOCK_TOLERANCE_MS, readMembership } from '../../../shared/src/identity/membership.ts';
import { QUIC_LIMITS } from '../../../shared/src/transport/quic-limits.ts';
import type { ApiClient } from '../api-client.ts';
import { createEnrolment, type Enrolment } from '../enrolment.ts';
import { createEnrolmentStore, type EnrolmentStore, keyPath } from '../enrolment-store.ts';
import { createGivenEnrolment } from '../given-membership.ts';
import type { GatewayUrl } from '../gateway-url.ts';
import { silentLogger } from '../logger.ts';
import type { DiagnoseOptions } from './context.ts';
import { failed, type Finding, ok, skipped, warning } from './report.ts';

/** A clock that is off by more is worth a word, ms; the client itself corrects for it. */
const CLOCK_WARNING_MS = CLOCK_TOLERANCE_MS;
/** `Date` tells whole seconds: half of one is what it is off by on average, ms. */
const DATE_PRECISION_MS = 500;
const HOUR_MS = 3_600_000;
const BUFFER_SETTING = '/proc/sys/net/core/rmem_max';

export interface Member {
  readonly key: IdentityKey;
  readonly enrolment: Enrolment;
}

export interface MembershipCheck {
  readonly finding: Finding;
  /** Undefined where no leg can be had. */
  readonly member: Member | undefined;
}

const inHours = (ms: number): string =>
  ms >= HOUR_MS ? `${Math.floor(ms / HOUR_MS)} h` : `${Math.ceil(ms / 60_000)} min`;

/** `the one that is kept has expired 3 h ago`; undefined where there is none, or it is valid. */
const expiryOf = async (store: EnrolmentStore, now: number): Promise<string | undefined> => {
  const stored = await store.load();
  if (!stored) return undefined;
  const agoMs = now - readMembership(stored.membership).expiresAt;
  return agoMs > 0 ? `the one that is kept expired ${inHours(agoMs)} ago` : undefined;
};

/**
 * What the state directory holds. An expired membership is renewed, for this diagnosis alone: nothing is written, and
 * an exchange token is never used up.
 */
export const checkMembership = async (
  deps: { clock: Clock; api: ApiClient },
  options: Pick<DiagnoseOptions, 'runnerId' | 'stateDir' | 'hasToken' | 'key' | 'membership'> & {
    url: GatewayUrl;
    signal: AbortSignal;
  },
): Promise<MembershipCheck> => {
  const { clock, api } = deps;
  const { url, runnerId, stateDir, signal } = options;
  const key = await readKey(options);
  if (!key) return { finding: withoutKey(options), member: undefined };
  const store = createEnrolmentStore({ stateDir, gateway: url.origin, runnerId });
  const expiry = options.membership ? undefined : await expiryOf(store, clock.now());
  const done = new AbortController();
  let refusal: Error | undefined;
  const enrolmentDeps = {
    ...{ clock, random: Math.random, log: silentLogger, api, key },
    onChange: () => done.abort(),
    onError: (error: Error) => {
      refusal = error;
      done.abort();
    },
  };
  const enrolment = options.membership
    ? createGivenEnrolment(enrolmentDeps, { runnerId, membership: options.membership })
    : createEnrolment(
        { ...enrolmentDeps, store: { load: () => store.load(), save: () => Promise.resolve() } },
        { runnerId, gateway: url, exchangeToken: undefined },
      );
  await enrolment.run({ signal: AbortSignal.any([signal, done.signal]) }).catch((error: unknown) => {
    if (!done.signal.aborted) throw error;
  });
  const current = enrolment.current();
  if (current) {
    const { organization, expiresAt } = current.membership;
    const result = [
      `valid for ${inHours(expiresAt - enrolment.clock.now())}`,
      ...(organization === undefined ? [] : [`organization ${organization}`]),
      ...(expiry === undefined ? [] : [`renewed for this test: ${expiry}`]),
    ].join(', ');
    return { finding: ok(result, { expiresAt, organization }), member: { key, enrolment } };
  }
  const advice =
    refusal instanceof RefusedError
      ? REFUSALS[refusal.code].hint
      : 'The membership could not be renewed: see the check of the API.';
  const reason = describeError(refusal ?? 'none');
  const result = expiry === undefined ? reason : `${expiry}, and was not renewed: ${reason}`;
  return { finding: failed(result, `${advice.replace(/\.$/, '')}.`), member: undefined };
};

/** Makes none. */
const readKey = async ({
  key,
  stateDir,
}: Pick<DiagnoseOptions, 'key' | 'stateDir'>): Promise<IdentityKey | undefined> => {
  if (key !== undefined) return parseKey(key);
  const path = keyPath(stateDir);
  try {
    await access(path);
  } catch {
    return undefined;
  }
  return loadOrCreateKey(path);
};

const withoutKey = ({ stateDir, hasToken }: { stateDir: string; hasToken: boolean }): Finding =>
  hasToken
    ? warning(
        `none yet in ${stateDir}; an exchange token is there`,
        'Start the client once, `tunnel-client run`: it joins, and legs can be tested.',
      )
    : failed(
        `none in ${stateDir}, and no exchange token`,
        'Give the state directory of the client with --state-dir, or make a token: gateway runner token ID.',
      );

/** `date` is the gateway's, in whole seconds. */
export const describeClock = (date: string, sentAt: number, receivedAt: number): Finding => {
  const differenceMs = (sentAt + receivedAt) / 2 - (Date.parse(date) + DATE_PRECISION_MS);
  const seconds = Math.round(Math.abs(differenceMs) / 1_000);
  const data = { differenceMs: Math.round(differenceMs) };
  if (seconds <= 1) return ok('as the gateway has it', data);
  const result = `${seconds} s ${differenceMs > 0 ? 'ahead of' : 'behind'} the gateway's`;
  return Math.abs(differenceMs) > CLOCK_WARNING_MS
    ? warning(result, 'Synchronise the clock of this machine (NTP).', data)
    : ok(result, data);
};

/** What the system allows as a receive buffer of a UDP socket. */
export const checkReceiveBuffer = async (): Promise<Finding> => {
  const wanted = QUIC_LIMITS.socketBufferBytes;
  let allowed: number;
  try {
    allowed = Number(await readFile(BUFFER_SETTING, 'utf8'));
  } catch {
    return skipped('cannot be told on this system');
  }
  const kib = (bytes: number): string => `${Math.round(bytes / 1_024)} KiB`;
  const data = { allowedBytes: allowed, wantedBytes: wanted };
  if (allowed >= wanted) return ok(`${kib(wanted)}, as wanted`, data);
  return warning(
    `${kib(allowed)} at most, ${kib(wanted)} are wanted`,
    `Fast uploads may lose packets: sysctl -w net.core.rmem_max=${wanted} net.core.wmem_max=${wanted}.`,
    data,
  );
};
