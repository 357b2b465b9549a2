/** A pair of legs over a pair of connections, after a real handshake. */
import type { Readable } from 'node:stream';
import { systemClock } from '../../shared/src/clock.ts';
import { sign, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { acceptLeg, dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { IncomingTunnelStream, Leg, LegHandlers } from '../../shared/src/protocol/leg.ts';
import type { LegLimits } from '../../shared/src/protocol/limits.ts';
import type { Target } from '../../shared/src/protocol/target.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { createTestCluster } from './identities.ts';

export interface ConnectionPair {
  readonly dialler: Connection;
  readonly acceptor: Connection;
  close(): Promise<void>;
}
/** Makes two connected ends whose transport proves these keys. */
export type MakePair = (keys: { dialler: IdentityKey; acceptor: IdentityKey }) => Promise<ConnectionPair>;

export const target = (over: Partial<Target> = {}): Target => ({
  kind: 'port',
  environmentId: 'demo',
  port: 3000,
  tls: false,
  hops: 0,
  requestId: 'request-1',
  traceParent: '',
  ...over,
});

export const never = new AbortController().signal;

export interface LegPair {
  readonly gateway: Leg;
  readonly runner: Leg;
  readonly pair: ConnectionPair;
  close(): Promise<void>;
}

export const makeLegs = async (
  makePair: MakePair,
  options: {
    gatewayHandlers?: LegHandlers;
    runnerHandlers?: LegHandlers;
    limits?: Partial<LegLimits>;
    wrapDialler?: (connection: Connection) => Connection;
  } = {},
): Promise<LegPair> => {
  const cluster = createTestCluster();
  const runnerParty = await cluster.runner();
  const gatewayParty = await cluster.gateway();
  const pair = await makePair({ dialler: runnerParty.key, acceptor: gatewayParty.key });
  const common = { clock: systemClock, limits: options.limits ?? {} };
  const [gateway, runner] = await Promise.all([
    acceptLeg(
      pair.acceptor,
      {
        ...common,
        membership: () => gatewayParty.membership,
        sign: (message) => sign(gatewayParty.key, message),
        verify: (token, peerKey) => gatewayParty.verify(token, peerKey),
        admit: () => {},
        welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
      },
      { signal: never },
    ).then((leg) => {
      leg.attach(options.gatewayHandlers ?? {});
      return leg;
    }),
    dialLeg(
      options.wrapDialler?.(pair.dialler) ?? pair.dialler,
      {
        ...common,
        membership: () => runnerParty.membership,
        sign: (message) => sign(runnerParty.key, message),
        verify: (token, peerKey) => runnerParty.verify(token, peerKey),
        hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
      },
      { signal: never },
    ).then((leg) => {
      leg.attach(options.runnerHandlers ?? {});
      return leg;
    }),
  ]);
  return {
    gateway,
    runner,
    pair,
    async close() {
      gateway.abort('closed');
      runner.abort('closed');
      await Promise.all([gateway.closed, runner.closed]);
      await pair.close();
    },
  };
};

/** Accepts every stream and hands it to `serve`. */
export const serving = (serve: (stream: IncomingTunnelStream) => void): LegHandlers => ({
  onStream(stream) {
    stream.accept();
    serve(stream);
  },
});

/** Accepts every stream and sends back what comes. */
export const echoing: LegHandlers = serving((stream) => stream.pipe(stream));

/** Everything that is read until the end; the writing direction stays as it is. */
export const readAll = async (stream: Readable): Promise<Buffer> => {
  const chunks: Buffer[] = [];
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
};

/** Waits until `stream` is closed, with or without an error, and gives the error. */
export const closing = async (stream: Readable): Promise<Error | null> => {
  if (!stream.closed) await new Promise((resolve) => stream.once('close', resolve));
  return stream.errored;
};

/** What `promise` rejects with; fails when it does not. */
export const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => {
      throw new Error('it did not reject');
    },
    (reason: unknown) => reason,
  );
