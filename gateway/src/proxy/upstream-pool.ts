/**
 * HTTP/1.1 connections to upstreams, kept for the next request to the same target by the same leg. Which connection a
 * request takes is decided here, because a request has to know its leg, and whether its connection was used before.
 */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { GatewayLimits } from '../limits.ts';
import { createUpstreamConnection, type UpstreamConnection } from './upstream-connection.ts';
import { ConnectionGoneError, GatewayFailure } from './upstream-errors.ts';

/**
 * Longest time that an upstream can ask a connection to be kept for (`Keep-Alive: timeout`), ms. More only fills memory
 * on both sides; less would open connections for nothing where pages are polled.
 */
const LONGEST_IDLE_MS = 30_000;
/** A connection is given up this much before the upstream closes it, ms: the request has yet to travel the tunnel. */
const IDLE_MARGIN_MS = 1_500;
/** Between looks for connections that were kept too long, ms: by how much they may outstay. */
const SWEEP_INTERVAL_MS = 500;

export type PoolLimits = Pick<
  GatewayLimits,
  | 'upstreamPools'
  | 'connectionsPerTarget'
  | 'upstreamIdleTimeoutMs'
  | 'maxResponseHeaderBytes'
  | 'streamsPerEnvironment'
>;

/** A connection without a request. */
interface Kept {
  readonly connection: UpstreamConnection;
  /** Monotonic ms. */
  readonly until: number;
}

interface TargetPool {
  readonly key: string;
  open: number;
  /** The one that was used last is last, and taken first. */
  readonly idle: Kept[];
  readonly waiting: Set<() => void>;
  /** Put out of the cache: what is given back is closed. */
  evicted: boolean;
}

export interface UpstreamPool {
  /** A kept connection, else a new one; undefined when the target has as many as it may have. */
  acquire(leg: Leg, target: Target, options: { fresh: boolean }): UpstreamConnection | undefined;
  /** Calls back once when a connection of this target may have become free. Returns the function that stops waiting. */
  onceFree(leg: Leg, target: Target, callback: () => void): () => void;
  /** Keeps no connection of this leg any more: its runner goes away, or has another leg. Those in use go on. */
  leave(leg: Leg): void;
  /** A connection beside the pool, for an upgrade. */
  open(leg: Leg, target: Target): UpstreamConnection;
  /** Connections to any target. */
  readonly connections: number;
  readonly idleConnections: number;
  close(error: Error): void;
}

const keyOf = (leg: Leg, target: Target): string =>
  `${leg.id} ${target.kind} ${target.environmentId} ${target.port}${target.tls ? 's' : ''}`;

export const createUpstreamPool = (deps: { readonly clock: Clock }, limits: PoolLimits): UpstreamPool => {
  const { clock } = deps;
  const connections = new Set<UpstreamConnection>();
  const streamsOfEnvironment = new Map<string, number>();
  const leftLegs = new WeakSet<Leg>();
  let cancelSweep: (() => void) | undefined;
  const pools = new LRUCache<string, TargetPool>({
    max: limits.upstreamPools,
    dispose(pool) {
      pool.evicted = true;
      for (const { connection } of [...pool.idle]) connection.destroy(new ConnectionGoneError('the pool was closed'));
    },
  });

  const countStream = (environmentId: string, change: 1 | -1): void => {
    const count = (streamsOfEnvironment.get(environmentId) ?? 0) + change;
    if (count === 0) streamsOfEnvironment.delete(environmentId);
    else streamsOfEnvironment.set(environmentId, count);
  };

  const poolFor = (key: string): TargetPool => {
    let pool = pools.get(key);
    if (!pool) {
      pool = { key, open: 0, idle: [], waiting: new Set(), evicted: false };
      pools.set(key, pool);
    }
    return pool;
  };

  const wakeOne = (pool: TargetPool): void => {
    const [next] = pool.waiting;
    if (!next) return;
    pool.waiting.delete(next);
    next();
  };

  /** ms that a connection is kept after its response; 0 when its upstream keeps it no longer. */
  const keptMs = (keepAliveSeconds: number | undefined): number =>
    keepAliveSeconds === undefined
      ? limits.upstreamIdleTimeoutMs
      : Math.min(keepAliveSeconds * 1_000 - IDLE_MARGIN_MS, LONGEST_IDLE_MS);

  /** One timer for all: a timer for each request would cost more than to look at those that are idle. */
  const sweep = (): void => {
    cancelSweep = undefined;
    const now = clock.monotonic();
    let left = 0;
    for (const pool of pools.values()) {
      for (const { connection } of pool.idle.filter(({ until }) => until <= now)) {
        connection.destroy(new ConnectionGoneError('nobody used the connection'));
      }
      left += pool.idle.length;
    }
    if (left > 0) armSweep();
  };
  const armSweep = (): void => {
    cancelSweep ??= clock.timer(SWEEP_INTERVAL_MS, sweep);
  };

  const keep = (pool: TargetPool, connection: UpstreamConnection): void => {
    const idleMs = keptMs(connection.keepAliveSeconds());
    const { leg } = connection;
    if (pool.evicted || !leg.isOpen || leftLegs.has(leg) || idleMs <= 0) {
      return connection.destroy(new ConnectionGoneError('the connection is not kept'));
    }
    pool.idle.push({ connection, until: clock.monotonic() + idleMs });
    armSweep();
    wakeOne(pool);
  };

  const create = (leg: Leg, target: Target, pool: TargetPool | undefined): UpstreamConnection => {
    const { environmentId } = target;
    if ((streamsOfEnvironment.get(environmentId) ?? 0) >= limits.streamsPerEnvironment) {
      throw new GatewayFailure('too_many_requests', 'the environment has as many tunnel streams as it may have');
    }
    const stream = leg.openStream(target, { signal: new AbortController().signal });
    countStream(environmentId, 1);
    if (pool) pool.open++;
    const made = createUpstreamConnection(
      leg,
      stream,
      {
        onFree(connection) {
          if (pool) keep(pool, connection);
          else connection.destroy(new ConnectionGoneError('the connection is not kept'));
        },
        onClose(connection) {
          connections.delete(connection);
          countStream(environmentId, -1);
          if (!pool) return;
          pool.open--;
          const index = pool.idle.findIndex((kept) => kept.connection === connection);
          if (index >= 0) pool.idle.splice(index, 1);
          if (pool.open === 0 && pool.waiting.size === 0 && !pool.evicted) pools.delete(pool.key);
          else wakeOne(pool);
        },
      },
      limits,
    );
    connections.add(made);
    return made;
  };

  return {
    acquire(leg, target, { fresh }) {
      const pool = poolFor(keyOf(leg, target));
      while (!fresh && pool.idle.length > 0) {
        const { connection, until } = pool.idle.pop()!;
        if (until > clock.monotonic() && !connection.isGone()) return connection;
        connection.destroy(new ConnectionGoneError('the connection was kept too long'));
      }
      if (pool.open < limits.connectionsPerTarget) return create(leg, target, pool);
      // A request that must not take a kept connection takes the place of one.
      const idle = pool.idle.pop();
      if (!idle) return undefined;
      idle.connection.destroy(new ConnectionGoneError('the place was needed'));
      return create(leg, target, pool);
    },
    onceFree(leg, target, callback) {
      const pool = poolFor(keyOf(leg, target));
      pool.waiting.add(callback);
      return () => void pool.waiting.delete(callback);
    },
    leave(leg) {
      leftLegs.add(leg);
      for (const pool of pools.values()) {
        for (const { connection } of pool.idle.filter((kept) => kept.connection.leg === leg)) {
          connection.destroy(new ConnectionGoneError('the leg is being left'));
        }
      }
    },
    open: (leg, target) => create(leg, target, undefined),
    get connections() {
      return connections.size;
    },
    get idleConnections() {
      let count = 0;
      for (const pool of pools.values()) count += pool.idle.length;
      return count;
    },
    close(error) {
      cancelSweep?.();
      pools.clear();
      for (const connection of [...connections]) connection.destroy(error);
    },
  };
};
