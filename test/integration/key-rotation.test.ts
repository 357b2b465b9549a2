/** Rotation of keys under load of real gateways, runners and TLS clients: nobody notices, until a key is void. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { decodeProtectedHeader } from 'jose';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { createKey } from '../../shared/src/identity/keys.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { AUTHORITY_LEAD_MS, AUTHORITY_OVERLAP_MS, TICKET_KEY_LEAD_MS } from '../../gateway/src/directory/key-ring.ts';
import { DOMAIN, portHost, startTestGateway, type GatewayOptions, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

/** A directory that several gateways of the test share, whose wall clock can be moved on. */
const openShared = async (t: TestContext) => {
  const stateDir = await mkdtemp(join(tmpdir(), 'rotation-'));
  let offsetMs = 0;
  /** Real, but that its wall clock is ahead. */
  const clock: Clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
  const directory = await openEmbeddedDirectory(
    { clock },
    { path: join(stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
  );
  const gateways: TestGateway[] = [];
  t.after(async () => {
    for (const gateway of gateways) await gateway.close();
    await directory.close();
    await rm(stateDir, { recursive: true, force: true });
  });
  return {
    directory,
    clock,
    stateDir,
    moveOn(ms: number) {
      offsetMs += ms;
    },
    async startGateway(options: GatewayOptions = {}): Promise<TestGateway> {
      const gateway = await startTestGateway({ directory, stateDir, key: createKey(), ...options });
      gateways.push(gateway);
      return gateway;
    },
  };
};

interface Handshake {
  readonly resumed: boolean;
  readonly session: Buffer;
}

/** One TLS connection with a request on it: in TLS 1.3 tickets come with the first data. */
const handshake = async (
  gateway: TestGateway,
  maxVersion: 'TLSv1.2' | 'TLSv1.3',
  session?: Buffer,
): Promise<Handshake> => {
  const socket: TLSSocket = connect({
    host: '127.0.0.1',
    port: gateway.httpsPort,
    servername: DOMAIN,
    rejectUnauthorized: false,
    maxVersion,
    ...(session ? { session } : {}),
  });
  let ticket = session;
  socket.on('session', (next: Buffer) => (ticket = next));
  socket.resume();
  await once(socket, 'secureConnect');
  const resumed = socket.isSessionReused();
  socket.write(`GET /_health HTTP/1.1\r\nhost: ${DOMAIN}\r\nconnection: close\r\n\r\n`);
  await once(socket, 'close');
  assert.ok(ticket, 'the server gave no ticket');
  return { resumed, session: ticket };
};

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const;

describe('TLS session tickets', { timeout: 60_000 }, () => {
  it('are good at every gateway of a directory, and after a restart', async (t) => {
    const shared = await openShared(t);
    const one = await shared.startGateway();
    const two = await shared.startGateway();
    for (const version of VERSIONS) {
      const first = await handshake(one, version);
      assert.equal(first.resumed, false);
      assert.equal((await handshake(one, version, first.session)).resumed, true, `${version} at the same gateway`);
      assert.equal((await handshake(two, version, first.session)).resumed, true, `${version} at the other gateway`);
    }
    const kept = await Promise.all(VERSIONS.map((version) => handshake(one, version)));
    await one.close();
    const again = await shared.startGateway();
    for (const [index, version] of VERSIONS.entries()) {
      assert.equal((await handshake(again, version, kept[index]!.session)).resumed, true, `${version} after a restart`);
    }
    const stranger = await startTestGateway();
    t.after(() => stranger.close());
    assert.equal((await handshake(stranger, 'TLSv1.3', kept[1]!.session)).resumed, false);
  });

  it('of a key that was replaced mean a full handshake, and no failure, at all gateways at once', async (t) => {
    const shared = await openShared(t);
    const gateways = [await shared.startGateway(), await shared.startGateway()];
    const [one] = gateways;
    const old = await handshake(one!, 'TLSv1.3');
    await shared.directory.rotateKeys('tickets', { void: true });
    for (const gateway of gateways) {
      await until(async () => !(await handshake(gateway, 'TLSv1.3', old.session)).resumed);
    }
    const fresh = await handshake(one!, 'TLSv1.3');
    for (const gateway of gateways) assert.equal((await handshake(gateway, 'TLSv1.3', fresh.session)).resumed, true);
    assert.ok(TICKET_KEY_LEAD_MS > 0, 'all gateways hear of a key before one of them uses it');
  });
});

describe('the authority', { timeout: 60_000 }, () => {
  const kidsOf = async (stateDir: string): Promise<string[]> => {
    const stored = JSON.parse(await readFile(join(stateDir, 'membership.json'), 'utf8')) as {
      trust: { keys: { kid: string }[] };
    };
    return stored.trust.keys.map(({ kid }) => kid);
  };

  it('publishes a new key before it signs with it; live legs and runners that come again notice nothing', async (t) => {
    const shared = await openShared(t);
    const one = await shared.startGateway();
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const environment = { id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' as const }] };
    const runner = await startTestRunner(one);
    t.after(() => runner.close());
    await runner.announce(environment);
    const isServed = async (): Promise<boolean> => {
      const { status, body } = await one.request(portHost('demo', upstream.port));
      return status === 200 && body === 'hello';
    };
    assert.ok(await isServed());

    const before = (await shared.directory.authority()).current.keyId;
    const [next] = (await shared.directory.rotateKeys('authority')).keys;
    assert.deepEqual(await kidsOf(runner.stateDir), [before]);
    // The runner's process starts again: it has the published key from its leg, before anything is signed with it.
    await runner.client.close();
    const again = await startTestRunner(one, { like: runner });
    t.after(() => again.close());
    await until(async () => (await kidsOf(runner.stateDir)).includes(next!.keyId));
    await again.announce(environment);
    assert.ok(await isServed());

    shared.moveOn(AUTHORITY_LEAD_MS);
    assert.equal((await shared.directory.authority()).current.keyId, next!.keyId);
    assert.ok(await isServed(), 'the leg of before goes on');
    // A gateway whose own membership is of the new key, shown to a runner whose membership is of the old one.
    const two = await shared.startGateway();
    await again.close();
    const elsewhere = await startTestRunner(two, { like: runner });
    t.after(() => elsewhere.close());
    assert.equal(elsewhere.client.status().legs.length, 1);

    shared.moveOn(AUTHORITY_OVERLAP_MS);
    assert.deepEqual(
      (await shared.directory.authority()).trust.keys.map(({ kid }) => kid),
      [next!.keyId],
    );
  });

  it('whose keys are void cuts no leg, and runners get new memberships by themselves', async (t) => {
    const shared = await openShared(t);
    const gateway = await shared.startGateway();
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const runner = await startTestRunner(gateway);
    t.after(() => runner.close());
    const environment = { id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' as const }] };
    await runner.announce(environment);

    const [key] = (await shared.directory.rotateKeys('authority', { void: true })).keys;
    await gateway.waitFor(({ msg }) => msg === 'own membership renewed');
    assert.equal((await gateway.request(portHost('demo', upstream.port))).body, 'hello');

    // What the next process of the runner has stored is worth nothing any more.
    await runner.client.close();
    const again = await startTestRunner(gateway, { like: runner });
    t.after(() => again.close());
    await again.announce(environment);
    assert.equal((await gateway.request(portHost('demo', upstream.port))).body, 'hello');
    const stored = JSON.parse(await readFile(join(runner.stateDir, 'membership.json'), 'utf8')) as {
      membership: string;
    };
    assert.equal(decodeProtectedHeader(stored.membership).kid, key!.keyId);
  });
});
