/** Runners and exchange tokens in the embedded directory. */
import { createHash, randomBytes, randomUUIDv7 } from 'node:crypto';
import { RefusedError } from '../../../shared/src/errors.ts';
import { isOrganization } from '../../../shared/src/identity/membership.ts';
import { EXCHANGE_TOKEN_LIFETIME_MS } from './directory.ts';
import type { Directory, ExchangeToken, Runner } from './directory.ts';
import type { Store } from './embedded-store.ts';

/** 256 random bits: not to be guessed, however often. */
const EXCHANGE_TOKEN_BYTES = 32;
/** Says in logs and scans of repositories what it is. */
const EXCHANGE_TOKEN_PREFIX = 'gpx_';
/** Characters of a runner's name, which is for people only. */
const MAX_NAME_LENGTH = 100;
/** Unused tokens are kept this long beyond their end, so that who comes late hears `token_expired`. */
const EXPIRED_TOKEN_RETENTION_MS = 30 * 24 * 60 * 60 * 1_000;

interface RunnerRow {
  readonly id: string;
  readonly name: string;
  readonly organization: string | null;
  readonly created_at: number;
  readonly public_key: Uint8Array | null;
  readonly joined_at: number | null;
  readonly revoked_at: number | null;
  readonly issuer: string | null;
}

interface TokenRow {
  readonly runner_id: string;
  readonly expires_at: number;
  readonly used_key: Uint8Array | null;
  readonly revoked: number;
}

const toRunner = (row: RunnerRow): Runner => ({
  id: row.id,
  name: row.name,
  organization: row.organization ?? undefined,
  createdAt: row.created_at,
  publicKey: row.public_key ?? undefined,
  joinedAt: row.joined_at ?? undefined,
  revokedAt: row.revoked_at ?? undefined,
  issuer: row.issuer ?? undefined,
});

const isSame = (a: Uint8Array | null, b: Uint8Array): boolean => a !== null && Buffer.compare(a, b) === 0;

/** The token itself is high in entropy, so one round of SHA-256 is enough, and a look-up by it tells no timing. */
const hashToken = (token: string): Uint8Array => createHash('sha256').update(token).digest();

const checkNames = (name: string, organization: string | undefined): void => {
  if (name.length === 0 || name.length > MAX_NAME_LENGTH || /\p{Cc}/u.test(name)) {
    throw new TypeError(`a name is 1 to ${MAX_NAME_LENGTH} characters without control characters`);
  }
  if (organization !== undefined && !isOrganization(organization)) {
    throw new TypeError(
      'an organization is 1 to 64 letters, digits, ".", "_" and "-", and starts and ends with a letter or digit',
    );
  }
};

type Runners = Pick<
  Directory,
  'createRunner' | 'runner' | 'runners' | 'createExchangeToken' | 'revokeRunner' | 'enrol' | 'learnRunner'
> & { readonly sweep: () => void };

const prepare = ({ database }: Store) => ({
  insertRunner: database.prepare('INSERT INTO runners (id, name, organization, created_at) VALUES (?, ?, ?, ?)'),
  runner: database.prepare('SELECT * FROM runners WHERE id = ?'),
  runners: database.prepare('SELECT * FROM runners ORDER BY created_at, id'),
  pinKey: database.prepare('UPDATE runners SET public_key = ?, joined_at = ?, revoked_at = NULL WHERE id = ?'),
  learn: database.prepare(
    `INSERT INTO runners (id, name, organization, created_at, public_key, joined_at, issuer)
     VALUES (:id, :id, :organization, :now, :publicKey, :now, :issuer)
     ON CONFLICT (id) DO UPDATE SET public_key = :publicKey, joined_at = :now`,
  ),
  revoke: database.prepare('UPDATE runners SET revoked_at = ? WHERE id = ?'),
  insertToken: database.prepare(
    'INSERT INTO exchange_tokens (hash, runner_id, created_at, expires_at) VALUES (?, ?, ?, ?)',
  ),
  token: database.prepare('SELECT runner_id, expires_at, used_key, revoked FROM exchange_tokens WHERE hash = ?'),
  useToken: database.prepare('UPDATE exchange_tokens SET used_key = ? WHERE hash = ?'),
  voidTokens: database.prepare('DELETE FROM exchange_tokens WHERE runner_id = ? AND used_key IS NULL'),
  revokeTokens: database.prepare('UPDATE exchange_tokens SET revoked = 1 WHERE runner_id = ?'),
  sweepTokens: database.prepare('DELETE FROM exchange_tokens WHERE used_key IS NULL AND expires_at < ?'),
});

export const createEmbeddedRunners = (store: Store): Runners => {
  const statements = prepare(store);
  const { clock } = store;

  const rowOf = (id: string): RunnerRow | undefined => statements.runner.get(id) as RunnerRow | undefined;
  const rowOrRefuse = (id: string): RunnerRow => {
    const row = rowOf(id);
    if (!row) throw new RefusedError('runner_unknown');
    return row;
  };
  const issue = (runnerId: string): ExchangeToken => {
    const exchangeToken = EXCHANGE_TOKEN_PREFIX + randomBytes(EXCHANGE_TOKEN_BYTES).toString('base64url');
    const now = clock.now();
    const expiresAt = now + EXCHANGE_TOKEN_LIFETIME_MS;
    statements.insertToken.run(hashToken(exchangeToken), runnerId, now, expiresAt);
    return { exchangeToken, expiresAt };
  };

  /** Throws unless the token, which was used before, gives the same answer again. */
  const checkRepeat = (runner: RunnerRow, token: TokenRow, publicKey: Uint8Array): void => {
    if (!isSame(token.used_key, publicKey)) throw new RefusedError('token_used');
    if (runner.revoked_at !== null) throw new RefusedError('revoked');
    // A later token pinned another key: the old one does not come back.
    if (!isSame(runner.public_key, publicKey)) throw new RefusedError('key_mismatch');
  };

  const checkFirstUse = (runner: RunnerRow, token: TokenRow): void => {
    if (token.revoked) throw new RefusedError(runner.revoked_at === null ? 'token_invalid' : 'revoked');
    if (token.expires_at <= clock.now()) throw new RefusedError('token_expired');
  };

  return {
    createRunner: async ({ name, organization }) => {
      checkNames(name, organization);
      const id = randomUUIDv7();
      return store.write((record) => {
        statements.insertRunner.run(id, name, organization ?? null, clock.now());
        const token = issue(id);
        record({ kind: 'runner', runnerId: id });
        return { runner: toRunner(rowOrRefuse(id)), ...token };
      });
    },
    runner: async (id) =>
      store.read(() => {
        const row = rowOf(id);
        return row && toRunner(row);
      }),
    runners: async () => store.read(() => (statements.runners.all() as unknown as RunnerRow[]).map(toRunner)),
    createExchangeToken: async (runnerId) =>
      store.write(() => {
        if (rowOrRefuse(runnerId).issuer !== null) throw new RefusedError('runner_mismatch');
        // One open token a runner: what was lost or left lying about is worth nothing any more.
        statements.voidTokens.run(runnerId);
        return issue(runnerId);
      }),
    revokeRunner: async (id) =>
      store.write((record) => {
        if (rowOrRefuse(id).revoked_at !== null) return;
        statements.revoke.run(clock.now(), id);
        statements.revokeTokens.run(id);
        record({ kind: 'runner', runnerId: id });
      }),
    enrol: async ({ runnerId, exchangeToken, publicKey }) =>
      store.write((record) => {
        const runner = rowOrRefuse(runnerId);
        const hash = hashToken(exchangeToken);
        const token = statements.token.get(hash) as TokenRow | undefined;
        if (!token) throw new RefusedError('token_invalid');
        if (token.runner_id !== runnerId) throw new RefusedError('runner_mismatch');
        if (token.used_key !== null) {
          checkRepeat(runner, token, publicKey);
          return toRunner(runner);
        }
        checkFirstUse(runner, token);
        statements.useToken.run(publicKey, hash);
        statements.pinKey.run(publicKey, clock.now(), runnerId);
        record({ kind: 'runner', runnerId });
        return toRunner(rowOrRefuse(runnerId));
      }),
    learnRunner: async ({ id, organization, issuer, publicKey }) => {
      const check = (row: RunnerRow): void => {
        if (row.issuer !== issuer || row.organization !== organization) throw new RefusedError('runner_mismatch');
        if (row.revoked_at !== null) throw new RefusedError('revoked');
      };
      const known = store.read(() => rowOf(id));
      if (known) check(known);
      if (known && isSame(known.public_key, publicKey)) return toRunner(known);
      return store.write((record) => {
        const row = rowOf(id);
        if (row) check(row);
        statements.learn.run({ id, organization, issuer, publicKey, now: clock.now() });
        record({ kind: 'runner', runnerId: id });
        return toRunner(rowOrRefuse(id));
      });
    },
    sweep: () => void statements.sweepTokens.run(clock.now() - EXPIRED_TOKEN_RETENTION_MS),
  };
};
