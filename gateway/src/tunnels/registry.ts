/**
 * The runners whose legs end at this gateway, what they announce, and the way to each environment. A live leg is the
 * proof that a runner is there; that an environment is its own is what the directory says.
 */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, RefusedError, type LegCloseCode } from '../../../shared/src/errors.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import type { Membership } from '../../../shared/src/identity/membership.ts';
import type { EnvironmentResult, MessageOf } from '../../../shared/src/protocol/messages.ts';
import type { Leg, LegEnd } from '../../../shared/src/protocol/leg.ts';
import type { Directory, EnvironmentBinding, Runner } from '../directory/directory.ts';
import type { GatewayLimits } from '../limits.ts';
import type { Logger } from '../observability/log.ts';
import { AnnouncementError, createAssembler, refusal, resultMessages } from './announcements.ts';
import { applyAnnouncement } from './claims.ts';
import { watchDirectory } from './directory-watch.ts';
import { watchDataPath } from './health.ts';
import type { EnvironmentRoute } from './route.ts';
import {
  createRoutingTable,
  usableLegs,
  type InstanceEntry,
  type LegEntry,
  type RunnerEntry,
} from './routing-table.ts';

export type { EnvironmentRoute } from './route.ts';

/**
 * How long the announcements of an instance without legs are remembered, ms: a network outage ends within it, and the
 * environments are routed again with the first leg. Afterwards the directory's last known state answers.
 */
export const INSTANCE_MEMORY_MS = 600_000;
/** Instances without legs that are remembered for one runner; a crash loop makes one with each start. The oldest goes first. */
export const REMEMBERED_INSTANCES = 4;
/** Environments in the announcements of one runner that wait for the directory. Beyond: the leg is closed with `limit`. */
export const QUEUED_ENVIRONMENTS = 8_000;
/** From `drain` because of a dead data path until the leg is closed if no replacement has come up, ms. */
export const DEAD_PATH_DEADLINE_MS = 10_000;
/** Looked-up bindings of environments without a leg here, 1 KiB each. The least recently used goes first. */
const CACHED_BINDINGS = 10_000;
/** Runners as last looked up, for legs that come while the directory is away. The least recently used goes first. */
const CACHED_RUNNERS = 10_000;
/** Environments that operators took away and that are remembered as such, for the log only. */
const TAKEN_AWAY = 1_000;

export interface LegInfo {
  readonly legId: string;
  readonly runnerId: string;
  readonly organization: string | undefined;
  readonly instance: string;
  readonly agent: string;
  readonly transport: Leg['transport'];
  readonly remoteAddress: string;
  readonly upForMs: number;
  readonly rttMs: number | undefined;
  readonly openStreams: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly state: 'up' | 'left' | 'draining' | 'dead_path';
}

export interface EnvironmentInfo {
  readonly environmentId: string;
  readonly runnerId: string;
  readonly ports: readonly { readonly port: number; readonly protocol: string; readonly admission: string }[];
  readonly legs: number;
}

export interface TunnelRegistry {
  /** Answers at once for environments that are announced here; asks the directory for others, and rejects if it is away. */
  route(environmentId: string): EnvironmentRoute | Promise<EnvironmentRoute>;
  /** Rejects with RefusedError when the peer may not have a leg here. */
  admit(peer: Membership): Promise<void>;
  /** Takes a leg that was admitted, and attaches to it. */
  add(leg: Leg): void;
  legs(): readonly LegInfo[];
  environments(): readonly EnvironmentInfo[];
  /** No new legs; runners are asked to make theirs elsewhere within `deadlineMs`. */
  drain(deadlineMs: number): void;
  /** Says goodbye on every leg. */
  close(): Promise<void>;
}

export interface RegistryDeps {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly log: Logger;
  readonly limits: GatewayLimits;
  readonly random: () => number;
  readonly urls: { readonly domain: string; readonly publicPort: () => number };
  readonly observe?: {
    readonly legClosed?: (leg: Leg, end: LegEnd) => void;
    /** Round trip of an answered echo. */
    readonly rtt?: (rttMs: number) => void;
  };
}

const greetingOf = (leg: Leg): MessageOf<'hello'> => {
  if (leg.greeting.type !== 'hello') throw new TypeError('only legs that were accepted belong in the registry');
  return leg.greeting;
};

const sameKey = (a: Uint8Array | undefined, b: Uint8Array): boolean => a !== undefined && Buffer.compare(a, b) === 0;

/** Why a runner with this record may have no leg with this key, if so. */
const refusalOf = (
  runner: Runner | undefined,
  publicKey: Uint8Array,
): 'runner_unknown' | 'revoked' | 'key_mismatch' | undefined => {
  if (!runner) return 'runner_unknown';
  if (runner.revokedAt !== undefined) return 'revoked';
  return sameKey(runner.publicKey, publicKey) ? undefined : 'key_mismatch';
};

export const createRegistry = (deps: RegistryDeps): TunnelRegistry => {
  const { directory, clock, log, limits } = deps;
  const table = createRoutingTable();
  const legs = new Map<string, LegEntry>();
  const bindings = new LRUCache<string, { binding: EnvironmentBinding | undefined }>({ max: CACHED_BINDINGS });
  const knownRunners = new LRUCache<string, Runner>({ max: CACHED_RUNNERS });
  /** Grows with each change, so that a look-up that was under way meanwhile is not remembered. */
  let generation = 0;
  /** Environments that an operator took from their runner here: a new claim is worth a warning. */
  const takenAway = new LRUCache<string, true>({ max: TAKEN_AWAY });
  let isDraining = false;
  let isClosed = false;

  const fieldsOf = ({ leg, instance }: LegEntry) => ({
    legId: leg.id,
    runnerId: instance.runner.id,
    instance: instance.id,
    transport: leg.transport,
    remoteAddress: leg.remoteAddress,
  });

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
    })
      .catch(() => {})
      .finally(() => {
        runner.queued -= size;
      });
  };

  const onDrain = (entry: LegEntry, message: MessageOf<'drain'>): void => {
    log.info({ ...fieldsOf(entry), reason: message.reason, deadlineMs: message.deadlineMs }, 'runner drains');
    if (message.reason === 'data_path') entry.left = true;
    else entry.instance.draining = true;
  };

  const hasOtherLeg = (entry: LegEntry): boolean =>
    [...entry.instance.legs].some((other) => other !== entry && other.leg.isOpen && !other.deadPath);

  const onDeadPath = (entry: LegEntry): void => {
    if (entry.deadPath || !entry.leg.isOpen) return;
    const { leg } = entry;
    const receivedBefore = leg.stats().received;
    log.warn(fieldsOf(entry), 'the data path of a leg is dead');
    if (hasOtherLeg(entry)) {
      entry.deadPath = true;
      return closeLeg(entry, 'data_path');
    }
    entry.deadPath = true;
    leg.send({ type: 'drain', reason: 'data_path', deadlineMs: DEAD_PATH_DEADLINE_MS });
    clock.timer(DEAD_PATH_DEADLINE_MS, () => {
      if (!entry.deadPath || !leg.isOpen) return;
      // The only leg, and something still arrives on it: it is not taken away, it may recover.
      if (!hasOtherLeg(entry) && leg.stats().received > receivedBefore) {
        entry.deadPath = false;
        return;
      }
      closeLeg(entry, 'data_path');
    });
  };

  const onAlive = (entry: LegEntry, rttMs: number | undefined): void => {
    if (rttMs !== undefined) deps.observe?.rtt?.(rttMs);
    if (entry.deadPath) log.info(fieldsOf(entry), 'the data path of a leg is alive again');
    entry.deadPath = false;
    if (entry.left && entry.leg.stats().openStreams === 0 && hasOtherLeg(entry)) closeLeg(entry, 'replaced');
  };

  const forget = (instance: InstanceEntry): void => {
    instance.cancelForget?.();
    instance.cancelForget = undefined;
    if (instance.legs.size === 0) table.removeInstance(instance);
  };

  const remember = (instance: InstanceEntry): void => {
    if (isClosed || instance.environments.size === 0) return forget(instance);
    // Inserted last: the order of the map is then the order in which their legs went.
    const { instances } = instance.runner;
    instances.delete(instance.id);
    instances.set(instance.id, instance);
    const idle = [...instances.values()].filter((other) => other.legs.size === 0);
    for (const oldest of idle.slice(0, Math.max(0, idle.length - REMEMBERED_INSTANCES))) forget(oldest);
    instance.cancelForget?.();
    instance.cancelForget = clock.timer(INSTANCE_MEMORY_MS, () => forget(instance));
  };

  const remove = (entry: LegEntry, end: LegEnd): void => {
    entry.stopHealth();
    legs.delete(entry.leg.id);
    entry.instance.legs.delete(entry);
    deps.observe?.legClosed?.(entry.leg, end);
    const level = end.code === 'closed' || end.code === 'replaced' ? 'info' : 'warn';
    const error = end.error ? describeError(end.error) : undefined;
    log[level]({ ...fieldsOf(entry), code: end.code, by: end.by, reason: end.reason, error }, 'leg down');
    // A runner that was removed in between has no instances to remember.
    const { instance } = entry;
    if (instance.legs.size === 0 && instance.runner.instances.get(instance.id) === instance) remember(instance);
  };

  const replace = (entry: LegEntry, replacedId: string): void => {
    const replaced = legs.get(replacedId);
    // Only a leg of the same process can be replaced: ids are no secret.
    if (!replaced || replaced.instance !== entry.instance || replaced === entry) return;
    replaced.left = true;
    if (replaced.deadPath) closeLeg(replaced, 'data_path');
  };

  const instanceOf = (leg: Leg): InstanceEntry => {
    const hello = greetingOf(leg);
    const runner = table.runner(leg.peer.id, leg.peer.organization);
    let instance = runner.instances.get(hello.instance);
    if (!instance) {
      instance = {
        id: hello.instance,
        runner,
        startedAt: hello.instanceStartedAt,
        legs: new Set(),
        environments: new Map(),
        revision: 0,
        draining: false,
        cancelForget: undefined,
      };
      runner.instances.set(instance.id, instance);
    }
    instance.cancelForget?.();
    instance.cancelForget = undefined;
    return instance;
  };

  const lookUpRunner = async (id: string): Promise<Runner | undefined> => {
    const runner = await directory.runner(id);
    if (runner) knownRunners.set(id, runner);
    else knownRunners.delete(id);
    return runner;
  };

  /** Cuts the legs that the runner may no longer have, and with the last of them its routes. */
  const checkRunner = async (runnerId: string): Promise<void> => {
    const record = await lookUpRunner(runnerId);
    const runner = table.runners.get(runnerId);
    if (!runner) return;
    let allowed = 0;
    for (const entry of [...runner.instances.values()].flatMap((instance) => [...instance.legs])) {
      const code = refusalOf(record, entry.leg.peer.publicKey);
      if (code) {
        log.warn({ ...fieldsOf(entry), code }, 'leg cut');
        closeLeg(entry, code);
      } else {
        allowed += 1;
      }
    }
    if (allowed === 0 && (!record || record.revokedAt !== undefined)) table.removeRunner(runner);
  };

  const drop = (runner: RunnerEntry, environmentId: string, code: 'claimed' | 'released'): void => {
    for (const instance of table.announcers(environmentId).filter((other) => other.runner === runner)) {
      table.withdraw(instance, environmentId);
      if (code === 'released') takenAway.set(environmentId, true);
      log.warn(
        { runnerId: runner.id, environmentId, instance: instance.id, code },
        'environment taken from its runner',
      );
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
            if (binding && binding.runnerId === runner.id && binding.releasedAt === undefined) continue;
            drop(runner, id, binding && binding.runnerId !== runner.id ? 'claimed' : 'released');
          }
        }),
      ),
    );
  };

  const stopWatching = watchDirectory(deps, {
    runner: checkRunner,
    environments: checkEnvironments,
    async all() {
      for (const id of [...table.runners.keys()]) await checkRunner(id);
      await checkEnvironments([...table.environmentIds()]);
    },
    onChange(environmentId) {
      generation += 1;
      if (environmentId === undefined) bindings.clear();
      else bindings.delete(environmentId);
    },
    onError: (error) => log.error({ err: error }, 'a change in the directory could not be looked up'),
  });

  const binding = async (environmentId: string): Promise<EnvironmentBinding | undefined> => {
    const cached = bindings.get(environmentId);
    if (cached) return cached.binding;
    const before = generation;
    const found = await directory.environment(environmentId);
    if (before === generation) bindings.set(environmentId, { binding: found });
    return found;
  };

  const offlineRoute = async (environmentId: string): Promise<EnvironmentRoute> => {
    const found = await binding(environmentId);
    if (!found) return { kind: 'unknown' };
    const { runnerId, organization, lastKnown } = found;
    return { kind: 'offline', runnerId, organization, environment: lastKnown };
  };

  const stateOf = (entry: LegEntry): LegInfo['state'] => {
    if (entry.deadPath) return 'dead_path';
    if (entry.left) return 'left';
    return entry.instance.draining ? 'draining' : 'up';
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

    async admit(peer) {
      if (isDraining) throw new RefusedError('draining');
      if (legs.size >= limits.legs)
        throw new RefusedError('limit', { detail: 'the gateway has as many legs as it takes' });
      let runner: Runner | undefined;
      try {
        runner = await lookUpRunner(peer.id);
      } catch (error) {
        // The membership is valid; what was known when the directory was last there has to do.
        runner = knownRunners.get(peer.id);
        if (!runner) throw new RefusedError('unavailable', { cause: error });
        log.warn({ err: error, runnerId: peer.id }, 'a leg is admitted by what was known, the directory is away');
      }
      const code = refusalOf(runner, peer.publicKey);
      if (code) {
        const pinned = runner?.publicKey && keyFingerprint(runner.publicKey);
        throw new RefusedError(code, {
          detail: `key ${keyFingerprint(peer.publicKey)}, on record ${pinned ?? 'none'}`,
        });
      }
      const entry = table.runners.get(peer.id);
      const count = entry ? [...entry.instances.values()].reduce((sum, instance) => sum + instance.legs.size, 0) : 0;
      if (count >= limits.legsPerRunner) {
        throw new RefusedError('limit', { detail: 'the runner has as many legs as it may have' });
      }
    },

    add(leg) {
      const hello = greetingOf(leg);
      const instance = instanceOf(leg);
      const entry: LegEntry = {
        leg,
        instance,
        assembler: createAssembler(),
        addedAt: clock.monotonic(),
        left: false,
        deadPath: false,
        stopHealth: () => {},
      };
      legs.set(leg.id, entry);
      instance.legs.add(entry);
      log.info({ ...fieldsOf(entry), agent: hello.agent, replaces: hello.replaces }, 'leg up');
      void leg.closed.then((end) => remove(entry, end));
      leg.attach({
        onMessage(message) {
          if (message.type === 'environments') onEnvironments(entry, message);
          else if (message.type === 'drain') onDrain(entry, message);
        },
      });
      entry.stopHealth = watchDataPath(leg, deps, {
        onDead: () => onDeadPath(entry),
        onAlive: (rttMs) => onAlive(entry, rttMs),
      });
      if (hello.replaces !== undefined) replace(entry, hello.replaces);
      if (isDraining) closeLeg(entry, 'draining');
      // It may have been revoked between its admission and now.
      checkRunner(leg.peer.id).catch((error: unknown) => {
        log.warn({ err: error, runnerId: leg.peer.id }, 'a runner could not be looked up');
      });
    },

    legs: () =>
      [...legs.values()].map((entry) => {
        const { leg, instance } = entry;
        const { rttMs, openStreams, bytesSent, bytesReceived } = leg.stats();
        return {
          legId: leg.id,
          runnerId: instance.runner.id,
          organization: instance.runner.organization,
          instance: instance.id,
          agent: greetingOf(leg).agent,
          transport: leg.transport,
          remoteAddress: leg.remoteAddress,
          upForMs: Math.round(clock.monotonic() - entry.addedAt),
          rttMs,
          openStreams,
          bytesSent,
          bytesReceived,
          state: stateOf(entry),
        };
      }),

    environments: () =>
      [...table.environmentIds()].flatMap((environmentId) => {
        const instance = table.announcers(environmentId)[0];
        const environment = instance?.environments.get(environmentId);
        if (!instance || !environment) return [];
        return {
          environmentId,
          runnerId: instance.runner.id,
          ports: environment.ports.map(({ port, protocol, admission }) => ({ port, protocol, admission })),
          legs: table.announcers(environmentId).flatMap((other) => usableLegs(other, false)).length,
        };
      }),

    drain(deadlineMs) {
      isDraining = true;
      for (const { leg } of legs.values()) leg.send({ type: 'drain', reason: 'shutdown', deadlineMs });
    },

    async close() {
      isDraining = true;
      isClosed = true;
      stopWatching();
      await Promise.all([...legs.values()].map(({ leg }) => leg.close('draining').then(() => leg.closed)));
      await Promise.all([...table.runners.values()].map((runner) => runner.tail));
      for (const runner of [...table.runners.values()]) table.removeRunner(runner);
    },
  };
};
