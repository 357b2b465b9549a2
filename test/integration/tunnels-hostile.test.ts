/** Peers that have not shown who they are, over real QUIC; a quiet runner beside them is what is judged. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { createKey, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { signMembership, type Authority } from '../../shared/src/identity/membership.ts';
import { createControlStream } from '../../shared/src/protocol/control-stream.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { createQuicDialer, type QuicDialer } from '../../shared/src/transport/quic.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { addressGroup } from '../../gateway/src/tunnels/acceptor.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until, type TestRunner, type TestUpstream } from '../support/runner.ts';

const HELLO_TIMEOUT_MS = 400;
const PER_ADDRESS = 4;
const never = new AbortController().signal;

/** The codes of all goodbyes that come until the connection ends. */
const goodbyeOf = async (
  connection: Connection,
  send: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
) => {
  const stream = await connection.openStream({ signal: never });
  const control = createControlStream(stream);
  await send((bytes) => stream.write(bytes));
  try {
    for (;;) {
      const message = await control.receive();
      if (message === null) return 'end';
      if (message.type === 'goodbye') return message.code;
    }
  } catch {
    return 'cut';
  } finally {
    connection.close();
  }
};

const frame = (text: string): Uint8Array => {
  const body = Buffer.from(text);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(body.length);
  return Buffer.concat([head, body]);
};
const hello = (membership: string, over: Record<string, unknown> = {}): Uint8Array =>
  frame(
    JSON.stringify({
      type: 'hello',
      versions: [1],
      membership,
      nonce: randomBytes(32).toString('base64url'),
      instance: 'hostile',
      instanceStartedAt: 1,
      agent: 'hostile',
      ...over,
    }),
  );

describe('before welcome', () => {
  let gateway: TestGateway;
  let quiet: TestRunner;
  let upstream: TestUpstream;
  let authority: Authority;
  const dialers: QuicDialer[] = [];

  before(async () => {
    gateway = await startTestGateway({
      limits: { helloTimeoutMs: HELLO_TIMEOUT_MS, unauthenticatedLegsPerAddress: PER_ADDRESS },
    });
    quiet = await startTestRunner(gateway);
    upstream = await startUpstream((_request, response) => response.end('quiet'));
    await quiet.announce({ id: 'quiet', ports: [{ port: upstream.port, admission: 'everyone' }] });
    authority = (await gateway.gateway.directory.authority()).current;
  });
  after(async () => {
    for (const dialer of dialers) dialer.close();
    await quiet.close();
    await gateway.close();
    await upstream.close();
  });

  const dial = (key: IdentityKey): Promise<Connection> => {
    const dialer = createQuicDialer({ key });
    dialers.push(dialer);
    return dialer.dial({ host: '127.0.0.1', port: gateway.quicPort }, { signal: never });
  };
  const quietIsServed = async (): Promise<void> => {
    assert.equal((await gateway.request(portHost('quiet', upstream.port))).body, 'quiet');
    assert.deepEqual(
      gateway.gateway.registry.legs().map(({ runnerId }) => runnerId),
      [quiet.id],
    );
  };
  const say = async (bytes: Uint8Array, key = createKey()): Promise<string> =>
    goodbyeOf(await dial(key), (write) => write(bytes));

  it('closes a connection that says nothing, in time', async () => {
    const connection = await dial(createKey());
    const started = performance.now();
    await connection.closed;
    assert.ok(performance.now() - started < HELLO_TIMEOUT_MS + 2_500);
    await quietIsServed();
  });

  it('refuses what is no protocol', async () => {
    assert.equal(await say(frame('GET / HTTP/1.1')), 'protocol_error');
    assert.equal(await say(frame('[]')), 'protocol_error');
    assert.equal(await say(frame('{"type":"hello"}')), 'protocol_error');
    assert.equal(
      await say(frame('{"type":"environments","revision":1,"part":0,"last":true,"full":true}')),
      'protocol_error',
    );
    assert.equal(await say(Buffer.from([0xff, 0xff, 0xff, 0xff, 1])), 'frame_too_large');
    assert.equal(await say(hello('x'.repeat(9_000))), 'protocol_error');
    await quietIsServed();
  });

  it('names the versions it speaks to a peer that speaks none of them', async () => {
    assert.equal(await say(hello('x', { versions: [2, 99] })), 'protocol_version');
    const { reason } = await gateway.waitFor(({ msg, code }) => msg === 'leg refused' && code === 'protocol_version');
    assert.match(String(reason), /tunnel client speaks version 2 and 99 .* the gateway version 1: update the gateway/);
  });

  it('refuses every membership that is not one of this runner and this key', async () => {
    const key = createKey();
    const at = (offsetMs: number): Clock => ({ ...systemClock, now: () => Date.now() + offsetMs });
    const make = (
      over: {
        id?: string;
        group?: 'runner' | 'gateway';
        publicKey?: Uint8Array;
        signer?: Authority;
        clock?: Clock;
      } = {},
    ): Promise<string> =>
      signMembership(
        over.signer ?? authority,
        { id: quiet.id, organization: undefined, group: 'runner', publicKey: key.publicKey, ...over },
        { clock: over.clock ?? systemClock },
      );
    const day = 24 * 60 * 60 * 1_000;
    const cases: [what: string, membership: string, code: string][] = [
      ['nonsense', 'a.b.c', 'membership_invalid'],
      ['another authority', await make({ signer: { ...authority, key: createKey() } }), 'membership_invalid'],
      ['another issuer', await make({ signer: { ...authority, issuer: 'https://evil.test' } }), 'membership_invalid'],
      ['a gateway', await make({ group: 'gateway' }), 'membership_invalid'],
      ['expired', await make({ clock: at(-2 * day) }), 'membership_expired'],
      ['of the future', await make({ clock: at(300_000) }), 'clock_skew'],
      ['of another key', await make({ publicKey: createKey().publicKey }), 'key_mismatch'],
      ['of a runner with another key on record', await make(), 'key_mismatch'],
      ['of nobody', await make({ id: 'nobody' }), 'runner_unknown'],
    ];
    for (const [what, membership, code] of cases) {
      assert.equal(await say(hello(membership), key), code, what);
      await gateway.waitFor((line) => line.msg === 'leg refused' && line['code'] === code);
    }
    await quietIsServed();
  });

  it('opens nothing for streams before welcome', async () => {
    const connection = await dial(createKey());
    const control = await connection.openStream({ signal: never });
    await control.write(hello('x').subarray(0, 3));
    const lane = await connection.openStream({ signal: never });
    // A lane that asks for a tunnel stream at once.
    await lane.write(Buffer.from([1, 0, 0, 0, 2, 1, 0, 0, 4, 1, 2, 3, 4]));
    const before = upstream.requests();
    assert.equal((await connection.closed).by, 'remote');
    assert.equal(upstream.requests(), before);
    await quietIsServed();
  });

  it('turns away what is beyond the cap of an address, and lets go of the places again', async () => {
    const idle = await Promise.all(Array.from({ length: PER_ADDRESS }, () => dial(createKey())));
    await until(async () => /unauthenticated_connections 4$/m.test(await (await gateway.internal('/metrics')).text()));
    const beyond = dialLeg(
      await dial(createKey()),
      {
        clock: systemClock,
        membership: () => 'none',
        verify: () => Promise.reject(new Error('nothing was said that could be verified')),
        hello: { instance: 'beyond', instanceStartedAt: 0, agent: 'test' },
      },
      { signal: never },
    );
    await assert.rejects(beyond, { name: 'TransportError', by: 'remote', code: 'turned_away' });
    await gateway.waitFor((line) => line['cap'] === 'unauthenticatedLegsPerAddress');
    await quietIsServed();
    await Promise.all(idle.map((connection) => connection.closed));
    const runner = await startTestRunner(gateway);
    await runner.close();
    await until(() => gateway.gateway.registry.legs().length === 1);
    assert.match(await (await gateway.internal('/metrics')).text(), /connections_turned_away_total [1-9]/);
  });
});

describe('who counts as one address', () => {
  it('is an IPv4 address or an IPv6 /64', () => {
    assert.equal(addressGroup('192.0.2.7:1234'), '192.0.2.7');
    assert.equal(addressGroup('[::ffff:192.0.2.7]:1234'), '192.0.2.7');
    assert.equal(addressGroup('[2001:db8:0:1::1]:1'), addressGroup('[2001:0DB8::1:ffff:0:0:2]:2'));
    assert.notEqual(addressGroup('[2001:db8:0:1::1]:1'), addressGroup('[2001:db8:0:2::1]:1'));
    assert.equal(addressGroup('[::1]:1'), '0:0:0:0::/64');
  });
});
