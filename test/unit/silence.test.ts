/** Liveness of legs over TCP, with a clock of the test. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Clock } from '../../shared/src/clock.ts';
import { createSigner, sign } from '../../shared/src/identity/keys.ts';
import { acceptLeg, dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { LEG_LIMITS } from '../../shared/src/protocol/limits.ts';
import { watchSilence } from '../../shared/src/protocol/silence.ts';
import type { Connection, TransportName } from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createTestCluster } from '../support/identities.ts';
import { never } from '../support/legs.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';

describe('silence', () => {
  const start = () => {
    const clock = createManualClock();
    const said: string[] = [];
    let received = 0;
    const stop = watchSilence(
      {
        clock,
        connection: { stats: () => ({ rttMs: undefined, received, bytesSent: 0, bytesReceived: 0 }) },
        ping: (id) => said.push(`ping ${id}`),
        onDead: () => said.push('dead'),
      },
      LEG_LIMITS,
    );
    const pass = async (seconds: number): Promise<void> => {
      for (let second = 0; second < seconds; second++) await clock.advance(1_000);
    };
    return { said, pass, stop, hear: () => received++ };
  };

  it('is pinged after 2 s, once, and is the end after 5 s', async () => {
    const { said, pass } = start();
    await pass(1);
    assert.deepEqual(said, []);
    await pass(1);
    assert.deepEqual(said, ['ping 1']);
    await pass(2);
    assert.deepEqual(said, ['ping 1']);
    await pass(1);
    assert.deepEqual(said, ['ping 1', 'dead']);
    await pass(60);
    assert.deepEqual(said, ['ping 1', 'dead']);
  });

  it('is over when anything comes', async () => {
    const { said, pass, hear } = start();
    for (let round = 1; round <= 3; round++) {
      await pass(4);
      hear();
      await pass(1);
    }
    assert.deepEqual(said, ['ping 1', 'ping 2', 'ping 3']);
  });

  it('is not what a process saw that stood still: a timer that is hours late is one look', () => {
    const said: string[] = [];
    let fire = (): void => {};
    let now = 0;
    const clock: Clock = {
      now: () => now,
      monotonic: () => now,
      timer(_delayMs, callback) {
        fire = callback;
        return () => {};
      },
    };
    const stats = { rttMs: undefined, received: 7, bytesSent: 0, bytesReceived: 0 };
    watchSilence(
      { clock, connection: { stats: () => stats }, ping: () => said.push('ping'), onDead: () => said.push('dead') },
      LEG_LIMITS,
    );
    for (let look = 1; look <= 4; look++) {
      now += look === 3 ? 7_200_000 : 1_000;
      fire();
    }
    assert.deepEqual(said, ['ping']);
  });

  it('is of no interest any more once it was stopped', async () => {
    const { said, pass, stop } = start();
    stop();
    await pass(60);
    assert.deepEqual(said, []);
  });
});

describe('a leg', () => {
  /** Legs over memory that is called something else; `mute` stops what the runner would hear. */
  const connect = async (
    transport: TransportName,
    clock: Clock,
  ): Promise<{ runner: Leg; gateway: Leg; mute(): void }> => {
    const cluster = createTestCluster();
    const [runner, gateway] = [await cluster.runner(), await cluster.gateway()];
    const pair = memoryConnectionPair({ diallerKey: runner.key.publicKey, acceptorKey: gateway.key.publicKey });
    let heard: number | undefined;
    const dialler: Connection = {
      ...pair.dialler,
      transport,
      stats: () => ({ ...pair.dialler.stats(), ...(heard === undefined ? {} : { received: heard }) }),
    };
    const [atGateway, atRunner] = await Promise.all([
      acceptLeg(
        { ...pair.acceptor, transport },
        {
          clock,
          membership: () => gateway.membership,
          sign: createSigner(gateway.key),
          verify: (token, key) => gateway.verify(token, key),
          admit: () => {},
          welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
        },
        { signal: never },
      ),
      dialLeg(
        dialler,
        {
          clock,
          membership: () => runner.membership,
          sign: (message) => sign(runner.key, message),
          verify: (token, key) => runner.verify(token, key),
          hello: { instance: 'i', instanceStartedAt: 1, agent: 'test' },
        },
        { signal: never },
      ),
    ]);
    for (const leg of [atGateway, atRunner]) leg.attach({});
    return { runner: atRunner, gateway: atGateway, mute: () => (heard = pair.dialler.stats().received) };
  };
  const pass = async (clock: ReturnType<typeof createManualClock>, seconds: number): Promise<void> => {
    for (let second = 0; second < seconds; second++) {
      await clock.advance(1_000);
      await settle();
    }
  };

  for (const transport of ['webtransport', 'websocket'] as const) {
    it(`over ${transport} lives as long as pings are answered, and is lost 5 s after the last one`, async () => {
      const clock = createManualClock();
      const { runner, gateway, mute } = await connect(transport, clock);
      const before = runner.stats().received;
      await pass(clock, 60);
      assert.ok(runner.isOpen && gateway.isOpen);
      assert.ok(runner.stats().received > before, 'nobody pinged');
      mute();
      await pass(clock, 6);
      assert.equal(runner.isOpen, false);
      assert.deepEqual(await runner.closed.then(({ code, by }) => [code, by]), ['lost', 'remote']);
      assert.equal((await gateway.closed).code, 'lost');
    });
  }

  it('over QUIC is watched by the transport itself', async () => {
    const clock = createManualClock();
    const { runner, gateway, mute } = await connect('quic', clock);
    mute();
    await pass(clock, 60);
    assert.ok(runner.isOpen && gateway.isOpen);
    for (const leg of [runner, gateway]) leg.abort('closed');
  });
});
