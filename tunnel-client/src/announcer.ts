/**
 * Tells gateways which environments there are: everything on each new leg, then what changes, on every leg. Revisions
 * count up for the whole process, so that a gateway with two legs of it applies a change once.
 */
import type { Clock } from '../../shared/src/clock.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import {
  type Environment,
  type EnvironmentResult,
  MAX_ENVIRONMENTS_PART_BYTES,
  MAX_ENVIRONMENTS_PARTS,
  type MessageOf,
} from '../../shared/src/protocol/messages.ts';

/** What one gateway said last of one environment. */
export interface EnvironmentVerdict {
  readonly gatewayId: string;
  readonly result: EnvironmentResult;
}

export interface AnnouncerDeps {
  readonly clock: Clock;
  /** A gateway's verdict is new or differs from its last one. */
  readonly onResult: (verdict: EnvironmentVerdict) => void;
}

/**
 * A refused environment is announced again after this, ms: whoever holds the name may have released it. What an operator
 * took away is left alone until it is set anew.
 */
export const CLAIM_RETRY_MS = 300_000;
/** The same where only the directory was away, ms. */
const UNAVAILABLE_RETRY_MS = 10_000;

export interface Announcer {
  set(environment: Environment): void;
  delete(id: string): void;
  replaceAll(environments: readonly Environment[]): void;
  get(id: string): Environment | undefined;
  list(): readonly Environment[];
  verdicts(id: string): readonly EnvironmentVerdict[];
  addLeg(leg: Leg, gatewayId: string): void;
  removeLeg(leg: Leg): void;
  onResults(leg: Leg, message: MessageOf<'environmentsResult'>): void;
  close(): void;
}

type Part = Pick<MessageOf<'environments'>, 'set' | 'delete'>;

/** Cuts an announcement into parts of at most {@link MAX_ENVIRONMENTS_PART_BYTES}; always at least one. */
const cutIntoParts = (set: readonly Environment[], remove: readonly string[]): Part[] => {
  const parts: Part[] = [{ set: [], delete: [] }];
  let size = 0;
  const roomFor = (bytes: number): Part => {
    const last = parts.at(-1) as Part;
    if (size === 0 || size + bytes <= MAX_ENVIRONMENTS_PART_BYTES) {
      size += bytes;
      return last;
    }
    size = bytes;
    const next: Part = { set: [], delete: [] };
    parts.push(next);
    return next;
  };
  // One more for the comma.
  const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value)) + 1;
  for (const id of remove) roomFor(bytesOf(id)).delete.push(id);
  for (const environment of set) roomFor(bytesOf(environment)).set.push(environment);
  return parts;
};

export const createAnnouncer = (deps: AnnouncerDeps): Announcer => {
  const { clock } = deps;
  const environments = new Map<string, Environment>();
  const legs = new Map<Leg, string>();
  /** environment id → gateway id → last result. */
  const verdicts = new Map<string, Map<string, EnvironmentResult>>();
  /** Ids that an operator has released. */
  const released = new Set<string>();
  let revision = 0;
  let retry: { readonly at: number; readonly cancel: () => void } | undefined;

  const send = (
    targets: Iterable<Leg>,
    full: boolean,
    set: readonly Environment[],
    remove: readonly string[],
  ): void => {
    revision += 1;
    const parts = cutIntoParts(set, remove);
    if (parts.length > MAX_ENVIRONMENTS_PARTS) throw new RangeError('the announcement is too large');
    for (const leg of targets) {
      parts.forEach((part, index) => {
        leg.send({ type: 'environments', revision, part: index, last: index === parts.length - 1, full, ...part });
      });
    }
  };

  const change = (set: readonly Environment[], remove: readonly string[]): void => {
    for (const id of remove) {
      environments.delete(id);
      verdicts.delete(id);
      released.delete(id);
    }
    for (const environment of set) {
      environments.set(environment.id, environment);
      released.delete(environment.id);
    }
    if (legs.size > 0 && set.length + remove.length > 0) send(legs.keys(), false, set, remove);
  };

  const isRefused = (id: string): boolean => [...(verdicts.get(id)?.values() ?? [])].some(({ accepted }) => !accepted);

  const announced = (): Environment[] => [...environments.values()].filter(({ id }) => !released.has(id));

  const announceRefused = (): void => {
    retry = undefined;
    const refused = announced().filter(({ id }) => isRefused(id));
    if (refused.length > 0 && legs.size > 0) send(legs.keys(), false, refused, []);
  };

  const retryAfter = (delayMs: number): void => {
    const at = clock.monotonic() + delayMs;
    if (retry && retry.at <= at) return;
    retry?.cancel();
    retry = { at, cancel: clock.timer(delayMs, announceRefused) };
  };

  return {
    set(environment) {
      const known = environments.get(environment.id);
      if (released.has(environment.id) || JSON.stringify(known) !== JSON.stringify(environment))
        change([environment], []);
    },
    delete(id) {
      if (environments.has(id)) change([], [id]);
    },
    replaceAll(next) {
      const wanted = new Map(next.map((environment) => [environment.id, environment]));
      const removed = [...environments.keys()].filter((id) => !wanted.has(id));
      const changed = [...wanted.values()].filter(
        (environment) => JSON.stringify(environments.get(environment.id)) !== JSON.stringify(environment),
      );
      change(changed, removed);
    },
    get: (id) => environments.get(id),
    list: () => [...environments.values()],
    verdicts: (id) => [...(verdicts.get(id) ?? [])].map(([gatewayId, result]) => ({ gatewayId, result })),
    addLeg(leg, gatewayId) {
      legs.set(leg, gatewayId);
      send([leg], true, announced(), []);
    },
    removeLeg(leg) {
      const gatewayId = legs.get(leg);
      legs.delete(leg);
      if (gatewayId === undefined || [...legs.values()].includes(gatewayId)) return;
      // What a gateway said that is not there any more says nothing of now.
      for (const byGateway of verdicts.values()) byGateway.delete(gatewayId);
    },
    onResults(leg, message) {
      const gatewayId = legs.get(leg);
      if (gatewayId === undefined) return;
      for (const result of message.results) {
        if (!environments.has(result.id)) continue;
        const byGateway = verdicts.get(result.id) ?? new Map<string, EnvironmentResult>();
        verdicts.set(result.id, byGateway);
        if (result.code === 'released') released.add(result.id);
        else if (!result.accepted) retryAfter(result.code === 'unavailable' ? UNAVAILABLE_RETRY_MS : CLAIM_RETRY_MS);
        const isNew = JSON.stringify(byGateway.get(gatewayId)) !== JSON.stringify(result);
        byGateway.set(gatewayId, result);
        if (isNew) deps.onResult({ gatewayId, result });
      }
    },
    close() {
      retry?.cancel();
      legs.clear();
    },
  };
};
