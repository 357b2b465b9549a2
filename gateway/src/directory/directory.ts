/**
 * The directory: which runners there are, which environment belongs to whom, and who signs memberships. Presence
 * (who has a leg right now) is not in it. Every method but `watch` rejects with RefusedError `unavailable` when the
 * store cannot be reached; routes that are known go on without it.
 */
import type { JsonWebKeySet } from '../../../shared/src/identity/enrolment.ts';
import type { Authority } from '../../../shared/src/identity/membership.ts';
import type { Environment, EnvironmentRefusal } from '../../../shared/src/protocol/messages.ts';
import type { KeyRing, KeyUse } from './key-ring.ts';

/** Times are ms since the epoch. */
export interface Runner {
  readonly id: string;
  readonly name: string;
  readonly organization: string | undefined;
  readonly createdAt: number;
  /** The pinned Ed25519 key; undefined until the first join. */
  readonly publicKey: Uint8Array | undefined;
  /** When the pinned key was pinned. */
  readonly joinedAt: number | undefined;
  readonly revokedAt: number | undefined;
  /** The other authority that vouches for it and its keys; undefined for a runner that was made here. */
  readonly issuer: string | undefined;
}

/** A name, and the runner that holds it. */
export interface EnvironmentBinding {
  readonly id: string;
  readonly runnerId: string;
  readonly organization: string | undefined;
  /** Grows with every claim that changes the holder or takes the name up again: the older holder has the smaller one. */
  readonly epoch: number;
  readonly claimedAt: number;
  /** Since when nobody announces it; the name stays bound for {@link RELEASED_NAME_RETENTION_MS}. */
  readonly releasedAt: number | undefined;
  /** What its runner announced last. */
  readonly lastKnown: Environment | undefined;
}

export type DirectoryChange =
  | { readonly kind: 'runner'; readonly runnerId: string }
  | { readonly kind: 'environment'; readonly environmentId: string }
  | { readonly kind: 'keys'; readonly use: KeyUse }
  | { readonly kind: 'revocations' }
  | { readonly kind: 'blocks' }
  /** Changes were missed: everything may be different. */
  | { readonly kind: 'all' };

export interface ExchangeToken {
  /** Told once; the directory keeps its SHA-256 only. */
  readonly exchangeToken: string;
  readonly expiresAt: number;
}

/** Exchange tokens live for 24 h: long enough to carry one to a machine, short enough to be forgotten. */
export const EXCHANGE_TOKEN_LIFETIME_MS = 24 * 60 * 60 * 1_000;
/** A released name is given to nobody else for 30 days: links to it may still be about. */
export const RELEASED_NAME_RETENTION_MS = 30 * 24 * 60 * 60 * 1_000;
/** Names one runner may hold live. Beyond: `environment_limit` for each further one. */
export const MAX_LIVE_ENVIRONMENTS = 1_000;
/** Released names kept for one runner. Beyond: new claims are refused with `environment_limit` until some expire. */
export const MAX_RELEASED_ENVIRONMENTS = 5_000;

/** What was signed for a visitor before its end and counts no more: one session, or all of a user up to a time. */
export interface Revocation {
  readonly kind: 'session' | 'user';
  /** Id of the session or the user. */
  readonly subject: string;
  readonly revokedAt: number;
  /** From then on nothing is about that it could refuse. */
  readonly expiresAt: number;
}

/** Of what an operator lets nothing be served: one environment, or all of an organization. */
export interface Block {
  readonly kind: 'environment' | 'organization';
  /** Id of the environment, name of the organization; whether there is one or not. */
  readonly subject: string;
  readonly blockedAt: number;
}

export interface Directory {
  createRunner(input: {
    readonly name: string;
    readonly organization?: string;
  }): Promise<{ runner: Runner } & ExchangeToken>;
  runner(id: string): Promise<Runner | undefined>;
  runners(): Promise<Runner[]>;
  /**
   * A further token for a known runner. Whoever joins with it pins a new key, and ends a revocation. `runner_unknown`;
   * `runner_mismatch` for a runner of another authority.
   */
  createExchangeToken(runnerId: string): Promise<ExchangeToken>;
  /** Refuses the runner from now on and voids its unused tokens. `runner_unknown`. */
  revokeRunner(id: string): Promise<void>;
  /**
   * Pins the key that comes with a token; of several at once with different keys exactly one wins. The same token
   * and key again give the same answer. Rejects with RefusedError: `runner_unknown`, `token_invalid`,
   * `token_expired`, `token_used`, `runner_mismatch`, and `revoked` where the token was used before the revocation.
   */
  enrol(input: {
    readonly runnerId: string;
    readonly exchangeToken: string;
    readonly publicKey: Uint8Array;
  }): Promise<Runner>;
  /**
   * A runner whose membership another authority has signed: made when it is first seen, with the key it came with.
   * Rejects with RefusedError: `runner_mismatch` when the id is taken by a runner of another issuer or organization,
   * `revoked`.
   */
  learnRunner(input: {
    readonly id: string;
    readonly organization: string;
    readonly issuer: string;
    readonly publicKey: Uint8Array;
  }): Promise<Runner>;
  environment(id: string): Promise<EnvironmentBinding | undefined>;
  /** `creator`: as last announced. */
  environments(filter?: { readonly runnerId?: string; readonly creator?: string }): Promise<EnvironmentBinding[]>;
  /** Claims all of `environments` for the runner in one transaction, and stores them as last known. */
  claim(runnerId: string, environments: readonly Environment[]): Promise<Map<string, 'accepted' | EnvironmentRefusal>>;
  /** The runner no longer announces these. Names that are not the runner's are passed over. */
  release(runnerId: string, ids: readonly string[]): Promise<void>;
  /** By an operator: gives the name up at once, for anybody. False if there is no such name. */
  releaseEnvironment(id: string): Promise<boolean>;
  /** By an operator. Rejects with DirectoryConflictError when either is unknown or the organizations differ. */
  moveEnvironment(id: string, toRunnerId: string): Promise<void>;
  /** Who signs memberships now, and which keys to trust: the ring `authority`, read. */
  authority(): Promise<{ current: Authority; trust: JsonWebKeySet; issuer: string }>;
  /** Made at first use. */
  keyRing(use: KeyUse): Promise<KeyRing>;
  /**
   * A new key, as {@link KEY_POLICIES} says; with `void` it signs at once and no other is accepted. With `replaces`
   * nothing happens unless that is the newest key: of several gateways that find it too old, one makes a new one.
   */
  rotateKeys(use: KeyUse, options?: { readonly void?: boolean; readonly replaces?: string }): Promise<KeyRing>;
  /** Puts the revocation on the list; a later one of the same subject takes the place of an earlier one. */
  revoke(revocation: Revocation): Promise<void>;
  /** Those that have not expired. */
  revocations(): Promise<Revocation[]>;
  /** By an operator. Blocking what is blocked changes nothing. */
  block(of: Pick<Block, 'kind' | 'subject'>): Promise<void>;
  /** False if it was not blocked. */
  unblock(of: Pick<Block, 'kind' | 'subject'>): Promise<boolean>;
  blocks(): Promise<Block[]>;
  /** Tells of changes, also those another process made, within {@link CHANGE_POLL_MS}. Returns what ends it. */
  watch(listener: (change: DirectoryChange) => void): () => void;
  close(): Promise<void>;
}

/** How often changes of other processes are looked for, ms: one pragma, microseconds. Revocations bite within 10 s. */
export const CHANGE_POLL_MS = 1_000;

/** An operator asked for something that the directory's content does not allow. */
export class DirectoryConflictError extends Error {
  override readonly name = 'DirectoryConflictError';
  readonly code: 'environment_unknown' | 'runner_unknown' | 'organization_mismatch' | 'environment_limit';
  constructor(code: DirectoryConflictError['code'], message: string) {
    super(message);
    this.code = code;
  }
}
