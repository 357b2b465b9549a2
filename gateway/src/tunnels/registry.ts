/**
 * The runners whose legs end at this gateway, what they announce, and the way to each environment. A live leg is the
 * proof that a runner is there; that an environment is its own is what the directory says.
 */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, RefusedError, type LegCloseCode } from '../../../shared/src/errors.ts';
import type { Membership } from '../../../shared/src/identity/membership.ts';
import type { Environment, EnvironmentResult, MessageOf } from '../../../shared/src/protocol/messages.ts';
import type { Leg, LegEnd } from '../../../shared/src/protocol/leg.ts';
import type { Directory } from '../directory/directory.ts';
import type { GatewayLimits } from '../limits.ts';
import type { Logger } from '../observability/log.ts';
import { AnnouncementError, createAssembler, refusal, resultMessages } from './announcements.ts';
import { createBindings } from './bindings.ts';
import { applyAnnouncement } from './claims.ts';
import { superviseDataPath } from './dead-path.ts';
import { watchDirectory } from './directory-watch.ts';
import { legFields } from './leg-fields.ts';
import { createInstances } from './instances.ts';
import { describeEnvironments, describeLeg, type EnvironmentInfo, type LegInfo } from './registry-status.ts';
import { createRunnerChecks } from './runner-checks.ts';
import { createLegWatch, legsOfRunner } from './runner-legs.ts';
import type { EnvironmentRoute } from './route.ts';
import { createRoutingTable, type InstanceEntry, type LegEntry, type RunnerEntry } from './routing-table.ts';

export type { EnvironmentRoute } from './route.ts';

/** Environments in the announcements of one runner that wait for the directory. Beyond: the leg is closed with `limit`. */
export const QUEUED_ENVIRONMENTS = 8_000;
/** Environments that operators took away and that are remembered as such, for the log only. */
const TAKEN_AWAY = 1_000;

/** Runners without a leg of which it is remembered when they had their last one, for people. */
const LAST_SEEN_RUNNERS = 10_000;

export interface TunnelRegistry {
  /** Answers at once for environments that are announced here; asks the directory for others, and rejects if it is away. */
  route(environmentId: string): EnvironmentRoute | Promise<EnvironmentRoute>;
  /** Legs to the runner itself, best first; empty when there are none. */
  runnerLegs(runnerId: string): readonly Leg[];
  /** Calls back with every leg of the runner that comes up from now on. Returns the function that stops that. */
  watchRunner(runnerId: string, listener: () => void): () => void;
  /** Rejects with RefusedError when the peer may not have a leg here. */
  admit(peer: Membership): Promise<void>;
  /** Takes a leg that was admitted, and attaches to it. */
  add(leg: Leg): void;
  legs(): readonly LegInfo[];
  environments(): readonly EnvironmentInfo[];
  /** Runners without a leg that had one here since the start, with when they lost it, ms since the epoch. */
  lastSeen(): readonly { readonly runnerId: string; readonly at: number }[];
  /** Says goodbye on the legs for which `why` gives a reason. */
  dropLegs(why: (leg: Leg) => LegCloseCode | undefined): void;
  /** No new legs; runners are asked, once, to make theirs elsewhere within `deadlineMs`. */
  drain(deadlineMs: number): void;
  /** Says goodbye on every leg. */
  close(): Promise<void>;
}

export interface RegistryDeps {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly log: Logger;
  readonly limits: GatewayLimits;
  /** Absent: the same for all. */
  readonly legsPerRunner?: (organization: string | undefined) => number;
  readonly random: () => number;
  /** `iss` of another authority whose runners have legs here. */
  readonly otherIssuer?: string | undefined;
  readonly urls: { readonly domain: string; readonly publicPort: () => number };
  /** What of an announcement is not served as announced, for the runner to know; undefined when all is. */
  readonly note?: (environment: Environment, organization: string | undefined) => string | undefined;
  readonly observe?: {
    readonly legUp?: (leg: Leg) => void;
    /** What a runner announced, and what became of it. */
    readonly announced?: (runnerId: string, results: readonly EnvironmentResult[]) => void;
    readonly legClosed?: (leg: Leg, end: LegEnd) => void;
    /** New streams go elsewhere where they can: another leg took over, or the runner goes away. */
    readonly legLeft?: (leg: Leg) => void;
    /** What is known of the environment (undefined: of any) may be different: ports, admissions, who holds it. */
    readonly environmentChanged?: (environmentId: string | undefined) => void;
    /** Round trip of an answered echo. */
    readonly rtt?: (rttMs: number) => void;
  };
}

const greetingOf = (leg: Leg): MessageOf<'hello'> => {
  if (leg.greeting.type !== 'hello') throw new TypeError('only legs that were accepted belong in the registry');
  return leg.greeting;
};

export const createRegistry = (deps: RegistryDeps): TunnelRegistry => {
  const { directory, clock, log, limits } = deps;
  const table = createRoutingTable((environmentId) => deps.observe?.environmentChanged?.(environmentId));
  const legs = new Map<string, LegEntry>();
  const legWatch = createLegWatch();
  const bindings = createBindings(directory);
  const instances = createInstances({ table, clock });
  const checks = createRunnerChecks({ directory, table, log, otherIssuer: deps.otherIssuer });
  /** Environments that an operator took from their runner here: a new claim is worth a warning. */
  const takenAway = new LRUCache<string, true>({ max: TAKEN_AWAY });
  const lastSeen = new LRUCache<string, number>({ max: LAST_SEEN_RUNNERS });
  let isDraining = false;

  const closeLeg = (entry: LegEntry, code: LegCloseCode, reason?: string): void => {
    void entry.leg.close(code, reason);
  };

  /** Work for one runner, in order. */
  const enqueue = (runner: RunnerEntry, work: () => Promise<void>): Promise<void> => {
    const done = runner.tail.then(work);
    runner.tail = done.catch((error: unknown) => {
      log.error({ err: error, runnerId: runner.id }, 'work for a runner failed');
    });
    return done;
  };

  const answer = (instance: InstanceEntry, leg: Leg, revision: number, results: EnvironmentResult[]): void => {
    const open = leg.isOpen ? leg : [...instance.legs].find((entry) => entry.leg.isOpen)?.leg;
    for (const message of resultMessages(revision, results)) open?.send(message);
  };

  const claimDeps = {
    directory,
    table,
    log,
    urls: deps.urls,
    note: deps.note ?? (() => undefined),
    onAccepted(runnerId: string, environmentId: string) {
      if (!takenAway.delete(environmentId)) return;
      log.warn({ runnerId, environmentId }, 'an environment that an operator had released is claimed again');
    },
  };

  const onEnvironments = (entry: LegEntry, message: MessageOf<'environments'>): void => {
    const { instance, leg } = entry;
    const { runner } = instance;
    let announcement;
    try {
      announcement = entry.assembler.add(message, instance.revision);
    } catch (error) {
      if (!(error instanceof AnnouncementError)) throw error;
      return closeLeg(entry, 'protocol_error', error.message);
    }
    if (!announcement) return;
    const size = 1 + announcement.set.size + announcement.delete.size;
    if (runner.queued > 0 && runner.queued + size > QUEUED_ENVIRONMENTS) {
      return closeLeg(entry, 'limit', 'announcements come faster than they are taken');
    }
    runner.queued += size;
    instance.revision = announcement.revision;
    const apply = announcement;
    void enqueue(runner, async () => {
      const results = await applyAnnouncement(claimDeps, instance, apply);
      answer(instance, leg, apply.revision, results);
      deps.observe?.announced?.(runner.id, results);
    })
      .catch(() => {})
      .finally(() => {
        runner.queued -= size;
      });
  };

  const leave = (entry: LegEntry): void => {
    entry.left = true;
    deps.observe?.legLeft?.(entry.leg);
  };

  const onDrain = (entry: LegEntry, message: MessageOf<'drain'>): void => {
    log.info({ ...legFields(entry), reason: message.reason, deadlineMs: message.deadlineMs }, 'runner drains');
    if (message.reason === 'data_path') leave(entry);
    else {
      entry.instance.draining = true;
      deps.observe?.legLeft?.(entry.leg);
    }
  };

  const remove = (entry: LegEntry, end: LegEnd): void => {
    entry.stopHealth();
    legs.delete(entry.leg.id);
    entry.instance.legs.delete(entry);
    deps.observe?.legClosed?.(entry.leg, end);
    const level = end.code === 'closed' || end.code === 'replaced' ? 'info' : 'warn';
    const error = end.error ? describeError(end.error) : undefined;
    log[level]({ ...legFields(entry), code: end.code, by: end.by, reason: end.reason, error }, 'leg down');
    if (entry.instance.legs.size === 0) instances.remember(entry.instance);
    const { runner } = entry.instance;
    if ([...runner.instances.values()].every((instance) => instance.legs.size === 0)) {
      lastSeen.set(runner.id, clock.now());
    }
  };

  const replace = (entry: LegEntry, replacedId: string): void => {
    const replaced = legs.get(replacedId);
    // Only a leg of the same process can be replaced: ids are no secret.
    if (!replaced || replaced.instance !== entry.instance || replaced === entry) return;
    leave(replaced);
    if (replaced.deadPath) closeLeg(replaced, 'data_path');
  };

  /** New streams may go to it from now on. */
  const serve = (entry: LegEntry): void => {
    const { replaces } = greetingOf(entry.leg);
    if (replaces !== undefined) replace(entry, replaces);
    legWatch.added(entry.leg.peer.id);
  };

  const activate = (entry: LegEntry): void => {
    if (!entry.standby || !entry.leg.isOpen) return;
    entry.standby = false;
    entry.servesSince = clock.monotonic();
    log.info(legFields(entry), 'leg serves');
    serve(entry);
  };

  const drop = (runner: RunnerEntry, environmentId: string, code: 'claimed' | 'released'): void => {
    for (const instance of table.announcers(environmentId).filter((other) => other.runner === runner)) {
      table.withdraw(instance, environmentId);
      const open = [...instance.legs].find((entry) => entry.leg.isOpen)?.leg;
      if (open) answer(instance, open, Math.max(1, instance.revision), [refusal(environmentId, code)]);
    }
  };

  /** Drops the routes of environments that the directory no longer gives to the runner that announces them. */
  const checkEnvironments = async (ids: readonly string[]): Promise<void> => {
    const byRunner = Map.groupBy(
      ids.flatMap((id) => table.announcers(id).map((instance) => ({ id, runner: instance.runner }))),
      ({ runner }) => runner,
    );
    await Promise.all(
      [...byRunner].map(([runner, items]) =>
        enqueue(runner, async () => {
          for (const id of new Set(items.map((item) => item.id))) {
            const binding = await directory.environment(id);
            if (binding?.runnerId === runner.id && binding.releasedAt === undefined) continue;
            drop(runner, id, binding && binding.runnerId !== runner.id ? 'claimed' : 'released');
            // The runner gave it back itself, and an instance without legs still has it.
            if (binding?.runnerId === runner.id) continue;
            if (!binding) takenAway.set(id, true);
            log.warn(
              { runnerId: runner.id, environmentId: id, nowAt: binding?.runnerId },
              'environment taken from its runner',
            );
          }
        }),
      ),
    );
  };

  const stopWatching = watchDirectory(deps, {
    runner: (runnerId) => checks.recheck(runnerId),
    environments: checkEnvironments,
    async all() {
      for (const id of [...table.runners.keys()]) await checks.recheck(id);
      await checkEnvironments([...table.environmentIds()]);
    },
    onChange(environmentId) {
      bindings.invalidate(environmentId);
      deps.observe?.environmentChanged?.(environmentId);
    },
    onError: (error) => log.error({ err: error }, 'a change in the directory could not be looked up'),
  });

  const offlineRoute = async (environmentId: string): Promise<EnvironmentRoute> => {
    const found = await bindings.get(environmentId);
    if (!found) return { kind: 'unknown' };
    const { runnerId, organization, lastKnown } = found;
    return { kind: 'offline', runnerId, organization, environment: lastKnown };
  };

  return {
    route(environmentId) {
      const chosen = table.choose(environmentId);
      if (chosen) {
        const { environment, instance } = chosen;
        const { id: runnerId, organization } = instance.runner;
        return { kind: 'online', runnerId, organization, environment, legs: chosen.legs };
      }
      const known = table.announcers(environmentId)[0];
      const environment = known?.environments.get(environmentId);
      if (!known || !environment) return offlineRoute(environmentId);
      return { kind: 'offline', runnerId: known.runner.id, organization: known.runner.organization, environment };
    },

    runnerLegs: (runnerId) => legsOfRunner(table.runners.get(runnerId)),
    watchRunner: (runnerId, listener) => legWatch.watch(runnerId, listener),

    async admit(peer) {
      if (isDraining) throw new RefusedError('draining');
      if (legs.size >= limits.legs)
        throw new RefusedError('limit', { detail: 'the gateway has as many legs as it takes' });
      await checks.admit(peer);
      const entry = table.runners.get(peer.id);
      const count = entry ? [...entry.instances.values()].reduce((sum, instance) => sum + instance.legs.size, 0) : 0;
      if (count >= (deps.legsPerRunner?.(peer.organization) ?? limits.legsPerRunner)) {
        throw new RefusedError('limit', { detail: 'the runner has as many legs as it may have' });
      }
    },

    add(leg) {
      const hello = greetingOf(leg);
      const instance = instances.of(leg.peer, hello);
      const now = clock.monotonic();
      const entry: LegEntry = {
        leg,
        instance,
        assembler: createAssembler(),
        addedAt: now,
        servesSince: now,
        standby: hello.features.includes('standby'),
        left: false,
        deadPath: false,
        stopHealth: () => {},
      };
      legs.set(leg.id, entry);
      lastSeen.delete(leg.peer.id);
      instance.legs.add(entry);
      log.info({ ...legFields(entry), agent: hello.agent, replaces: hello.replaces }, 'leg up');
      deps.observe?.legUp?.(leg);
      void leg.closed.then((end) => remove(entry, end));
      leg.attach({
        onMessage(message) {
          if (message.type === 'activate') activate(entry);
          else if (message.type === 'environments') onEnvironments(entry, message);
          else if (message.type === 'drain') onDrain(entry, message);
        },
      });
      entry.stopHealth = superviseDataPath({ clock, log, random: deps.random, onRtt: deps.observe?.rtt }, entry);
      if (!entry.standby) serve(entry);
      if (isDraining) closeLeg(entry, 'draining');
      // It may have been revoked between its admission and now.
      checks.recheck(leg.peer.id).catch((error: unknown) => {
        log.warn({ err: error, runnerId: leg.peer.id }, 'a runner could not be looked up');
      });
    },

    legs: () => [...legs.values()].map((entry) => describeLeg(entry, clock.monotonic())),
    environments: () => describeEnvironments(table),
    lastSeen: () => [...lastSeen.entries()].map(([runnerId, at]) => ({ runnerId, at })),

    dropLegs(why) {
      for (const entry of legs.values()) {
        const code = why(entry.leg);
        if (code !== undefined) closeLeg(entry, code);
      }
    },
    drain(deadlineMs) {
      if (isDraining) return;
      isDraining = true;
      for (const { leg } of legs.values()) leg.send({ type: 'drain', reason: 'shutdown', deadlineMs });
    },

    async close() {
      isDraining = true;
      stopWatching();
      await Promise.all([...legs.values()].map(({ leg }) => leg.close('draining').then(() => leg.closed)));
      await Promise.all([...table.runners.values()].map((runner) => runner.tail));
      for (const runner of [...table.runners.values()]) table.removeRunner(runner);
    },
  };
};
