/**
 * HTTP/1.1 connections to upstreams, each over a tunnel stream of its own, kept for the next request to the same target
 * by the same leg. undici speaks HTTP on them, one request at a time; which connection a request takes is decided here,
 * because a request has to know its leg, and whether its connection was used before.
 */
import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { LRUCache } from 'lru-cache';
import { Client } from 'undici';
import type { Leg, TunnelStream } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { GatewayLimits } from '../limits.ts';
import { ConnectionGoneError, GatewayFailure } from './upstream-errors.ts';

/**
 * Longest time that an upstream can ask a connection to be kept for (`Keep-Alive: timeout`), ms. More only fills memory
 * on both sides; less would open connections for nothing where pages are polled.
 */
const LONGEST_IDLE_MS = 30_000;
/** A connection is given up this much before the upstream closes it, ms: the request has yet to travel the tunnel. */
const IDLE_MARGIN_MS = 1_500;

export type PoolLimits = Pick<
  GatewayLimits,
  | 'upstreamPools'
  | 'connectionsPerTarget'
  | 'upstreamIdleTimeoutMs'
  | 'maxResponseHeaderBytes'
  | 'streamsPerEnvironment'
>;

export interface UpstreamConnection {
  readonly leg: Leg;
  readonly stream: TunnelStream;
  readonly client: Client;
  /** A request was answered on it before. */
  readonly reused: boolean;
  /** The target is connected: the other side has said so. */
  readonly connected: boolean;
  /** The upstream ended its direction. */
  readonly upstreamEnded: boolean;
  /** The stream is closed, and not by an end of the upstream: an answer that lasts until then is cut. */
  readonly cut: boolean;
  /** Gives the connection back after its response, for the next request if it is still good. */
  release(): void;
  destroy(error: Error): void;
}

interface TargetPool {
  readonly key: string;
  open: number;
  readonly idle: PooledConnection[];
  readonly waiting: Set<() => void>;
  /** Put out of the cache: what is given back is closed. */
  evicted: boolean;
}
interface PooledConnection extends UpstreamConnection {
  reused: boolean;
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

const remove = <T>(list: T[], entry: T): void => {
  const index = list.indexOf(entry);
  if (index >= 0) list.splice(index, 1);
};

export const createUpstreamPool = (
  deps: { onClientError: (error: Error) => void },
  limits: PoolLimits,
): UpstreamPool => {
  const connections = new Set<UpstreamConnection>();
  const streamsOfEnvironment = new Map<string, number>();
  const leftLegs = new WeakSet<Leg>();
  const pools = new LRUCache<string, TargetPool>({
    max: limits.upstreamPools,
    dispose(pool) {
      pool.evicted = true;
      for (const connection of [...pool.idle]) connection.destroy(new ConnectionGoneError('the pool was closed'));
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

  const createClient = (stream: TunnelStream): Client => {
    let handedOver = false;
    const client = new Client('http://upstream.invalid', {
      connect(_options, callback) {
        if (handedOver || stream.destroyed) {
          // undici connects anew for a request that it had not begun to write when the stream closed.
          const cause = stream.errored;
          const gone = new ConnectionGoneError('the connection was closed before the request was sent', { cause });
          process.nextTick(() => callback(handedOver ? gone : (cause ?? gone), null));
          return;
        }
        handedOver = true;
        // undici hangs when it is called back synchronously. It takes any duplex stream; its types name net.Socket.
        process.nextTick(() => callback(null, stream as Duplex as Socket));
      },
      allowH2: false,
      pipelining: 1,
      maxHeaderSize: limits.maxResponseHeaderBytes,
      keepAliveTimeout: limits.upstreamIdleTimeoutMs,
      keepAliveMaxTimeout: Math.max(LONGEST_IDLE_MS, limits.upstreamIdleTimeoutMs),
      keepAliveTimeoutThreshold: IDLE_MARGIN_MS,
      // The forwarder has its own deadlines: undici's are put off by each interim response.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    // An error in a handler; undici's types do not know the event.
    (client as EventEmitter).on('error', deps.onClientError);
    return client;
  };

  const create = (leg: Leg, target: Target, pool: TargetPool | undefined): PooledConnection => {
    const { environmentId } = target;
    if ((streamsOfEnvironment.get(environmentId) ?? 0) >= limits.streamsPerEnvironment) {
      throw new GatewayFailure('too_many_requests', 'the environment has as many tunnel streams as it may have');
    }
    const stream = leg.openStream(target, { signal: new AbortController().signal });
    countStream(environmentId, 1);
    if (pool) pool.open++;
    let upstreamEnded = false;
    let closed = false;
    let connected = false;
    stream.connected.then(
      () => (connected = true),
      // The stream is destroyed with the same error.
      () => undefined,
    );
    const connection: PooledConnection = {
      leg,
      stream,
      client: createClient(stream),
      reused: false,
      get connected() {
        return connected;
      },
      get upstreamEnded() {
        return upstreamEnded;
      },
      get cut() {
        return closed && !upstreamEnded;
      },
      release() {
        // undici closes the stream itself, after the response was handed over, when it cannot be used again.
        queueMicrotask(() => {
          if (!pool || closed || stream.destroyed) return;
          if (pool.evicted || !leg.isOpen || leftLegs.has(leg)) return void stream.destroy();
          connection.reused = true;
          pool.idle.push(connection);
          wakeOne(pool);
        });
      },
      destroy: (error) => void stream.destroy(error),
    };
    connections.add(connection);
    stream.once('end', () => (upstreamEnded = true));
    // Before undici's own listener, which takes any close for the end of an answer without a length.
    stream.once('close', () => {
      closed = true;
      connections.delete(connection);
      countStream(environmentId, -1);
      if (!pool) return;
      pool.open--;
      remove(pool.idle, connection);
      if (pool.open === 0 && pool.waiting.size === 0 && !pool.evicted) pools.delete(pool.key);
      else wakeOne(pool);
    });
    return connection;
  };

  return {
    acquire(leg, target, { fresh }) {
      const pool = poolFor(keyOf(leg, target));
      while (!fresh && pool.idle.length > 0) {
        const connection = pool.idle.pop()!;
        if (!connection.stream.destroyed && !connection.upstreamEnded) return connection;
      }
      if (pool.open < limits.connectionsPerTarget) return create(leg, target, pool);
      // A request that must not take a kept connection takes the place of one.
      const idle = pool.idle.pop();
      if (!idle) return undefined;
      idle.destroy(new ConnectionGoneError('the place was needed'));
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
        for (const connection of pool.idle.filter((each) => each.leg === leg)) {
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
      pools.clear();
      for (const connection of [...connections]) connection.destroy(error);
    },
  };
};
