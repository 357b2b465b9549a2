/**
 * The SQLite file of the embedded directory: opening it, its schema, transactions, and the log of changes by which
 * every process that has the file open hears what another one did.
 */
import { chmod, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, RefusedError } from '../../../shared/src/errors.ts';
import { CHANGE_POLL_MS } from './directory.ts';
import type { DirectoryChange } from './directory.ts';
import { KEY_USES } from './key-ring.ts';
import type { KeyUse } from './key-ring.ts';

/** The part of a logger that the directory uses. */
export interface DirectoryLog {
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface Store {
  readonly database: DatabaseSync;
  readonly clock: Clock;
  /** Runs `work` on a consistent state. Throws RefusedError `unavailable` when the file fails. */
  read<T>(work: () => T): T;
  /** Runs `work` in one transaction: all of it happens, or nothing. Its changes are told to the watchers afterwards. */
  write<T>(work: (record: (change: DirectoryChange) => void) => T): T;
  watch(listener: (change: DirectoryChange) => void): () => void;
  close(): void;
}

/** How long a transaction of another process is waited for, ms. It blocks this process; the command line takes some ms. Beyond: `unavailable`. */
const BUSY_TIMEOUT_MS = 2_000;
/** Changes that are remembered for other processes; who has missed more is told that everything changed. */
const MAX_CHANGES = 10_000;
/** The log of changes is cut after so many of them, not at each one. */
const PRUNE_INTERVAL = 500;

/** Each entry brings a file from the version of its index to the next one (`user_version`). Never edited, only added to. */
const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE authority_keys (key_id TEXT PRIMARY KEY, jwk TEXT NOT NULL, created_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE runners (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, organization TEXT, created_at INTEGER NOT NULL,
    public_key BLOB, joined_at INTEGER, revoked_at INTEGER
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE exchange_tokens (
    hash BLOB PRIMARY KEY, runner_id TEXT NOT NULL REFERENCES runners (id), created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, used_key BLOB, revoked INTEGER NOT NULL DEFAULT 0
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX exchange_tokens_of_runner ON exchange_tokens (runner_id);
  CREATE TABLE environments (
    id TEXT PRIMARY KEY, runner_id TEXT NOT NULL REFERENCES runners (id), epoch INTEGER NOT NULL,
    claimed_at INTEGER NOT NULL, released_at INTEGER, last_known TEXT
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX environments_of_runner ON environments (runner_id, released_at);
  CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL
  ) STRICT;
  `,
  `
  CREATE TABLE token_keys (
    key_id TEXT PRIMARY KEY, jwk TEXT NOT NULL, created_at INTEGER NOT NULL, replaced_at INTEGER
  ) STRICT, WITHOUT ROWID;
  `,
  // Keys of both kinds become rings; those of tokens were accepted for 2 h after they were replaced.
  `
  CREATE TABLE keys (
    use TEXT NOT NULL, key_id TEXT NOT NULL, secret TEXT NOT NULL, created_at INTEGER NOT NULL,
    signs_from INTEGER NOT NULL, accepted_until INTEGER, PRIMARY KEY (use, key_id)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO keys SELECT 'authority', key_id, json_extract(jwk, '$.d'), created_at, created_at, NULL FROM authority_keys;
  INSERT INTO keys
    SELECT 'token', key_id, json_extract(jwk, '$.d'), created_at, created_at, replaced_at + 7200000 FROM token_keys;
  DROP TABLE authority_keys;
  DROP TABLE token_keys;
  CREATE TABLE revocations (
    kind TEXT NOT NULL, subject TEXT NOT NULL, revoked_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
  ) STRICT, WITHOUT ROWID;
  `,
  `
  CREATE TABLE blocks (
    kind TEXT NOT NULL, subject TEXT NOT NULL, blocked_at INTEGER NOT NULL, PRIMARY KEY (kind, subject)
  ) STRICT, WITHOUT ROWID;
  `,
  'ALTER TABLE runners ADD COLUMN issuer TEXT',
];

const errorCode = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

/** Failures of the file become a refusal that is tried again; faults of the program stay what they are. */
const guard = <T>(work: () => T): T => {
  try {
    return work();
  } catch (error) {
    if (errorCode(error) !== 'ERR_SQLITE_ERROR' && errorCode(error) !== 'ERR_INVALID_STATE') throw error;
    throw new RefusedError('unavailable', { cause: error });
  }
};

/** SQLite gives its side files the permissions of the main file, so that one has to exist, closed to others, first. */
const createFile = async (path: string): Promise<void> => {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await (await open(path, 'a', 0o600)).close();
  await chmod(path, 0o600);
};

const transaction = <T>(database: DatabaseSync, work: () => T): T => {
  // IMMEDIATE takes the write lock at once: a transaction never finds out half-way that it has to start again.
  database.exec('BEGIN IMMEDIATE');
  try {
    const result = work();
    database.exec('COMMIT');
    return result;
  } catch (error) {
    // A failed COMMIT may have rolled back by itself.
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
};

const number = (row: Record<string, unknown> | undefined, column: string): number => Number(row?.[column] ?? 0);

const migrate = (database: DatabaseSync): void => {
  const version = (): number => number(database.prepare('PRAGMA user_version').get(), 'user_version');
  if (version() > MIGRATIONS.length) {
    throw new Error('it was written by a newer version of the gateway. Update this one');
  }
  if (version() === MIGRATIONS.length) return;
  transaction(database, () => {
    // Asked again under the lock: another process may have been first.
    for (const statements of MIGRATIONS.slice(version())) database.exec(statements);
    database.exec(`PRAGMA user_version = ${MIGRATIONS.length}`);
  });
};

const openDatabase = async (path: string): Promise<DatabaseSync> => {
  let database: DatabaseSync | undefined;
  try {
    await createFile(path);
    database = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS, enableForeignKeyConstraints: true });
    database.exec('PRAGMA journal_mode = WAL');
    // A token that was used stays used after a power cut; writes are rare.
    database.exec('PRAGMA synchronous = FULL');
    migrate(database);
    return database;
  } catch (error) {
    database?.close();
    throw new Error(`The directory file ${path} cannot be opened`, { cause: error });
  }
};

const subjectOf = (change: DirectoryChange): string => {
  if (change.kind === 'runner') return change.runnerId;
  if (change.kind === 'environment') return change.environmentId;
  return change.kind === 'keys' ? change.use : '';
};
const isKeyUse = (text: string): text is KeyUse => (KEY_USES as readonly string[]).includes(text);

const createChangeLog = (database: DatabaseSync, log: DirectoryLog | undefined) => {
  const insert = database.prepare('INSERT INTO changes (kind, subject) VALUES (?, ?)');
  const since = database.prepare('SELECT sequence, kind, subject FROM changes WHERE sequence > ? ORDER BY sequence');
  const range = database.prepare(
    `SELECT coalesce((SELECT min(sequence) FROM changes), 0) AS first,
            coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0) AS last`,
  );
  const prune = database.prepare('DELETE FROM changes WHERE sequence <= ?');
  const listeners = new Set<(change: DirectoryChange) => void>();
  let seen = number(range.get(), 'last');

  const tell = (change: DirectoryChange): void => {
    for (const listener of [...listeners]) {
      try {
        listener(change);
      } catch (error) {
        log?.error({ err: error, change: change.kind }, 'a watcher of the directory failed');
      }
    }
  };
  return {
    listeners,
    record(change: DirectoryChange): void {
      const subject = subjectOf(change);
      const { lastInsertRowid } = insert.run(change.kind, subject);
      const sequence = Number(lastInsertRowid);
      if (sequence % PRUNE_INTERVAL === 0) prune.run(sequence - MAX_CHANGES);
    },
    /** Tells the watchers what happened since the last time. */
    pump(): void {
      const { first, last } = range.get() as { first: number; last: number };
      if (last === seen) return;
      const missed = first > seen + 1;
      const rows = missed ? [] : (since.all(seen) as { sequence: number; kind: string; subject: string }[]);
      seen = rows.at(-1)?.sequence ?? last;
      if (missed) return tell({ kind: 'all' });
      for (const { kind, subject } of rows) {
        if (kind === 'runner') tell({ kind, runnerId: subject });
        else if (kind === 'environment') tell({ kind, environmentId: subject });
        else if (kind === 'keys' && isKeyUse(subject)) tell({ kind, use: subject });
        else if (kind === 'revocations' || kind === 'blocks') tell({ kind });
        else tell({ kind: 'all' });
      }
    },
  };
};

export const openStore = async (
  deps: { readonly clock: Clock; readonly log?: DirectoryLog | undefined },
  options: { readonly path: string },
): Promise<Store> => {
  const { clock, log } = deps;
  const database = await openDatabase(options.path);
  const changes = createChangeLog(database, log);
  const dataVersion = database.prepare('PRAGMA data_version');
  /** Moves when another connection has written. */
  let version = number(dataVersion.get(), 'data_version');
  let cancelPoll: (() => void) | undefined;
  let closed = false;

  const pump = (): void => {
    try {
      changes.pump();
    } catch (error) {
      log?.warn({ err: error }, `changes of the directory cannot be read: ${describeError(error)}`);
    }
  };
  const poll = (): void => {
    try {
      const current = number(dataVersion.get(), 'data_version');
      if (current !== version) {
        version = current;
        pump();
      }
    } catch (error) {
      log?.warn({ err: error }, `the directory cannot be read: ${describeError(error)}`);
    }
    if (!closed) cancelPoll = clock.timer(CHANGE_POLL_MS, poll);
  };
  cancelPoll = clock.timer(CHANGE_POLL_MS, poll);

  return {
    database,
    clock,
    read: guard,
    write(work) {
      const result = guard(() => transaction(database, () => work(changes.record)));
      pump();
      return result;
    },
    watch(listener) {
      // A wrapper of its own, so that one function may watch twice and stop once.
      const own = (change: DirectoryChange): void => listener(change);
      changes.listeners.add(own);
      return () => changes.listeners.delete(own);
    },
    close() {
      if (closed) return;
      closed = true;
      cancelPoll?.();
      changes.listeners.clear();
      database.close();
    },
  };
};
