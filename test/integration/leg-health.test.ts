/** A leg whose connection lives while its lanes carry nothing, as behind a middlebox that lets keep-alives pass. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Connection, TransportStream } from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { advanceInSteps, createManualClock } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';
import { environment, startTunnels, type Enrolled, type Tunnels } from '../support/tunnels.ts';

const never = new AbortController().signal;
/** From the moment at which the lanes go dead until the leg carries nothing more, ms. */
const EJECTED_MS = 20_000;
const STEP_MS = 500;

interface Double {
  readonly connection: Connection;
  /** From now on bytes on lanes vanish, in both directions; the control stream and the keep-alive go on. */
  cutLanes(): void;
}

/** The gateway's end of a connection. */
const createDouble = (inner: Connection): Double => {
  let isCut = false;
  let pings = 0;
  const lane = (stream: TransportStream): TransportStream => ({
    async read() {
      for (;;) {
        const bytes = await stream.read();
        if (!isCut || bytes === null) return bytes;
      }
    },
    write: (bytes) => (isCut ? Promise.resolve() : stream.write(bytes)),
    finish: () => stream.finish(),
    reset: () => stream.reset(),
  });
  let accepted = 0;
  return {
    connection: {
      ...inner,
      openStream: async (options) => lane(await inner.openStream(options)),
      async acceptStream(options) {
        const stream = await inner.acceptStream(options);
        accepted += 1;
        // The first one is the control stream.
        return accepted === 1 ? stream : lane(stream);
      },
      // Each look finds another keep-alive.
      stats: () => ({ ...inner.stats(), received: inner.stats().received + ++pings }),
    },
    cutLanes: () => (isCut = true),
  };
};

const dialOverDouble = async (tunnels: Tunnels, runner: Enrolled, clock: typeof systemClock) => {
  const { current, trust, issuer } = await tunnels.directory.authority();
  const token = await signMembership(
    current,
    { id: runner.id, organization: undefined, group: 'runner', publicKey: runner.key.publicKey },
    { clock },
  );
  const gatewayKey = await gatewayKeyOf(tunnels, runner);
  const pair = memoryConnectionPair({ diallerKey: runner.key.publicKey, acceptorKey: gatewayKey });
  const double = createDouble(pair.acceptor);
  tunnels.acceptor.accept(double.connection);
  const leg = await dialLeg(
    pair.dialler,
    {
      clock: { ...clock, timer: systemClock.timer },
      membership: () => token,
      verify: (shown, peerKey) => verifyMembership(shown, { trust, issuer, group: 'gateway', peerKey }, { clock }),
      hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
    },
    { signal: never },
  );
  return { leg, double };
};

const gatewayKeyOf = (tunnels: Tunnels, runner: Enrolled): Promise<Uint8Array> => {
  const connection = tunnels.connect(runner.key);
  const key = connection.peerKey;
  connection.close();
  return key ? Promise.resolve(key) : Promise.reject(new Error('the connection proves no key'));
};

describe('a leg whose data path is dead while keep-alives pass', () => {
  // The first echo comes at random: at once, or a whole interval later.
  for (const random of [0, 0.999]) {
    it(`is ejected within ${EJECTED_MS / 1_000} s, and closed for its replacement (random ${random})`, async (t) => {
      const clock = createManualClock();
      const tunnels = await startTunnels({ clock, random: () => random });
      t.after(() => tunnels.close());
      const runner = await tunnels.enrol();
      const { leg, double } = await dialOverDouble(tunnels, runner, clock);
      const asked: string[] = [];
      let accepted = false;
      leg.attach({
        onMessage(message) {
          if (message.type === 'drain') asked.push(message.reason);
          if (message.type === 'environmentsResult') accepted = message.results.every((each) => each.accepted);
        },
      });
      await until(() => tunnels.registry.legs().length === 1);
      leg.send({
        type: 'environments',
        revision: 1,
        part: 0,
        last: true,
        full: true,
        set: [environment('demo')],
        delete: [],
      });
      await until(() => accepted);
      assert.equal((await tunnels.registry.route('demo')).kind, 'online');

      double.cutLanes();
      const cutAt = clock.monotonic();
      while ((await tunnels.registry.route('demo')).kind === 'online' && clock.monotonic() - cutAt < 60_000) {
        await advanceInSteps(clock, STEP_MS);
      }
      const tookMs = clock.monotonic() - cutAt;
      assert.ok(tookMs <= EJECTED_MS, `it took ${tookMs} ms`);
      await until(() => asked.length > 0);
      assert.deepEqual(asked, ['data_path']);
      assert.equal(leg.isOpen, true, 'an only leg that still answers is not cut');

      const fresh = await runner.dial({ replaces: leg.id });
      const end = await leg.closed;
      assert.equal(end.code, 'data_path');
      assert.equal(fresh.leg.isOpen, true);
      assert.equal((await tunnels.registry.route('demo')).kind, 'online');
    });
  }
});
