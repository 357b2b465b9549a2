/** Two versions of the protocol meet: what they agree on, what they pass over, and what they say where they cannot. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { createSigner } from '../../shared/src/identity/keys.ts';
import { createControlStream, type ControlStream } from '../../shared/src/protocol/control-stream.ts';
import { acceptLeg, dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg, LegHandlers } from '../../shared/src/protocol/leg.ts';
import { PROTOCOL_VERSIONS, type MessageOf } from '../../shared/src/protocol/messages.ts';
import type { Connection, TransportStream } from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { createTestCluster, type TestParty } from '../support/identities.ts';
import { never, rejection } from '../support/legs.ts';

interface Stage {
  readonly runner: TestParty;
  readonly gateway: TestParty;
  readonly dialler: Connection;
  readonly acceptor: Connection;
}

/** The transport proves the keys, so that the handshake needs no signatures. */
const makeStage = async (): Promise<Stage> => {
  const cluster = createTestCluster();
  const [runner, gateway] = [await cluster.runner(), await cluster.gateway()];
  const pair = memoryConnectionPair({ diallerKey: runner.key.publicKey, acceptorKey: gateway.key.publicKey });
  return { runner, gateway, ...pair };
};

const limits = { goodbyeTimeoutMs: 50 };
const accept = ({ acceptor, gateway }: Stage): Promise<Leg> =>
  acceptLeg(
    acceptor,
    {
      clock: systemClock,
      limits,
      membership: () => gateway.membership,
      sign: createSigner(gateway.key),
      verify: (token, key) => gateway.verify(token, key),
      admit: () => undefined,
      welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
    },
    { signal: never },
  );
const dial = ({ dialler, runner }: Stage): Promise<Leg> =>
  dialLeg(
    dialler,
    {
      clock: systemClock,
      limits,
      membership: () => runner.membership,
      sign: createSigner(runner.key),
      verify: (token, key) => runner.verify(token, key),
      hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
    },
    { signal: never },
  );

/** Messages as another version sends them, which no type here describes. */
const write = (stream: TransportStream, message: object): Promise<void> => {
  const json = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(4);
  head.writeUInt32BE(json.length);
  return stream.write(Buffer.concat([head, json]));
};
const nonce = (): string => randomBytes(32).toString('base64url');
const LATER = { type: 'added_in_version_2', anything: { at: ['all'] } };
const FUTURE_FIELD = { futureField: { nested: [1, null] } };

interface ByHand {
  readonly raw: TransportStream;
  readonly control: ControlStream;
}
const helloOf = ({ runner }: Stage, over: object = {}) => ({
  type: 'hello',
  versions: [1],
  membership: runner.membership,
  nonce: nonce(),
  instance: 'i',
  instanceStartedAt: 1,
  agent: 'by hand',
  ...over,
});
const runnerByHand = async ({ dialler }: Stage): Promise<ByHand> => {
  const raw = await dialler.openStream({ signal: never });
  return { raw, control: createControlStream(raw) };
};
const gatewayByHand = async ({ acceptor }: Stage): Promise<ByHand> => {
  const raw = await acceptor.acceptStream({ signal: never });
  return { raw, control: createControlStream(raw) };
};
const expect = async <T extends 'hello' | 'challenge' | 'proof' | 'welcome' | 'goodbye' | 'pong'>(
  control: ControlStream,
  type: T,
): Promise<MessageOf<T>> => {
  const message = await control.receive();
  assert.equal(message?.type, type);
  return message as MessageOf<T>;
};
const refusal = (error: unknown, by: 'local' | 'remote'): string => {
  assert.ok(error instanceof RefusedError, String(error));
  assert.deepEqual([error.code, error.by], ['protocol_version', by]);
  return error.message;
};

describe('a gateway of version 1', () => {
  for (const versions of [[1], [1, 2], [2, 1], [3, 2, 1, 99]]) {
    it(`agrees on version 1 with a tunnel client that offers ${versions.join(', ')}`, async () => {
      const stage = await makeStage();
      const accepted = accept(stage);
      const { raw, control } = await runnerByHand(stage);
      await write(raw, LATER);
      await write(raw, helloOf(stage, { versions, features: ['standby', 'flying'], ...FUTURE_FIELD }));
      assert.equal((await expect(control, 'challenge')).version, 1);
      await write(raw, LATER);
      await write(raw, { type: 'proof', ...FUTURE_FIELD });
      await expect(control, 'welcome');
      const leg = await accepted;
      leg.attach({});
      // The leg goes on behind what it does not know.
      await write(raw, LATER);
      await write(raw, { type: 'ping', id: 7, ...FUTURE_FIELD });
      assert.equal((await expect(control, 'pong')).id, 7);
      leg.abort('closed');
    });
  }

  for (const versions of [[2], [99], [2, 99], [0]]) {
    it(`refuses a tunnel client that offers ${versions.join(', ')}, and both know who has to be updated`, async () => {
      const stage = await makeStage();
      const refused = rejection(accept(stage));
      const { raw, control } = await runnerByHand(stage);
      await write(raw, helloOf(stage, { versions }));
      const goodbye = await expect(control, 'goodbye');
      assert.deepEqual([goodbye.code, goodbye.supported], ['protocol_version', [...PROTOCOL_VERSIONS]]);
      const older = Math.max(...versions) < 1 ? 'tunnel client' : 'gateway';
      assert.match(goodbye.reason ?? '', new RegExp(`update the ${older}$`));
      stage.dialler.close();
      const message = refusal(await refused, 'local');
      assert.ok(message.includes(goodbye.reason ?? 'no reason'), message);
      assert.ok(message.includes(`speaks version ${versions.join(' and ')} of`), message);
    });
  }
});

describe('a tunnel client of version 1', () => {
  it('passes over messages and fields of a later gateway', async () => {
    const stage = await makeStage();
    const dialled = dial(stage);
    const { raw, control } = await gatewayByHand(stage);
    assert.deepEqual((await expect(control, 'hello')).versions, [...PROTOCOL_VERSIONS]);
    await write(raw, LATER);
    const membership = stage.gateway.membership;
    await write(raw, { type: 'challenge', version: 1, membership, nonce: nonce(), ...FUTURE_FIELD });
    await expect(control, 'proof');
    const gateways = [{ id: 'g', quic: [], tcp: [], publicKey: nonce(), ...FUTURE_FIELD }];
    await write(raw, { type: 'welcome', legId: 'leg', gatewayId: 'g', gateways, ...FUTURE_FIELD });
    const leg = await dialled;
    const drains: unknown[] = [];
    const drained = Promise.withResolvers<void>();
    const onMessage: LegHandlers['onMessage'] = (message) => {
      drains.push(message);
      drained.resolve();
    };
    leg.attach({ onMessage });
    await write(raw, LATER);
    await write(raw, { type: 'drain', reason: 'shutdown', deadlineMs: 5, ...FUTURE_FIELD });
    await drained.promise;
    assert.deepEqual(drains, [{ type: 'drain', reason: 'shutdown', deadlineMs: 5 }]);
    leg.abort('closed');
  });

  it('refuses a gateway that chooses a version it did not offer', async () => {
    const stage = await makeStage();
    const refused = rejection(dial(stage));
    const { raw, control } = await gatewayByHand(stage);
    await expect(control, 'hello');
    await write(raw, { type: 'challenge', version: 2, membership: stage.gateway.membership, nonce: nonce() });
    const goodbye = await expect(control, 'goodbye');
    assert.match(goodbye.reason ?? '', /version 1 of .* the gateway version 2: update the tunnel client$/);
    stage.acceptor.close();
    refusal(await refused, 'local');
  });

  it('says what a gateway that speaks none of its versions told it', async () => {
    const stage = await makeStage();
    const refused = rejection(dial(stage));
    const { raw, control } = await gatewayByHand(stage);
    await expect(control, 'hello');
    const reason = 'the gateway speaks version 7: update the tunnel client';
    const goodbye = { type: 'goodbye', code: 'protocol_version', reason, supported: [7], ...FUTURE_FIELD };
    // Who has read it closes, before the write is done.
    await write(raw, goodbye).catch(() => undefined);
    assert.equal(refusal(await refused, 'remote'), `protocol_version: ${reason}`);
  });
});
