/** Keys that the transport does not prove: what a signature of the handshake is worth, and where it is worth nothing. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { createKey, createSigner, sign } from '../../shared/src/identity/keys.ts';
import { createControlStream, type ControlStream } from '../../shared/src/protocol/control-stream.ts';
import { acceptLeg, dialLeg, type AcceptDeps, type DialDeps } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { MessageOf } from '../../shared/src/protocol/messages.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createTestCluster, type TestParty } from '../support/identities.ts';
import { never, rejection } from '../support/legs.ts';

interface Options {
  /** Keying material of each side's TLS connection; the same unless somebody is in between. */
  readonly exporters?: { readonly dialler?: Uint8Array; readonly acceptor?: Uint8Array };
  readonly transports?: { readonly dialler?: 'webtransport' | 'websocket' };
}

/** Two ends of a connection that proves no keys. */
const makePair = (options: Options = {}): { dialler: Connection; acceptor: Connection } => {
  const pair = memoryConnectionPair({ diallerKey: new Uint8Array(32), acceptorKey: new Uint8Array(32) });
  const same = randomBytes(32);
  const exporters = options.exporters ?? { dialler: same, acceptor: same };
  const without = (side: 'dialler' | 'acceptor'): Connection => {
    const exporter = exporters[side];
    const transport = options.transports?.[side as 'dialler'] ?? 'websocket';
    return { ...pair[side], transport, peerKey: undefined, ...(exporter ? { exporter } : {}) };
  };
  return { dialler: without('dialler'), acceptor: without('acceptor') };
};

interface Parties {
  readonly runner: TestParty;
  readonly gateway: TestParty;
}
const makeParties = async (): Promise<Parties> => {
  const cluster = createTestCluster();
  return { runner: await cluster.runner(), gateway: await cluster.gateway() };
};

const accept = (connection: Connection, { gateway }: Parties, over: Partial<AcceptDeps> = {}): Promise<Leg> =>
  acceptLeg(
    connection,
    {
      clock: systemClock,
      limits: { goodbyeTimeoutMs: 50 },
      membership: () => gateway.membership,
      sign: createSigner(gateway.key),
      verify: (token, key) => gateway.verify(token, key),
      admit: () => {},
      welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
      ...over,
    },
    { signal: never },
  );
const dial = (connection: Connection, { runner }: Parties, over: Partial<DialDeps> = {}): Promise<Leg> =>
  dialLeg(
    connection,
    {
      clock: systemClock,
      limits: { goodbyeTimeoutMs: 50 },
      membership: () => runner.membership,
      sign: (message) => sign(runner.key, message),
      verify: (token, key) => runner.verify(token, key),
      hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
      ...over,
    },
    { signal: never },
  );

const refusedAs = (error: unknown, code: string, by: 'local' | 'remote'): void => {
  assert.ok(error instanceof RefusedError, String(error));
  assert.deepEqual([error.code, error.by], [code, by]);
};

/** Both handshakes on `pair`; the legs are closed again. */
const handshake = async (pair: ReturnType<typeof makePair>, parties: Parties): Promise<boolean[]> => {
  const admitted: boolean[] = [];
  const admit: AcceptDeps['admit'] = (_peer, _hello, { inspected }) => void admitted.push(inspected);
  const legs = await Promise.all([accept(pair.acceptor, parties, { admit }), dial(pair.dialler, parties)]);
  for (const leg of legs) leg.abort('closed');
  return [...admitted, ...legs.map(({ inspected }) => inspected)];
};

describe('a handshake over a transport that proves no keys', () => {
  it('is not inspected where both ends export the same keying material', async () => {
    assert.deepEqual(await handshake(makePair(), await makeParties()), [false, false, false]);
  });

  it('is inspected where they export different material, or one of them none', async () => {
    for (const exporters of [
      { dialler: randomBytes(32), acceptor: randomBytes(32) },
      { dialler: randomBytes(32) },
      { acceptor: randomBytes(32) },
      {},
    ]) {
      assert.deepEqual(await handshake(makePair({ exporters }), await makeParties()), [true, true, true]);
    }
  });

  it('refuses a side that signs with another key than that of its membership', async () => {
    const parties = await makeParties();
    const wrong = createSigner(createKey());
    const first = makePair();
    const [atGateway, toldRunner] = await Promise.all([
      rejection(accept(first.acceptor, parties)),
      rejection(dial(first.dialler, parties, { sign: wrong })),
    ]);
    refusedAs(atGateway, 'key_mismatch', 'local');
    refusedAs(toldRunner, 'key_mismatch', 'remote');
    const second = makePair();
    const [toldGateway, atRunner] = await Promise.all([
      rejection(accept(second.acceptor, parties, { sign: wrong })),
      rejection(dial(second.dialler, parties)),
    ]);
    refusedAs(atRunner, 'key_mismatch', 'local');
    refusedAs(toldGateway, 'key_mismatch', 'remote');
  });

  it('admits nobody before the key is proved', async () => {
    const parties = await makeParties();
    const { dialler, acceptor } = makePair();
    let admitted = 0;
    await Promise.all([
      rejection(accept(acceptor, parties, { admit: () => void admitted++ })),
      rejection(dial(dialler, parties, { sign: createSigner(createKey()) })),
    ]);
    assert.equal(admitted, 0);
  });

  it('fails without a key to sign with', async () => {
    const parties = await makeParties();
    const { gateway, runner } = parties;
    const { dialler, acceptor } = makePair();
    const deps = { clock: systemClock, limits: { goodbyeTimeoutMs: 50 } };
    const [atGateway] = await Promise.all([
      rejection(
        acceptLeg(
          acceptor,
          {
            ...deps,
            membership: () => gateway.membership,
            verify: (token, key) => gateway.verify(token, key),
            admit: () => {},
            welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
          },
          { signal: never },
        ),
      ),
      rejection(
        dialLeg(
          dialler,
          {
            ...deps,
            membership: () => runner.membership,
            verify: (token, key) => runner.verify(token, key),
            hello: { instance: 'i', instanceStartedAt: 1, agent: 'test' },
          },
          { signal: never },
        ),
      ),
    ]);
    refusedAs(atGateway, 'key_mismatch', 'local');
  });

  it('fails where the two sides do not speak of the same transport', async () => {
    const parties = await makeParties();
    const { dialler, acceptor } = makePair({ transports: { dialler: 'webtransport' } });
    const [, atRunner] = await Promise.all([rejection(accept(acceptor, parties)), rejection(dial(dialler, parties))]);
    refusedAs(atRunner, 'key_mismatch', 'local');
  });
});

/** One side of a handshake by hand. */
const control = async (connection: Connection, role: 'dialler' | 'acceptor'): Promise<ControlStream> =>
  createControlStream(
    await (role === 'dialler' ? connection.openStream({ signal: never }) : connection.acceptStream({ signal: never })),
  );
const expect = async <T extends 'hello' | 'challenge' | 'proof' | 'welcome'>(
  stream: ControlStream,
  type: T,
): Promise<MessageOf<T>> => {
  const message = await stream.receive();
  assert.equal(message?.type, type);
  return message as MessageOf<T>;
};

describe('somebody between the two sides', () => {
  it('cannot use what a runner once sent to come in as that runner', async () => {
    const parties = await makeParties();
    const first = makePair();
    // Reads everything of one handshake on the way, and passes it on.
    const relay = makePair({ exporters: { dialler: first.dialler.exporter!, acceptor: first.dialler.exporter! } });
    const accepted = accept(relay.acceptor, parties);
    const dialled = dial(first.dialler, parties);
    const fromRunner = await control(first.acceptor, 'acceptor');
    const toGateway = await control(relay.dialler, 'dialler');
    const hello = await expect(fromRunner, 'hello');
    await toGateway.send(hello);
    await fromRunner.send(await expect(toGateway, 'challenge'));
    const proof = await expect(fromRunner, 'proof');
    await toGateway.send(proof);
    for (const leg of [await accepted]) leg.abort('closed');
    first.acceptor.close();
    await rejection(dialled);

    // The same again: the gateway's nonce is another one.
    const again = makePair({ exporters: { dialler: first.dialler.exporter!, acceptor: first.dialler.exporter! } });
    const refused = rejection(accept(again.acceptor, parties));
    const replay = await control(again.dialler, 'dialler');
    await replay.send(hello);
    await expect(replay, 'challenge');
    await replay.send(proof);
    refusedAs(await refused, 'key_mismatch', 'local');
  });

  it("cannot play a gateway with what one once sent: the runner's nonce is another one", async () => {
    const parties = await makeParties();
    const exporter = randomBytes(32);
    const exporters = { dialler: exporter, acceptor: exporter };
    const first = makePair({ exporters });
    const accepted = rejection(accept(first.acceptor, parties));
    const asRunner = await control(first.dialler, 'dialler');
    await asRunner.send({
      type: 'hello',
      versions: [1],
      membership: parties.runner.membership,
      nonce: randomBytes(32).toString('base64url'),
      instance: 'i',
      instanceStartedAt: 1,
      agent: 'x',
    });
    const challenge = await expect(asRunner, 'challenge');
    first.dialler.close();
    await accepted;

    const second = makePair({ exporters });
    const refused = rejection(dial(second.dialler, parties));
    const asGateway = await control(second.acceptor, 'acceptor');
    await expect(asGateway, 'hello');
    await asGateway.send(challenge);
    refusedAs(await refused, 'key_mismatch', 'local');
  });

  it("cannot answer a side with its own signature, or with that of the other side's role", async () => {
    const parties = await makeParties();
    const { dialler, acceptor } = makePair();
    const refused = rejection(accept(acceptor, parties));
    const asRunner = await control(dialler, 'dialler');
    await asRunner.send({
      type: 'hello',
      versions: [1],
      membership: parties.runner.membership,
      nonce: randomBytes(32).toString('base64url'),
      instance: 'i',
      instanceStartedAt: 1,
      agent: 'x',
    });
    const { signature, binding } = await expect(asRunner, 'challenge');
    await asRunner.send({ type: 'proof', signature, binding });
    refusedAs(await refused, 'key_mismatch', 'local');
  });

  it('cannot hide that it relays by saying that both sides have the same binding', async () => {
    const parties = await makeParties();
    // Two TLS connections: runner to proxy, proxy to gateway.
    const left = makePair();
    const right = makePair();
    const accepted = rejection(accept(right.acceptor, parties));
    const dialled = dial(left.dialler, parties);
    const runnerSide = await control(left.acceptor, 'acceptor');
    const gatewaySide = await control(right.dialler, 'dialler');
    await gatewaySide.send(await expect(runnerSide, 'hello'));
    const challenge = await expect(gatewaySide, 'challenge');
    await runnerSide.send(challenge);
    const proof = await expect(runnerSide, 'proof');
    assert.notEqual(proof.binding, challenge.binding);
    await gatewaySide.send({ ...proof, binding: challenge.binding });
    refusedAs(await accepted, 'key_mismatch', 'local');
    left.acceptor.close();
    await rejection(dialled);
  });
});
