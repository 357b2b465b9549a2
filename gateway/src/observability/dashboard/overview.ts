/** What the dashboard is told, made from the registry and the directory. */
import type { EnvironmentBinding, Runner } from '../../directory/directory.ts';
import type { EnvironmentInfo, LegInfo } from '../../tunnels/registry-status.ts';

/** Rows of one answer at most; the page asks for a hundred more at a time. The rest is found with the filter. */
const MAX_ROWS = 1_000;
/** Characters of a filter that count. */
const MAX_FILTER_CHARACTERS = 200;
/** Environments in the row of a runner; its page has all. */
const ENVIRONMENTS_IN_ROW = 3;

export type RunnerState = 'online' | 'degraded' | 'offline' | 'not_joined' | 'revoked';

export interface RunnerRow {
  readonly id: string;
  readonly name: string;
  readonly organization: string | undefined;
  readonly state: RunnerState;
  readonly legs: readonly Pick<LegInfo, 'transport' | 'state' | 'rttMs' | 'inspected'>[];
  readonly environments: number;
  readonly firstEnvironments: readonly { readonly id: string; readonly ports: readonly number[] }[];
  readonly openStreams: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Those with trouble first: an operator looks for them. */
const ORDER: readonly RunnerState[] = ['degraded', 'online', 'offline', 'not_joined', 'revoked'];

export const stateOf = (runner: Runner, legs: readonly LegInfo[]): RunnerState => {
  if (runner.revokedAt !== undefined) return 'revoked';
  if (legs.some(({ state }) => state === 'up')) {
    return legs.some(({ state }) => state === 'dead_path') ? 'degraded' : 'online';
  }
  if (legs.length > 0) return 'degraded';
  return runner.joinedAt === undefined ? 'not_joined' : 'offline';
};

const sum = (legs: readonly LegInfo[], field: 'openStreams' | 'bytesSent' | 'bytesReceived'): number =>
  legs.reduce((total, leg) => total + leg[field], 0);

const fits = (filter: string, runner: Runner, legs: readonly LegInfo[], environments: readonly EnvironmentInfo[]) => {
  const has = (text: string | undefined): boolean => text?.toLowerCase().includes(filter) ?? false;
  return (
    [runner.id, runner.name, runner.organization].some(has) ||
    legs.some(({ remoteAddress, transport, agent }) => [remoteAddress, transport, agent].some(has)) ||
    environments.some(({ environmentId }) => has(environmentId))
  );
};

export interface Overview {
  readonly counts: Readonly<Record<RunnerState, number>>;
  readonly environments: number;
  readonly legs: Readonly<Record<string, number>>;
  /** Runners that fit the filter. */
  readonly found: number;
  readonly rows: readonly RunnerRow[];
}

export const buildOverview = (
  of: {
    readonly runners: Iterable<Runner>;
    readonly legs: readonly LegInfo[];
    readonly environments: readonly EnvironmentInfo[];
  },
  query: { readonly filter: string; readonly state: string; readonly limit: number },
): Overview => {
  const legsOf = Map.groupBy(of.legs, ({ runnerId }) => runnerId);
  const environmentsOf = Map.groupBy(of.environments, ({ runnerId }) => runnerId);
  const filter = query.filter.trim().toLowerCase().slice(0, MAX_FILTER_CHARACTERS);
  const counts = { online: 0, degraded: 0, offline: 0, not_joined: 0, revoked: 0 };
  const found: { runner: Runner; state: RunnerState }[] = [];
  for (const runner of of.runners) {
    const legs = legsOf.get(runner.id) ?? [];
    const state = stateOf(runner, legs);
    counts[state] += 1;
    if (query.state !== '' && query.state !== state) continue;
    if (filter === '' || fits(filter, runner, legs, environmentsOf.get(runner.id) ?? [])) found.push({ runner, state });
  }
  found.sort(
    (a, b) =>
      ORDER.indexOf(a.state) - ORDER.indexOf(b.state) ||
      (a.runner.name < b.runner.name ? -1 : a.runner.name > b.runner.name ? 1 : a.runner.id < b.runner.id ? -1 : 1),
  );
  const limit = Number.isInteger(query.limit) ? Math.min(Math.max(1, query.limit), MAX_ROWS) : MAX_ROWS;
  const byTransport: Record<string, number> = {};
  for (const { transport } of of.legs) byTransport[transport] = (byTransport[transport] ?? 0) + 1;
  return {
    counts,
    environments: of.environments.length,
    legs: byTransport,
    found: found.length,
    rows: found.slice(0, limit).map(({ runner, state }) => {
      const legs = legsOf.get(runner.id) ?? [];
      const environments = environmentsOf.get(runner.id) ?? [];
      return {
        id: runner.id,
        name: runner.name,
        organization: runner.organization,
        state,
        legs: legs.map(({ transport, state: legState, rttMs, inspected }) => ({
          transport,
          state: legState,
          rttMs,
          inspected,
        })),
        environments: environments.length,
        firstEnvironments: environments.slice(0, ENVIRONMENTS_IN_ROW).map(({ environmentId, ports }) => ({
          id: environmentId,
          ports: ports.map(({ port }) => port),
        })),
        openStreams: sum(legs, 'openStreams'),
        bytesSent: sum(legs, 'bytesSent'),
        bytesReceived: sum(legs, 'bytesReceived'),
      };
    }),
  };
};

/** Environments on a runner's page: those that are announced here, then what is known of the others. */
export const describeBindings = (
  live: readonly EnvironmentInfo[],
  bindings: readonly EnvironmentBinding[],
  isBlocked: (environmentId: string) => boolean,
) => {
  const here = new Map(live.map((environment) => [environment.environmentId, environment]));
  const known = bindings.filter(({ id, releasedAt }) => releasedAt === undefined && !here.has(id));
  return [
    ...live.map(({ environmentId, ports, legs }) => ({ id: environmentId, ports, online: legs > 0 })),
    ...known.map(({ id, lastKnown }) => ({
      id,
      ports: (lastKnown?.ports ?? []).map(({ port, protocol, admission }) => ({ port, protocol, admission })),
      online: false,
    })),
  ].map((environment) => ({ ...environment, blocked: isBlocked(environment.id) }));
};
