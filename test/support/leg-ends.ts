/** Both ends of a leg over a memory connection that calls itself what the test likes; when it is heard is the test's. */
import { systemClock } from '../../shared/src/clock.ts';
import { acceptLeg, dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type {
  Connection,
  ConnectionStats,
  TransportName,
  TransportStream,
} from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createTestCluster } from './identities.ts';
import { never } from './legs.ts';

export interface LegEnds {
  /** Not attached. */
  readonly runnerLeg: Leg;
  readonly gatewayLeg: Leg;
  /** Something arrives at the runner. */
  hear(): void;
  /** The gateway reads nothing any more, and then all that has come. Its transport goes on. */
  hang(): void;
  wakeUp(): void;
  /** What the runner's end tells of its path. */
  readonly path: { rttMs: number | undefined; packets: { sent: number; lost: number } | undefined };
  close(): Promise<void>;
}

/** The connection of a program that may stop reading. */
const readingWhile = (connection: Connection, mayRead: () => Promise<void>): Connection => {
  const held = (stream: TransportStream): TransportStream => ({
    ...stream,
    async read() {
      const bytes = await stream.read();
      await mayRead();
      return bytes;
    },
  });
  return {
    ...connection,
    openStream: async (options) => held(await connection.openStream(options)),
    acceptStream: async (options) => held(await connection.acceptStream(options)),
  };
};

export const makeLegEnds = async (gatewayId: string, transport: TransportName = 'memory'): Promise<LegEnds> => {
  const cluster = createTestCluster();
  const [runner, gateway] = [await cluster.runner(), await cluster.gateway(gatewayId)];
  const pair = memoryConnectionPair({ diallerKey: runner.key.publicKey, acceptorKey: gateway.key.publicKey });
  let heard = 0;
  let hung: PromiseWithResolvers<void> | undefined;
  const path: LegEnds['path'] = { rttMs: undefined, packets: undefined };
  const stats = (): ConnectionStats => {
    const { rttMs, packets } = path;
    return { ...pair.dialler.stats(), received: heard, rttMs, ...(packets ? { packets: { ...packets } } : {}) };
  };
  const dialler = { ...pair.dialler, transport, stats };
  const deps = { clock: systemClock };
  const [gatewayLeg, runnerLeg] = await Promise.all([
    acceptLeg(
      readingWhile(pair.acceptor, () => hung?.promise ?? Promise.resolve()),
      {
        ...deps,
        membership: () => gateway.membership,
        verify: (token, peerKey) => gateway.verify(token, peerKey),
        admit: () => undefined,
        welcome: () => ({ gatewayId, gateways: [] }),
      },
      { signal: never },
    ),
    dialLeg(
      dialler,
      {
        ...deps,
        membership: () => runner.membership,
        verify: (token, peerKey) => runner.verify(token, peerKey),
        hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
      },
      { signal: never },
    ),
  ]);
  gatewayLeg.attach({});
  return {
    runnerLeg,
    gatewayLeg,
    path,
    hear: () => (heard += 1),
    hang: () => (hung ??= Promise.withResolvers()),
    wakeUp() {
      hung?.resolve();
      hung = undefined;
    },
    async close() {
      runnerLeg.abort('closed');
      gatewayLeg.abort('closed');
      await Promise.all([runnerLeg.closed, gatewayLeg.closed]);
    },
  };
};
