/**
 * What an announcement means for the directory and for the routes: claims, releases, and the answer to the runner.
 * Called one after the other for each runner.
 */
import {
  ADMISSION_NARROWED,
  type Environment,
  type EnvironmentRefusal,
  type EnvironmentResult,
} from '../../../shared/src/protocol/messages.ts';
import { RefusedError } from '../../../shared/src/errors.ts';
import { portHost, publicUrl } from '../../../shared/src/hostname.ts';
import type { Directory } from '../directory/directory.ts';
import type { Logger } from '../observability/log.ts';
import { refusal, type Announcement } from './announcements.ts';
import type { InstanceEntry, RoutingTable } from './routing-table.ts';

/** Refusals of one announcement that are logged one by one; the line of the announcement has their number. */
const MAX_LOGGED_REFUSALS = 20;

export interface ClaimDeps {
  readonly directory: Directory;
  readonly table: RoutingTable;
  readonly log: Logger;
  /** `<domain>` and port of the URLs that runners are told. */
  readonly urls: { readonly domain: string; readonly publicPort: () => number };
  /** What of it is not served as announced, in a sentence; undefined when all is. */
  readonly note: (environment: Environment, organization: string | undefined) => string | undefined;
  /** Called for each environment that was accepted. */
  readonly onAccepted: (runnerId: string, environmentId: string) => void;
}

/** Longest message of a result, characters (see messages.ts). */
const MAX_NOTE_LENGTH = 1_024;

const isLive = (instance: InstanceEntry): boolean => instance.legs.size > 0;

type Verdict = 'accepted' | EnvironmentRefusal;

/** The directory's verdicts; while it is away, what this runner already holds here stays its own. */
const claim = async (
  deps: ClaimDeps,
  instance: InstanceEntry,
  environments: readonly Environment[],
): Promise<ReadonlyMap<string, Verdict>> => {
  const { runner } = instance;
  if (environments.length === 0) return new Map();
  try {
    return await deps.directory.claim(runner.id, environments);
  } catch (error) {
    deps.log.error({ err: error, runnerId: runner.id }, 'the directory could not take an announcement');
    // It said no to the runner as such: its legs are cut when the change is looked up.
    if (error instanceof RefusedError && error.code !== 'unavailable') return new Map();
    const holds = (id: string): boolean => deps.table.announcers(id).some((other) => other.runner === runner);
    return new Map(environments.map(({ id }) => [id, holds(id) ? 'accepted' : 'unavailable']));
  }
};

const accepted = (deps: ClaimDeps, environment: Environment, note: string | undefined): EnvironmentResult => ({
  id: environment.id,
  accepted: true,
  ...(note === undefined ? {} : { code: ADMISSION_NARROWED, message: note.slice(0, MAX_NOTE_LENGTH) }),
  urls: environment.ports.map(({ port }) => ({
    port,
    url: publicUrl(portHost(port, environment.id, deps.urls.domain), deps.urls.publicPort()),
  })),
});

/** Gives back names that no live instance of the runner announces any more. A failure is made up for by the next full announcement. */
const release = async (deps: ClaimDeps, instance: InstanceEntry, announcement: Announcement): Promise<void> => {
  const { runner } = instance;
  const isAnnounced = (id: string): boolean =>
    deps.table.announcers(id).some((other) => other.runner === runner && isLive(other));
  try {
    const candidates = announcement.full
      ? (await deps.directory.environments({ runnerId: runner.id }))
          .filter((binding) => binding.releasedAt === undefined)
          .map((binding) => binding.id)
      : [...announcement.delete];
    // A broken or refused announcement of a name is not the wish to give it back.
    const refused = new Set(announcement.refused.map(({ id }) => id));
    const ids = candidates.filter((id) => !announcement.set.has(id) && !refused.has(id) && !isAnnounced(id));
    if (ids.length > 0) await deps.directory.release(runner.id, ids);
  } catch (error) {
    deps.log.error({ err: error, runnerId: runner.id }, 'the directory could not release environments');
  }
};

/** Applies one announcement to routes and directory. Never rejects; returns a result for each environment in it. */
export const applyAnnouncement = async (
  deps: ClaimDeps,
  instance: InstanceEntry,
  announcement: Announcement,
): Promise<EnvironmentResult[]> => {
  const { runner } = instance;
  const results: EnvironmentResult[] = [...announcement.refused];
  const gone = announcement.full
    ? [...instance.environments.keys()].filter((id) => !announcement.set.has(id))
    : [...announcement.delete].filter((id) => !announcement.set.has(id));
  for (const id of gone) deps.table.withdraw(instance, id);
  for (const { id } of announcement.refused) if (!announcement.set.has(id)) deps.table.withdraw(instance, id);
  // Before the claims: names that are given back make room below the runner's limit.
  if (announcement.full || gone.length > 0) await release(deps, instance, announcement);

  const verdicts = await claim(deps, instance, [...announcement.set.values()]);
  // It may have been revoked, or forgotten, while the directory was asked.
  if (runner.instances.get(instance.id) !== instance) return [];
  for (const [id, environment] of announcement.set) {
    const verdict = verdicts.get(id) ?? 'unavailable';
    if (verdict === 'accepted') {
      deps.table.announce(instance, environment);
      deps.onAccepted(runner.id, id);
      const note = deps.note(environment, runner.organization);
      if (note !== undefined) deps.log.warn({ runnerId: runner.id, environmentId: id, note }, 'environment narrowed');
      results.push(accepted(deps, environment, note));
    } else {
      deps.table.withdraw(instance, id);
      results.push(refusal(id, verdict));
    }
  }

  const refused = results.filter((result) => !result.accepted);
  const fields = { runnerId: runner.id, instance: instance.id, revision: announcement.revision };
  for (const { id, code, message } of refused.slice(0, MAX_LOGGED_REFUSALS)) {
    deps.log.warn({ ...fields, environmentId: id, code, reason: message }, 'environment refused');
  }
  deps.log.info(
    { ...fields, accepted: results.length - refused.length, refused: refused.length, withdrawn: gone.length },
    'environments announced',
  );
  return results;
};
