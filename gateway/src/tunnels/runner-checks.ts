/** Who may have a leg, and what is taken away again when the directory says otherwise later. */
import { LRUCache } from 'lru-cache';
import { RefusedError } from '../../../shared/src/errors.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import type { Membership } from '../../../shared/src/identity/membership.ts';
import type { Directory, Runner } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';
import { legFields } from './leg-fields.ts';
import type { RoutingTable, RunnerEntry } from './routing-table.ts';

/** Runners as last looked up, for legs that come while the directory is away. The least recently used goes first. */
const CACHED_RUNNERS = 10_000;

/** Why a runner with this record may have no leg with this membership, if so. */
const refusalOf = (
  runner: Runner | undefined,
  { publicKey, issuer }: Pick<Membership, 'publicKey' | 'issuer'>,
): 'runner_unknown' | 'revoked' | 'key_mismatch' | undefined => {
  if (!runner) return 'runner_unknown';
  if (runner.revokedAt !== undefined) return 'revoked';
  // Which keys are its own is for its authority to say, which has signed the membership.
  if (runner.issuer !== undefined && runner.issuer === issuer) return undefined;
  if (!runner.publicKey || Buffer.compare(runner.publicKey, publicKey) !== 0) return 'key_mismatch';
  return undefined;
};

export interface RunnerChecks {
  /** Rejects with RefusedError when this peer may not have a leg. */
  admit(peer: Membership): Promise<void>;
  /** Cuts the legs that the runner may no longer have; a revoked one loses its routes at once. Rejects when the directory is away. */
  recheck(runnerId: string): Promise<void>;
}

export const createRunnerChecks = (deps: {
  readonly directory: Directory;
  readonly table: RoutingTable;
  readonly log: Logger;
  /** `iss` of another authority whose memberships are verified before they come here. */
  readonly otherIssuer?: string | undefined;
}): RunnerChecks => {
  const { directory, table, log } = deps;
  const known = new LRUCache<string, Runner>({ max: CACHED_RUNNERS });

  const lookUp = async (id: string): Promise<Runner | undefined> => {
    const runner = await directory.runner(id);
    if (runner) known.set(id, runner);
    else known.delete(id);
    return runner;
  };

  const lookUpOrRemember = async (peer: Membership): Promise<Runner | undefined> => {
    const { id, organization, issuer, publicKey } = peer;
    try {
      if (issuer !== deps.otherIssuer || organization === undefined) return await lookUp(id);
      const runner = await directory.learnRunner({ id, organization, issuer, publicKey });
      known.set(id, runner);
      return runner;
    } catch (error) {
      if (error instanceof RefusedError && error.code !== 'unavailable') throw error;
      // The membership is valid; what was known when the directory was last there has to do.
      const runner = known.get(id);
      if (!runner) throw new RefusedError('unavailable', { cause: error });
      log.warn({ err: error, runnerId: id }, 'a leg is admitted by what was known, the directory is away');
      return runner;
    }
  };

  const cut = (runner: RunnerEntry, record: Runner | undefined): void => {
    for (const entry of [...runner.instances.values()].flatMap((instance) => [...instance.legs])) {
      const code = refusalOf(record, entry.leg.peer);
      if (!code || !entry.leg.isOpen) continue;
      log.warn({ ...legFields(entry), code }, 'leg cut');
      void entry.leg.close(code);
    }
    if (!record || record.revokedAt !== undefined) table.removeRunner(runner);
  };

  return {
    async admit(peer) {
      const runner = await lookUpOrRemember(peer);
      const code = refusalOf(runner, peer);
      if (!code) return;
      if (code !== 'key_mismatch') throw new RefusedError(code);
      // The peer is told of its own key only; the log also has the cause.
      const cause = new Error(`on record is ${runner?.publicKey ? keyFingerprint(runner.publicKey) : 'no key'}`);
      const detail = `the key ${keyFingerprint(peer.publicKey)} is not the one on record`;
      throw new RefusedError(code, { detail, cause });
    },
    async recheck(runnerId) {
      const record = await lookUp(runnerId);
      const runner = table.runners.get(runnerId);
      if (runner) cut(runner, record);
    },
  };
};
