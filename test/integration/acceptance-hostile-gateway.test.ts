/**
 * A gateway that is a member of the cluster and hostile: real QUIC, a real handshake, and streams to everything that a
 * tunnel client must never connect to (safety row 44). And environments that point at the client's own listeners.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { networkInterfaces } from 'node:os';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { describeError, StreamRefusedError, StreamResetError } from '../../shared/src/errors.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { acceptLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { Target, TargetKind } from '../../shared/src/protocol/target.ts';
import { listenQuic, type QuicListener } from '../../shared/src/transport/quic.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, until, type TestRunner } from '../support/runner.ts';
import { httpApplication, type Application } from '../support/applications.ts';

const never = new AbortController().signal;

/** Spellings of this machine in announcements. */
const OWN_HOSTS: readonly string[] = [
  '127.0.0.1',
  '127.1',
  '127.0.1',
  '127.9.9.9',
  '0x7f.1',
  '0x7f000001',
  '2130706433',
  '017700000001',
  '0177.0.0.1',
  '::1',
  '0:0:0:0:0:0:0:1',
  '::ffff:127.0.0.1',
  '::ffff:7f00:1',
  'localhost',
  'LOCALHOST',
  'localhost.',
  'a.b.localhost',
  ...Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).filter(({ address }) => !address.startsWith('fe80')).map(({ address }) => address),
  ),
];
/** Hosts that nobody may announce, or that resolve to nothing that is connected to. */
const FORBIDDEN_HOSTS: readonly string[] = [
  '169.254.169.254',
  '169.254.1.1',
  'fd00:ec2::254',
  'fe80::1',
  '::ffff:169.254.169.254',
  '::ffff:a9fe:a9fe',
  '64:ff9b::a9fe:a9fe',
  '2002:a9fe:a9fe::',
  '0.0.0.0',
  '::',
  '224.0.0.1',
  'ff02::1',
  '255.255.255.255',
];

describe('a hostile gateway', { timeout: 60_000 }, () => {
  let gateway: TestGateway;
  let quic: QuicListener;
  let runner: TestRunner;
  /** Stands where the client listens for itself. */
  let own: Application;
  let leg: Leg;
  /** Applications beside the announced one; nobody may come to them. */
  let other: Application;
  let announced: Application;

  before(async () => {
    const key = createKey();
    const legs: Leg[] = [];
    quic = await listenQuic({
      host: '127.0.0.1',
      port: 0,
      key,
      onConnection(connection) {
        void (async () => {
          const { current, trust, issuer } = await gateway.gateway.directory.authority();
          const membership = await signMembership(
            current,
            { id: 'hostile', organization: undefined, group: 'gateway', publicKey: key.publicKey },
            { clock: systemClock },
          );
          const accepted = await acceptLeg(
            connection,
            {
              clock: systemClock,
              membership: () => membership,
              verify: (token, peerKey) =>
                verifyMembership(token, { trust, issuer, group: 'runner', peerKey }, { clock: systemClock }),
              admit: () => undefined,
              welcome: () => ({ gatewayId: 'hostile', gateways: [] }),
            },
            { signal: never },
          );
          accepted.attach({});
          legs.push(accepted);
        })();
      },
    });
    gateway = await startTestGateway({ config: { advertise: { quic: [`127.0.0.1:${quic.address.port}`], tcp: [] } } });
    other = await httpApplication((_request, response) => response.end('other'), '0.0.0.0');
    announced = await httpApplication((_request, response) => response.end('announced'));
    own = await httpApplication((_request, response) => response.end('own'), '0.0.0.0');
    runner = await startTestRunner(gateway, { ownPorts: () => [own.port], transport: 'quic' });
    runner.client.environments.set({ id: 'demo', ports: [{ port: announced.port, admission: 'everyone' }] });
    await until(() => legs.length > 0);
    leg = legs[0]!;
  });
  after(async () => {
    await runner.close();
    await quic.close();
    await gateway.close();
    await Promise.all([other.close(), own.close(), announced.close()]);
  });

  const target = (over: Partial<Target>): Target => ({
    kind: 'port',
    environmentId: 'demo',
    port: announced.port,
    tls: false,
    hops: 0,
    requestId: 'hostile',
    traceParent: '',
    ...over,
  });
  /** Why the stream came to nothing; `connected` when it did not. The request goes out before anybody has answered. */
  const attempt = async (over: Partial<Target>): Promise<string> => {
    let stream;
    try {
      stream = leg.openStream(target(over), { signal: never });
    } catch (error) {
      return `not sendable: ${describeError(error)}`;
    }
    stream.on('error', () => undefined);
    stream.write('GET / HTTP/1.1\r\nHost: hostile\r\n\r\n');
    try {
      await stream.connected;
      return 'connected';
    } catch (error) {
      return error instanceof StreamRefusedError || error instanceof StreamResetError ? error.code : String(error);
    } finally {
      stream.destroy();
    }
  };

  it('reaches what is announced, as any gateway does', async () => {
    assert.equal(await attempt({}), 'connected');
    await until(() => announced.bytes() > 0);
  });

  it('reaches no other port and no other target, whatever a stream names', async () => {
    const kinds: readonly TargetKind[] = ['logs', 'oauth'];
    for (const kind of kinds) {
      for (const port of [0, 22_999, other.port, announced.port]) {
        assert.notEqual(await attempt({ kind, port }), 'connected', `${kind} ${port}`);
      }
    }
    for (const port of [0, 1, 22, 80, 443, 4_242, 9_090, 9_091, 22_999, 65_535, other.port, own.port]) {
      for (const tls of [false, true]) {
        const code = await attempt({ port, tls });
        assert.ok(['not_exposed', 'forbidden_target'].includes(code), `${port}: ${code}`);
      }
    }
    const ids = [
      '',
      '127.0.0.1',
      'localhost',
      `127.0.0.1:${other.port}`,
      'demo@127.0.0.1',
      'DEMO',
      'demo.',
      'demo\0',
      '../demo',
      '*',
      '__proto__',
      'constructor',
      'a'.repeat(200),
      randomBytes(30).toString('latin1'),
    ];
    for (const environmentId of ids) {
      for (const port of [other.port, announced.port, own.port]) {
        assert.notEqual(await attempt({ environmentId, port }), 'connected', JSON.stringify(environmentId));
      }
    }
    assert.equal(other.connections(), 0);
    assert.equal(leg.isOpen, true);
  });

  it('does not bring the client to its own listener, in any spelling of the host', async () => {
    const statuses: string[] = [];
    for (const host of OWN_HOSTS) {
      try {
        runner.client.environments.set({
          id: 'own',
          host,
          ports: [
            { port: own.port, admission: 'everyone' },
            { port: other.port, admission: 'everyone' },
          ],
        });
      } catch {
        // Some spellings are no host at all: refused where they are announced.
        continue;
      }
      const code = await attempt({ environmentId: 'own', port: own.port });
      assert.ok(['forbidden_target', 'refused'].includes(code), `${host}: ${code}`);
      assert.equal(await attempt({ environmentId: 'own', port: own.port, tls: true }), code, host);
      statuses.push(code);
    }
    assert.ok(statuses.filter((code) => code === 'forbidden_target').length >= 8);
    assert.equal(own.connections(), 0);
    // The other port of the same environment is reached: it was the listener that was kept away from.
    const environment = { id: 'beside', ports: [{ port: other.port, admission: 'everyone' as const }] };
    runner.client.environments.set(environment);
    assert.equal(await attempt({ environmentId: 'beside', port: other.port }), 'connected');
    await until(() => other.open() === 0);
  });

  it('does not bring the client to metadata services, link-local or multicast addresses', async () => {
    for (const host of FORBIDDEN_HOSTS) {
      assert.throws(
        () => runner.client.environments.set({ id: 'bad', host, ports: [{ port: 80, admission: 'everyone' }] }),
        { name: 'ZodError' },
        host,
      );
    }
    // As numbers and names of other kinds they are hosts; what they resolve to is still never dialled.
    for (const host of ['0xa9fea9fe', '2852039166', '169.254.43518', '0xa9.0xfe.0xa9.0xfe']) {
      try {
        runner.client.environments.set({ id: 'odd', host, ports: [{ port: 8_080, admission: 'everyone' }] });
      } catch {
        continue;
      }
      const code = await attempt({ environmentId: 'odd', port: 8_080 });
      assert.ok(['forbidden_target', 'refused'].includes(code), `${host}: ${code}`);
    }
  });

  it('cannot make the client open anything by messages, and is told nothing of its files', async () => {
    leg.send({
      type: 'environmentsResult',
      revision: 1,
      part: 0,
      last: true,
      results: [{ id: 'demo', accepted: true, urls: [{ port: other.port, url: `http://127.0.0.1:${other.port}/` }] }],
    });
    leg.send({ type: 'drain', reason: `http://127.0.0.1:${other.port}/` });
    const before = other.connections();
    await leg.closed;
    assert.equal(other.connections(), before);
    assert.equal((await gateway.request(portHost('demo', announced.port))).status, 404);
  });
});
