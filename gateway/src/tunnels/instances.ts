/** Instances of runners: made with their first leg, remembered for a while after their last one. */
import type { Clock } from '../../../shared/src/clock.ts';
import type { MessageOf } from '../../../shared/src/protocol/messages.ts';
import type { Membership } from '../../../shared/src/identity/membership.ts';
import type { InstanceEntry, RoutingTable } from './routing-table.ts';

/**
 * How long the announcements of an instance without legs are remembered, ms: a network outage ends within it, and the
 * environments are routed again with the first leg. Afterwards the directory's last known state answers.
 */
export const INSTANCE_MEMORY_MS = 600_000;
/** Instances without legs that are remembered for one runner; a crash loop makes one with each start. The oldest goes first. */
const REMEMBERED_INSTANCES = 4;

export interface Instances {
  /** The instance that a leg of this peer belongs to. */
  of(peer: Membership, hello: MessageOf<'hello'>): InstanceEntry;
  /** Its last leg is gone. */
  remember(instance: InstanceEntry): void;
}

export const createInstances = (deps: { readonly table: RoutingTable; readonly clock: Clock }): Instances => {
  const { table, clock } = deps;

  const forget = (instance: InstanceEntry): void => {
    if (instance.legs.size === 0) table.removeInstance(instance);
  };

  return {
    of(peer, hello) {
      const runner = table.runner(peer.id, peer.organization);
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
    },
    remember(instance) {
      const { instances } = instance.runner;
      // A runner that was removed has nothing left to remember; neither has who announces nothing.
      if (instances.get(instance.id) !== instance) return;
      if (instance.environments.size === 0) return forget(instance);
      // Inserted last: the order of the map is then the order in which their legs went.
      instances.delete(instance.id);
      instances.set(instance.id, instance);
      const idle = [...instances.values()].filter((other) => other.legs.size === 0);
      for (const oldest of idle.slice(0, Math.max(0, idle.length - REMEMBERED_INSTANCES))) forget(oldest);
      instance.cancelForget?.();
      instance.cancelForget = clock.timer(INSTANCE_MEMORY_MS, () => forget(instance));
    },
  };
};
