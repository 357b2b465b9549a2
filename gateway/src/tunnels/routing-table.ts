/**
 * Who announces what, and by which legs it is reached: runners → instances → legs, with an index from environment to
 * the instances that announce it. Plain data, changed by the registry alone; choosing legs is the only logic.
 */
import type { Environment } from '../../../shared/src/protocol/messages.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { Assembler } from './announcements.ts';

export interface RunnerEntry {
  readonly id: string;
  readonly organization: string | undefined;
  readonly instances: Map<string, InstanceEntry>;
  /** Work on announcements and look-ups goes one after the other, in order of arrival. */
  tail: Promise<void>;
  /** Environments in announcements that wait for their turn. */
  queued: number;
}

export interface InstanceEntry {
  readonly id: string;
  readonly runner: RunnerEntry;
  /** ms since the epoch by the instance's own clock: only to order the instances of one runner. */
  readonly startedAt: number;
  readonly legs: Set<LegEntry>;
  readonly environments: Map<string, Environment>;
  /** Of the latest announcement that was taken. */
  revision: number;
  /** It said `drain`: no new streams for what another instance announces. */
  draining: boolean;
  /** Ends the memory of an instance without legs. */
  cancelForget: (() => void) | undefined;
}

export interface LegEntry {
  readonly leg: Leg;
  readonly instance: InstanceEntry;
  readonly assembler: Assembler;
  /** Monotonic ms. */
  readonly addedAt: number;
  /** Its client has not said yet that it uses it: no new streams. */
  standby: boolean;
  /** Monotonic ms: since when it takes new streams. */
  servesSince: number;
  /** Replaced, or left by its client: no new streams while there is any other leg. */
  left: boolean;
  /** Its data path is dead: no new streams. */
  deadPath: boolean;
  stopHealth: () => void;
}

export interface RoutingTable {
  readonly runners: ReadonlyMap<string, RunnerEntry>;
  runner(id: string, organization: string | undefined): RunnerEntry;
  removeRunner(runner: RunnerEntry): void;
  removeInstance(instance: InstanceEntry): void;
  /** The instance announces `environment` from now on. */
  announce(instance: InstanceEntry, environment: Environment): void;
  withdraw(instance: InstanceEntry, environmentId: string): void;
  /** Instances that announce it, the one that started latest first. */
  announcers(environmentId: string): readonly InstanceEntry[];
  environmentIds(): Iterable<string>;
  /** Legs for new streams, best first; empty when there are none. The environment is the best leg's instance's. */
  choose(environmentId: string): { environment: Environment; instance: InstanceEntry; legs: Leg[] } | undefined;
}

/** Legs of an instance that take new streams: the newest first, since it replaces the others. */
export const usableLegs = (instance: InstanceEntry, includeLeft: boolean): LegEntry[] => {
  const legs: LegEntry[] = [];
  for (const entry of instance.legs) {
    if (entry.leg.isOpen && !entry.standby && !entry.deadPath && entry.left === includeLeft) legs.push(entry);
  }
  return legs.length > 1 ? legs.sort((a, b) => b.servesSince - a.servesSince) : legs;
};

/** `onChange` is called with each environment that is announced or withdrawn, after it was. */
export const createRoutingTable = (onChange: (environmentId: string) => void = () => {}): RoutingTable => {
  const runners = new Map<string, RunnerEntry>();
  const index = new Map<string, InstanceEntry[]>();

  const withdraw = (instance: InstanceEntry, environmentId: string): void => {
    if (!instance.environments.delete(environmentId)) return;
    const rest = index.get(environmentId)?.filter((other) => other !== instance) ?? [];
    if (rest.length > 0) index.set(environmentId, rest);
    else index.delete(environmentId);
    onChange(environmentId);
  };

  return {
    runners,
    runner(id, organization) {
      let runner = runners.get(id);
      if (!runner) {
        runner = { id, organization, instances: new Map(), tail: Promise.resolve(), queued: 0 };
        runners.set(id, runner);
      }
      return runner;
    },
    removeRunner(runner) {
      for (const instance of runner.instances.values()) this.removeInstance(instance);
      if (runners.get(runner.id) === runner) runners.delete(runner.id);
    },
    removeInstance(instance) {
      instance.cancelForget?.();
      for (const id of [...instance.environments.keys()]) withdraw(instance, id);
      const { runner } = instance;
      if (runner.instances.get(instance.id) === instance) runner.instances.delete(instance.id);
      if (runner.instances.size === 0 && runners.get(runner.id) === runner) runners.delete(runner.id);
    },
    announce(instance, environment) {
      if (!instance.environments.has(environment.id)) {
        const announcers = [...(index.get(environment.id) ?? []), instance];
        index.set(
          environment.id,
          announcers.sort((a, b) => b.startedAt - a.startedAt),
        );
      }
      instance.environments.set(environment.id, environment);
      onChange(environment.id);
    },
    withdraw,
    announcers: (environmentId) => index.get(environmentId) ?? [],
    environmentIds: () => index.keys(),
    choose(environmentId) {
      const announcers = index.get(environmentId);
      if (!announcers) return undefined;
      // A leg that is left is still better than none: its client has not closed it.
      for (const includeLeft of [false, true]) {
        for (const draining of [false, true]) {
          const legs: Leg[] = [];
          let instance: InstanceEntry | undefined;
          for (const each of announcers) {
            if (each.draining !== draining) continue;
            for (const { leg } of usableLegs(each, includeLeft)) {
              instance ??= each;
              legs.push(leg);
            }
          }
          const environment = instance?.environments.get(environmentId);
          if (instance && environment) return { environment, instance, legs };
        }
      }
      return undefined;
    },
  };
};
