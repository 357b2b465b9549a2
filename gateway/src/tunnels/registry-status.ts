/** What operators see of the registry. */
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import { usableLegs, type LegEntry, type RoutingTable } from './routing-table.ts';

export interface LegInfo {
  readonly legId: string;
  readonly runnerId: string;
  readonly organization: string | undefined;
  readonly instance: string;
  readonly agent: string;
  readonly transport: Leg['transport'];
  readonly remoteAddress: string;
  /** Somebody between runner and gateway inspects TLS. */
  readonly inspected: boolean;
  readonly upForMs: number;
  readonly rttMs: number | undefined;
  readonly openStreams: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly state: 'standby' | 'up' | 'left' | 'draining' | 'dead_path';
}

export interface EnvironmentInfo {
  readonly environmentId: string;
  readonly runnerId: string;
  readonly ports: readonly { readonly port: number; readonly protocol: string; readonly admission: string }[];
  /** Legs that take new streams for it. */
  readonly legs: number;
}

const stateOf = (entry: LegEntry): LegInfo['state'] => {
  if (entry.deadPath) return 'dead_path';
  if (entry.standby) return 'standby';
  if (entry.left) return 'left';
  return entry.instance.draining ? 'draining' : 'up';
};

export const describeLeg = (entry: LegEntry, nowMs: number): LegInfo => {
  const { leg, instance } = entry;
  const { rttMs, openStreams, bytesSent, bytesReceived } = leg.stats();
  return {
    legId: leg.id,
    runnerId: instance.runner.id,
    organization: instance.runner.organization,
    instance: instance.id,
    agent: leg.greeting.type === 'hello' ? leg.greeting.agent : '',
    transport: leg.transport,
    remoteAddress: leg.remoteAddress,
    inspected: leg.inspected,
    upForMs: Math.round(nowMs - entry.addedAt),
    rttMs,
    openStreams,
    bytesSent,
    bytesReceived,
    state: stateOf(entry),
  };
};

export const describeEnvironments = (table: RoutingTable): EnvironmentInfo[] =>
  [...table.environmentIds()].flatMap((environmentId) => {
    const announcers = table.announcers(environmentId);
    const [instance] = announcers;
    const environment = instance?.environments.get(environmentId);
    if (!instance || !environment) return [];
    return {
      environmentId,
      runnerId: instance.runner.id,
      ports: environment.ports.map(({ port, protocol, admission }) => ({ port, protocol, admission })),
      legs: announcers.flatMap((each) => usableLegs(each, false)).length,
    };
  });
