/** Getting a connection to an upstream, with the waits that may come before it is there. */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { Exchange } from './exchange.ts';
import { GatewayFailure } from './upstream-errors.ts';
import type { UpstreamConnection } from './upstream-connection.ts';
import type { UpstreamPool } from './upstream-pool.ts';

export interface WaitOptions {
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** Whom it is waited for. */
  readonly client: Pick<Exchange, 'gone' | 'onGone' | 'signal'>;
}

/** Settles with what `begin` settles with; rejects after `timeoutMs`, or when the client is gone. */
const within = (
  { clock, timeoutMs, client }: WaitOptions,
  onTimeout: () => GatewayFailure,
  begin: (resolve: () => void, reject: (error: Error) => void) => void,
): Promise<void> =>
  new Promise((resolve, reject) => {
    if (client.gone) return reject(client.signal.reason as Error);
    const settle = (action: () => void): void => {
      cancel();
      stopWatching();
      action();
    };
    const stopWatching = client.onGone((reason) => settle(() => reject(reason)));
    const cancel = clock.timer(timeoutMs, () => settle(() => reject(onTimeout())));
    begin(
      () => settle(resolve),
      (error) => settle(() => reject(error)),
    );
  });

interface Wanted {
  readonly leg: Leg;
  readonly target: Target;
  readonly fresh: boolean;
}

const connectionLater = async (pool: UpstreamPool, to: Wanted, options: WaitOptions): Promise<UpstreamConnection> => {
  for (;;) {
    let stopWaiting: (() => void) | undefined;
    try {
      await within(
        options,
        () => new GatewayFailure('overloaded', 'no connection to the target became free in time'),
        (resolve) => {
          stopWaiting = pool.onceFree(to.leg, to.target, resolve);
        },
      );
    } finally {
      stopWaiting?.();
    }
    const connection = pool.acquire(to.leg, to.target, to);
    if (connection) return connection;
  }
};

/** A kept or new connection; a promise where the target has as many as it may have. */
export const acquireConnection = (
  pool: UpstreamPool,
  to: Wanted,
  options: () => WaitOptions,
): UpstreamConnection | Promise<UpstreamConnection> =>
  pool.acquire(to.leg, to.target, to) ?? connectionLater(pool, to, options());

/** Resolves when the target is connected. Otherwise the connection is closed when this rejects. */
export const waitUntilConnected = async (connection: UpstreamConnection, options: WaitOptions): Promise<void> => {
  if (connection.connected) return;
  try {
    await within(
      options,
      () => new GatewayFailure('upstream_connect_timeout', 'the tunnel stream was not connected in time'),
      (resolve, reject) => void connection.stream.connected.then(resolve, reject),
    );
  } catch (error) {
    connection.destroy(error as Error);
    throw error;
  }
};
