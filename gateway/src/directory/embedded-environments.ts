/** Environment names, and who holds them, in the embedded directory. */
import { RefusedError } from '../../../shared/src/errors.ts';
import type { Environment, EnvironmentRefusal } from '../../../shared/src/protocol/messages.ts';
import {
  DirectoryConflictError,
  MAX_LIVE_ENVIRONMENTS,
  MAX_RELEASED_ENVIRONMENTS,
  RELEASED_NAME_RETENTION_MS,
} from './directory.ts';
import type { Directory, DirectoryChange, EnvironmentBinding } from './directory.ts';
import type { Store } from './embedded-store.ts';

interface Row {
  readonly id: string;
  readonly runner_id: string;
  readonly organization: string | null;
  readonly epoch: number;
  readonly claimed_at: number;
  readonly released_at: number | null;
  readonly last_known: string | null;
}

type Environments = Pick<
  Directory,
  'environment' | 'environments' | 'claim' | 'release' | 'releaseEnvironment' | 'moveEnvironment'
> & { readonly sweep: () => void };

const toBinding = (row: Row): EnvironmentBinding => ({
  id: row.id,
  runnerId: row.runner_id,
  organization: row.organization ?? undefined,
  epoch: row.epoch,
  claimedAt: row.claimed_at,
  releasedAt: row.released_at ?? undefined,
  lastKnown: row.last_known === null ? undefined : (JSON.parse(row.last_known) as Environment),
});

const SELECT = `SELECT environments.*, runners.organization FROM environments JOIN runners ON runners.id = runner_id
  WHERE (released_at IS NULL OR released_at > :forgotten)`;

const prepare = ({ database }: Store) => ({
  one: database.prepare(`${SELECT} AND environments.id = :id`),
  some: database.prepare(
    `${SELECT} AND (:runnerId IS NULL OR runner_id = :runnerId)
     AND (:creator IS NULL OR json_extract(last_known, '$.creator') = :creator) ORDER BY environments.id`,
  ),
  runner: database.prepare('SELECT organization, revoked_at FROM runners WHERE id = ?'),
  counts: database.prepare(
    `SELECT count(*) FILTER (WHERE released_at IS NULL) AS live, count(released_at) AS released
     FROM environments WHERE runner_id = :runnerId AND (released_at IS NULL OR released_at > :forgotten)`,
  ),
  // Never falls, also when names are forgotten and come back.
  nextEpoch: database.prepare(
    `INSERT INTO settings (name, value) VALUES ('epoch', '1')
     ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)
     RETURNING CAST(value AS INTEGER) AS epoch`,
  ),
  put: database.prepare(
    `INSERT OR REPLACE INTO environments (id, runner_id, epoch, claimed_at, released_at, last_known)
     VALUES (?, ?, ?, ?, NULL, ?)`,
  ),
  setLastKnown: database.prepare('UPDATE environments SET last_known = ? WHERE id = ?'),
  release: database.prepare(
    'UPDATE environments SET released_at = ? WHERE id = ? AND runner_id = ? AND released_at IS NULL',
  ),
  remove: database.prepare('DELETE FROM environments WHERE id = ?'),
  move: database.prepare('UPDATE environments SET runner_id = ?, epoch = ?, claimed_at = ? WHERE id = ?'),
  forgotten: database.prepare('SELECT id FROM environments WHERE released_at <= ?'),
});

export const createEmbeddedEnvironments = (store: Store): Environments => {
  const statements = prepare(store);
  const { clock } = store;

  /** What was released at this time or before is forgotten, whether or not it has been swept. */
  const forgotten = (): number => clock.now() - RELEASED_NAME_RETENTION_MS;
  const rowOf = (id: string): Row | undefined => statements.one.get({ id, forgotten: forgotten() }) as Row | undefined;
  const countsOf = (runnerId: string): { live: number; released: number } => {
    const { live, released } = statements.counts.get({ runnerId, forgotten: forgotten() }) as Record<string, number>;
    return { live: live ?? 0, released: released ?? 0 };
  };
  const nextEpoch = (): number => (statements.nextEpoch.get() as { epoch: number }).epoch;

  const claimOne = (
    runnerId: string,
    environment: Environment,
    counts: { live: number; released: number },
    record: (change: DirectoryChange) => void,
  ): 'accepted' | EnvironmentRefusal => {
    const row = rowOf(environment.id);
    if (row && row.runner_id !== runnerId) return 'claimed';
    const lastKnown = JSON.stringify(environment);
    if (row && row.released_at === null) {
      if (row.last_known === lastKnown) return 'accepted';
      statements.setLastKnown.run(lastKnown, environment.id);
    } else {
      if (counts.live >= MAX_LIVE_ENVIRONMENTS) return 'environment_limit';
      if (!row && counts.released >= MAX_RELEASED_ENVIRONMENTS) return 'environment_limit';
      statements.put.run(environment.id, runnerId, nextEpoch(), clock.now(), lastKnown);
      counts.live += 1;
      if (row) counts.released -= 1;
    }
    record({ kind: 'environment', environmentId: environment.id });
    return 'accepted';
  };

  const checkMove = (row: Row | undefined, id: string, toRunnerId: string): Row => {
    if (!row) throw new DirectoryConflictError('environment_unknown', `There is no environment ${id}`);
    const runner = statements.runner.get(toRunnerId) as { organization: string | null } | undefined;
    if (!runner) throw new DirectoryConflictError('runner_unknown', `There is no runner ${toRunnerId}`);
    if (runner.organization !== row.organization) {
      const message = `${id} and runner ${toRunnerId} belong to different organizations: an environment moves within one`;
      throw new DirectoryConflictError('organization_mismatch', message);
    }
    if (row.runner_id !== toRunnerId && countsOf(toRunnerId).live >= MAX_LIVE_ENVIRONMENTS) {
      const message = `Runner ${toRunnerId} already has ${MAX_LIVE_ENVIRONMENTS} environments`;
      throw new DirectoryConflictError('environment_limit', message);
    }
    return row;
  };

  return {
    environment: async (id) =>
      store.read(() => {
        const row = rowOf(id);
        return row && toBinding(row);
      }),
    environments: async (filter = {}) =>
      store.read(() => {
        const { runnerId = null, creator = null } = filter;
        const rows = statements.some.all({ runnerId, creator, forgotten: forgotten() });
        return (rows as unknown as Row[]).map(toBinding);
      }),
    claim: async (runnerId, environments) =>
      store.write((record) => {
        const runner = statements.runner.get(runnerId) as { revoked_at: number | null } | undefined;
        if (!runner) throw new RefusedError('runner_unknown');
        if (runner.revoked_at !== null) throw new RefusedError('revoked');
        const counts = countsOf(runnerId);
        return new Map(
          environments.map((environment) => [environment.id, claimOne(runnerId, environment, counts, record)]),
        );
      }),
    release: async (runnerId, ids) =>
      store.write((record) => {
        for (const id of ids) {
          const { changes } = statements.release.run(clock.now(), id, runnerId);
          if (changes > 0) record({ kind: 'environment', environmentId: id });
        }
      }),
    releaseEnvironment: async (id) =>
      store.write((record) => {
        if (statements.remove.run(id).changes === 0) return false;
        record({ kind: 'environment', environmentId: id });
        return true;
      }),
    moveEnvironment: async (id, toRunnerId) =>
      store.write((record) => {
        const row = checkMove(rowOf(id), id, toRunnerId);
        if (row.runner_id === toRunnerId) return;
        statements.move.run(toRunnerId, nextEpoch(), clock.now(), id);
        record({ kind: 'environment', environmentId: id });
      }),
    sweep: () =>
      store.write((record) => {
        for (const { id } of statements.forgotten.all(forgotten()) as { id: string }[]) {
          statements.remove.run(id);
          record({ kind: 'environment', environmentId: id });
        }
      }),
  };
};
