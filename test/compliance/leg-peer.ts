/** What a leg does when the other side breaks the protocol, or is not who it has to be. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { afterEach, describe, it } from 'node:test';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import {
  LegClosedError,
  RefusedError,
  StreamResetError,
  type LegCloseCode,
  type Refusal,
} from '../../shared/src/errors.ts';
import { createKey, sign as signBytes } from '../../shared/src/identity/keys.ts';
import { signMembership } from '../../shared/src/identity/membership.ts';
import { createControlStream, MessageError, type ControlStream } from '../../shared/src/protocol/control-stream.ts';
import {
  FRAME,
  LANE_KIND,
  laneName,
  encodeFin,
  encodeMove,
  encodeOpen,
  encodeReset,
  encodeStatus,
  encodeWindow,
  writeFrameHeader,
} from '../../shared/src/protocol/frames.ts';
import { acceptLeg, dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg, LegEnd, TunnelStream } from '../../shared/src/protocol/leg.ts';
import { makeProof, type Transcript } from '../../shared/src/protocol/proof.ts';
import type { TransportStream } from '../../shared/src/transport/connection.ts';
import { createTestCluster, type TestCluster, type TestParty } from '../support/identities.ts';
import { closing, never, readAll, rejection, target, type ConnectionPair, type MakePair } from '../support/legs.ts';

const nonce = (): string => randomBytes(32).toString('base64url');

interface Stage {
  readonly cluster: TestCluster;
  readonly runner: TestParty;
  readonly gateway: TestParty;
  readonly pair: ConnectionPair;
}

export const legPeerCompliance = (name: string, makePair: MakePair): void => {
  describe(`a leg over ${name}, with a peer that breaks the rules`, { timeout: 60_000 }, () => {
    const pairs: ConnectionPair[] = [];
    afterEach(() => Promise.all(pairs.splice(0).map((pair) => pair.close())));

    const stage = async (clock: Clock = systemClock): Promise<Stage> => {
      const cluster = createTestCluster(clock);
      const [runner, gateway] = [await cluster.runner(), await cluster.gateway()];
      const pair = await makePair({ dialler: runner.key, acceptor: gateway.key });
      pairs.push(pair);
      return { cluster, runner, gateway, pair };
    };

    const accept = ({ pair, gateway }: Stage, over: Partial<Parameters<typeof acceptLeg>[1]> = {}): Promise<Leg> =>
      acceptLeg(
        pair.acceptor,
        {
          clock: systemClock,
          limits: { goodbyeTimeoutMs: 50 },
          membership: () => gateway.membership,
          sign: (message) => signBytes(gateway.key, message),
          verify: (token, peerKey) => gateway.verify(token, peerKey),
          admit: () => {},
          welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
          ...over,
        },
        { signal: never },
      );

    const dial = ({ pair, runner }: Stage, over: Partial<Parameters<typeof dialLeg>[1]> = {}): Promise<Leg> =>
      dialLeg(
        pair.dialler,
        {
          clock: systemClock,
          membership: () => runner.membership,
          sign: (message) => signBytes(runner.key, message),
          verify: (token, peerKey) => runner.verify(token, peerKey),
          hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
          ...over,
        },
        { signal: never },
      );

    /** Plays the runner by hand up to `welcome`, and gives the gateway's leg and the first lane. */
    const byHand = async (
      over: Parameters<typeof accept>[1] = {},
    ): Promise<{ leg: Leg; lane: TransportStream; control: ControlStream; set: Stage; raw: TransportStream }> => {
      const set = await stage();
      const accepted = accept(set, over);
      const raw = await set.pair.dialler.openStream({ signal: never });
      const control = createControlStream(raw);
      const hello = { membership: set.runner.membership, nonce: nonce() };
      await control.send({
        type: 'hello',
        versions: [1],
        ...hello,
        instance: 'i',
        instanceStartedAt: 1,
        agent: 'by hand',
      });
      const challenge = await control.receive();
      assert.ok(challenge?.type === 'challenge');
      const transcript: Transcript = {
        diallerNonce: hello.nonce,
        acceptorNonce: challenge.nonce,
        diallerMembership: hello.membership,
        acceptorMembership: challenge.membership,
        transport: set.pair.dialler.transport,
      };
      const signer = (message: Uint8Array): Uint8Array => signBytes(set.runner.key, message);
      await control.send({ type: 'proof', ...makeProof(set.pair.dialler, transcript, 'dialler', signer) });
      assert.equal((await control.receive())?.type, 'welcome');
      const leg = await accepted;
      leg.attach({ onMessage() {} });
      const lane = await set.pair.dialler.acceptStream({ signal: never });
      assert.equal((await lane.read())?.[0], laneName(LANE_KIND.small, 0));
      return { leg, lane, control, set, raw };
    };

    const endedBy = async (leg: Leg, code: LegCloseCode): Promise<LegEnd> => {
      const end = await leg.closed;
      assert.deepEqual([end.code, end.by], [code, 'local'], end.error?.message ?? 'no error');
      return end;
    };
    const data = (id: number, length: number): Buffer => {
      const out = Buffer.alloc(8 + length);
      writeFrameHeader(out, 0, id, FRAME.data, length);
      return out;
    };

    const hostileFrames: [string, Buffer, LegCloseCode][] = [
      ['a frame of an unknown type below 0x40', Buffer.from([0, 0, 0, 1, 0x3f, 0, 0, 0]), 'protocol_error'],
      ['DATA above the largest size', data(1, 16_385), 'protocol_error'],
      ['DATA for an id that was never opened', data(99, 1), 'protocol_error'],
      ['STATUS for an id of its own that it never opened', encodeStatus(2, 'connected', 1), 'protocol_error'],
      ['OPEN with an id of our parity', encodeOpen(1, { target: target(), allowance: 1, credit: 1 }), 'protocol_error'],
      [
        'OPEN with an allowance above 64 KiB',
        encodeOpen(2, { target: target(), allowance: 65_537, credit: 1 }),
        'protocol_error',
      ],
      ['MOVE to a lane that is not there', encodeMove(1, 0x50), 'protocol_error'],
      [
        'OPEN twice with one id',
        Buffer.concat([1, 2].map(() => encodeOpen(2, { target: target({ kind: 'echo' }), allowance: 1, credit: 1 }))),
        'protocol_error',
      ],
      [
        'DATA beyond the credit',
        Buffer.concat([
          encodeOpen(2, { target: target({ kind: 'echo' }), allowance: 10, credit: 0 }),
          ...Array.from({ length: 60 }, () => data(2, 16_384)),
        ]),
        'flow_control',
      ],
      [
        'FIN twice',
        Buffer.concat([
          encodeOpen(2, { target: target({ kind: 'echo' }), allowance: 10, credit: 0 }),
          data(2, 5),
          encodeFin(2),
          encodeFin(2),
        ]),
        'protocol_error',
      ],
    ];
    for (const [what, bytes, code] of hostileFrames) {
      it(`closes with ${code} on ${what}`, async () => {
        const { leg, lane, control } = await byHand();
        await lane.write(bytes);
        const message = await control.receive();
        assert.ok(message?.type === 'goodbye');
        assert.equal(message.code, code);
        await endedBy(leg, code);
      });
    }

    it('closes with protocol_error on a STATUS that comes twice', async () => {
      const { leg, lane } = await byHand();
      const stream = leg.openStream(target(), { signal: never });
      await lane.write(Buffer.concat([encodeStatus(1, 'connected', 0), encodeStatus(1, 'connected', 0)]));
      await endedBy(leg, 'protocol_error');
      assert.equal(stream.destroyed, true);
    });

    it('drops frames of a stream that is over', async () => {
      const { leg, lane } = await byHand();
      const stream = leg.openStream(target(), { signal: never });
      stream.reset('cancelled');
      await lane.write(
        Buffer.concat([encodeStatus(1, 'connected', 0), data(1, 1_000), encodeWindow(1, 5), encodeFin(1)]),
      );
      const other = leg.openStream(target(), { signal: never });
      await lane.write(encodeStatus(3, 'connected', 0));
      await other.connected;
      leg.abort('closed');
    });

    /** A stream of the gateway, connected, and a bulk lane of the runner, both played by hand. */
    const withBulk = async (): Promise<
      Awaited<ReturnType<typeof byHand>> & { stream: TunnelStream; bulk: TransportStream }
    > => {
      const hand = await byHand();
      const stream = hand.leg.openStream(target(), { signal: never });
      await hand.lane.write(encodeStatus(1, 'connected', 0));
      await stream.connected;
      const bulk = await hand.set.pair.dialler.openStream({ signal: never });
      await bulk.write(Buffer.of(laneName(LANE_KIND.bulk, 0)));
      return { ...hand, stream, bulk };
    };
    const text = (id: number, payload: string): Buffer => {
      const out = data(id, payload.length);
      out.write(payload, 8);
      return out;
    };
    const toBulk = encodeMove(1, laneName(LANE_KIND.bulk, 0));
    const toSmall = encodeMove(1, laneName(LANE_KIND.small, 0));
    /** Gives `first` time to arrive before `second` is sent: an answered ping on its lane's connection. */
    const settled = async ({ control }: { control: ControlStream }): Promise<void> => {
      await control.send({ type: 'ping', id: 1 });
      await control.receive();
      await control.send({ type: 'ping', id: 2 });
      await control.receive();
    };

    it('holds bytes that overtake their MOVE', async () => {
      const hand = await withBulk();
      await hand.bulk.write(text(1, 'b'));
      await settled(hand);
      await hand.lane.write(Buffer.concat([text(1, 'a'), toBulk]));
      await settled(hand);
      await hand.bulk.write(Buffer.concat([text(1, 'c'), encodeFin(1)]));
      assert.equal((await readAll(hand.stream)).toString(), 'abc');
      hand.leg.abort('closed');
    });

    it('holds a FIN that overtakes the MOVE, and whole stays on a lane', async () => {
      const hand = await withBulk();
      await hand.bulk.write(Buffer.concat([text(1, 'b'), toSmall, text(1, 'd'), toSmall, text(1, 'f'), encodeFin(1)]));
      await settled(hand);
      await hand.lane.write(Buffer.concat([text(1, 'a'), toBulk, text(1, 'c'), toBulk, text(1, 'e'), toBulk]));
      assert.equal((await readAll(hand.stream)).toString(), 'abcdef');
      hand.leg.abort('closed');
    });

    it('lets a RESET overtake what is held, and drops what comes behind it', async () => {
      const hand = await withBulk();
      await hand.bulk.write(text(1, 'b'));
      await settled(hand);
      await hand.lane.write(encodeReset(1, 'upstream_reset'));
      const error = await closing(hand.stream);
      assert.ok(error instanceof StreamResetError);
      assert.equal(error.code, 'upstream_reset');
      await hand.lane.write(Buffer.concat([text(1, 'a'), toBulk]));
      await hand.bulk.write(Buffer.concat([text(1, 'c'), encodeFin(1)]));
      await settled(hand);
      assert.equal(hand.leg.isOpen, true);
      hand.leg.abort('closed');
    });

    it('counts bytes that are held against the credit', async () => {
      const { leg, bulk } = await withBulk();
      await bulk.write(Buffer.concat(Array.from({ length: 20 }, () => data(1, 16_384))));
      await endedBy(leg, 'flow_control');
    });

    it('closes on a direction that moves without end, ends twice, or goes where no lane can be', async () => {
      for (const bytes of [
        Buffer.concat(Array.from({ length: 20 }, () => toSmall)),
        Buffer.concat([encodeFin(1), encodeFin(1), ...Array.from({ length: 8 }, () => encodeFin(1))]),
      ]) {
        const { leg, bulk } = await withBulk();
        await bulk.write(bytes);
        await endedBy(leg, 'protocol_error');
      }
      const { leg, lane } = await withBulk();
      await lane.write(encodeMove(1, laneName(LANE_KIND.bulk, 7)));
      await endedBy(leg, 'protocol_error');
    });

    it('closes on a frame that does not belong on a bulk lane', async () => {
      for (const bytes of [
        encodeStatus(1, 'connected', 1),
        encodeWindow(1, 1),
        encodeReset(1, 'cancelled'),
        encodeOpen(2, { target: target(), allowance: 1, credit: 1 }),
      ]) {
        const { leg, bulk } = await withBulk();
        await bulk.write(bytes);
        await endedBy(leg, 'protocol_error');
      }
    });

    const hostileControl: [string, Buffer, LegCloseCode][] = [
      ['a message that is not JSON', Buffer.from('\0\0\0\x01{'), 'protocol_error'],
      ['a message without a type', Buffer.from('\0\0\0\x02{}'), 'protocol_error'],
      ['a message of 2 MiB', Buffer.from([0, 0x20, 0, 0]), 'frame_too_large'],
      ['a message out of turn', Buffer.from('\0\0\0\x10{"type":"proof"}'), 'protocol_error'],
      ['a message that does not fit its schema', Buffer.from('\0\0\0\x0f{"type":"ping"}'), 'protocol_error'],
    ];
    for (const [what, bytes, code] of hostileControl) {
      it(`closes with ${code} on ${what}`, async () => {
        const { leg, raw } = await byHand();
        await raw.write(bytes);
        await endedBy(leg, code);
      });
    }

    it('ignores a message of an unknown type, and answers a ping', async () => {
      const { leg, raw, control } = await byHand();
      const text = JSON.stringify({ type: 'of-a-later-version', x: 1 });
      const head = Buffer.alloc(4);
      head.writeUInt32BE(text.length);
      await raw.write(Buffer.concat([head, Buffer.from(text)]));
      await control.send({ type: 'ping', id: 7 });
      assert.deepEqual(await control.receive(), { type: 'pong', id: 7 });
      leg.abort('closed');
    });

    it('closes when a lane, or the control stream, ends before goodbye', async () => {
      const first = await byHand();
      await first.lane.finish();
      await endedBy(first.leg, 'protocol_error');
      const second = await byHand();
      await second.raw.finish();
      await endedBy(second.leg, 'protocol_error');
    });

    it('closes when the runner opens a transport stream that is no lane', async () => {
      const { leg, set } = await byHand();
      const stream = await set.pair.dialler.openStream({ signal: never });
      await stream.write(Buffer.of(laneName(LANE_KIND.small, 1), 1, 2, 3));
      await endedBy(leg, 'protocol_error');
    });

    it('refuses a second transport stream before welcome', async () => {
      const set = await stage();
      const accepted = rejection(accept(set));
      const control = createControlStream(await set.pair.dialler.openStream({ signal: never }));
      await control.send({
        type: 'hello',
        versions: [1],
        membership: set.runner.membership,
        nonce: nonce(),
        instance: 'i',
        instanceStartedAt: 1,
        agent: 'x',
      });
      const extra = await set.pair.dialler.openStream({ signal: never });
      await extra.write(Buffer.of(1));
      // A round trip before the proof: streams have no order among themselves.
      await control.receive();
      await control.send({ type: 'proof' });
      const error = await accepted;
      assert.ok(error instanceof MessageError, String(error));
    });

    it('closes a connection that says nothing for 5 s', async () => {
      const timers: { delayMs: number; callback: () => void }[] = [];
      const clock: Clock = {
        ...systemClock,
        timer(delayMs, callback) {
          timers.push({ delayMs, callback });
          return () => {};
        },
      };
      const set = await stage();
      const accepted = rejection(accept(set, { clock }));
      const hello = timers.find(({ delayMs }) => delayMs === 5_000);
      hello?.callback();
      const error = await accepted;
      assert.ok(error instanceof LegClosedError);
      assert.equal(error.code, 'handshake_timeout');
      assert.equal((await set.pair.dialler.closed).by, 'remote');
    });

    it('refuses a hello above 32 KiB', async () => {
      const set = await stage();
      const accepted = rejection(accept(set));
      const raw = await set.pair.dialler.openStream({ signal: never });
      await raw.write(Buffer.from([0, 0, 0x90, 0]));
      const error = await accepted;
      assert.ok(error instanceof MessageError);
      assert.equal(error.code, 'frame_too_large');
    });

    it('tells a runner of another protocol version what the gateway speaks', async () => {
      const set = await stage();
      const accepted = rejection(accept(set));
      const control = createControlStream(await set.pair.dialler.openStream({ signal: never }));
      await control.send({
        type: 'hello',
        versions: [77],
        membership: set.runner.membership,
        nonce: nonce(),
        instance: 'i',
        instanceStartedAt: 1,
        agent: 'x',
      });
      const message = await control.receive();
      assert.ok(message?.type === 'goodbye');
      assert.deepEqual([message.code, message.supported], ['protocol_version', [1]]);
      set.pair.dialler.close();
      const error = await accepted;
      assert.ok(error instanceof RefusedError && error.code === 'protocol_version');
    });

    /** Both sides run their own handshake; one of them shows something wrong. Who checks says why, the other hears it. */
    const refusal = async (
      who: 'gateway' | 'runner',
      code: Refusal,
      wrong: (set: Stage) => Promise<string> | string,
    ): Promise<void> => {
      const set = await stage();
      const shown = await wrong(set);
      const [atGateway, atRunner] = await Promise.all([
        rejection(accept(set, who === 'gateway' ? { membership: () => shown } : {})),
        rejection(dial(set, who === 'runner' ? { membership: () => shown } : {})),
      ]);
      const [checked, told] = who === 'gateway' ? [atRunner, atGateway] : [atGateway, atRunner];
      assert.ok(checked instanceof RefusedError, String(checked));
      assert.deepEqual([checked.code, checked.by], [code, 'local']);
      assert.ok(told instanceof RefusedError, String(told));
      assert.deepEqual([told.code, told.by], [code, 'remote']);
    };
    const expiredAt = (ms: number): Clock => ({ ...systemClock, now: () => Date.now() + ms });
    const sign = (
      { cluster }: Stage,
      group: 'runner' | 'gateway',
      publicKey: Uint8Array,
      clock = systemClock,
    ): Promise<string> =>
      signMembership(cluster.authority, { id: `${group}-1`, organization: undefined, group, publicKey }, { clock });
    for (const who of ['gateway', 'runner'] as const) {
      const other = who === 'gateway' ? 'runner' : 'gateway';
      it(`refuses a ${who} whose membership is no token`, () => refusal(who, 'membership_invalid', () => 'none'));
      it(`refuses a ${who} whose membership names another key`, () =>
        refusal(who, 'key_mismatch', (set) => sign(set, who, createKey().publicKey)));
      it(`refuses a ${who} that shows a ${other}'s membership`, () =>
        refusal(who, 'membership_invalid', (set) => sign(set, other, set[who].key.publicKey)));
      it(`refuses a ${who} of another authority`, () =>
        refusal(who, 'membership_invalid', (set) =>
          sign({ ...set, cluster: createTestCluster() }, who, set[who].key.publicKey),
        ));
      it(`refuses a ${who} whose membership has expired`, () =>
        refusal(who, 'membership_expired', (set) =>
          sign(set, who, set[who].key.publicKey, expiredAt(-25 * 3_600_000)),
        ));
      it(`refuses a ${who} whose membership is of the future`, () =>
        refusal(who, 'clock_skew', (set) => sign(set, who, set[who].key.publicKey, expiredAt(120_000))));
    }

    it('says goodbye with the code of the refusal that its signal is aborted with', async () => {
      const set = await stage();
      const abort = new AbortController();
      const { gateway, pair } = set;
      const admit = (): Promise<void> => {
        abort.abort(new RefusedError('draining'));
        return new Promise(() => {});
      };
      const accepted = acceptLeg(
        pair.acceptor,
        {
          clock: systemClock,
          membership: () => gateway.membership,
          sign: (message) => signBytes(gateway.key, message),
          verify: (token, peerKey) => gateway.verify(token, peerKey),
          admit,
          welcome: () => ({ gatewayId: 'gateway-1', gateways: [] }),
        },
        { signal: abort.signal },
      );
      const [atGateway, atRunner] = await Promise.all([rejection(accepted), rejection(dial(set))]);
      assert.ok(atGateway instanceof RefusedError && atRunner instanceof RefusedError);
      assert.deepEqual([atRunner.code, atRunner.by], ['draining', 'remote']);
    });

    it('refuses whom the gateway does not admit, with reason, server time and pause', async () => {
      const set = await stage();
      const refused = new RefusedError('limit', { detail: 'too many', retryAfterMs: 1_234, serverTime: 99 });
      const admit = (): void => {
        throw refused;
      };
      const [atGateway, atRunner] = await Promise.all([rejection(accept(set, { admit })), rejection(dial(set))]);
      assert.equal(atGateway, refused);
      assert.ok(atRunner instanceof RefusedError);
      assert.deepEqual([atRunner.code, atRunner.retryAfterMs, atRunner.serverTime], ['limit', 1_234, 99]);
      assert.match(atRunner.message, /too many/);
    });
  });
};
