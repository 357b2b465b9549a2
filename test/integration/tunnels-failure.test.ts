/** Runners that die, come back, are revoked, or want what is another's. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { DOMAIN, portHost, startTestGateway, uniqueName, type TestGateway } from '../support/gateway.ts';
import { startProcess } from '../support/processes.ts';
import { startTestRunner, startUpstream, until, type TestUpstream } from '../support/runner.ts';

/** A dead runner is noticed within this (safety, fault 1), ms. */
const DEAD_MS = 10_000;

describe('runners', () => {
  let gateway: TestGateway;
  let upstream: TestUpstream;
  let id: string;
  /** Of the requests that reached the application. */
  const paths: string[] = [];
  before(async () => {
    gateway = await startTestGateway();
    upstream = await startUpstream((request, response) => {
      paths.push(request.url ?? '');
      if (request.url === '/hang') return;
      if (request.url === '/begin') {
        response.write('the beginning');
        return;
      }
      response.end('hello');
    });
  });
  after(async () => {
    await gateway.close();
    await upstream.close();
  });
  beforeEach(() => {
    id = uniqueName('env');
  });
  const status = async (): Promise<number> => (await gateway.request(portHost(id, upstream.port))).status;
  const environment = () => ({ id, ports: [{ port: upstream.port, admission: 'everyone' as const }] });

  it('that drain do not wait for connections that the gateway keeps', async () => {
    const kept = await startTestGateway({ limits: { upstreamIdleTimeoutMs: 600_000 } });
    upstream.server.keepAliveTimeout = 600_000;
    try {
      const runner = await startTestRunner(kept);
      await runner.announce(environment());
      assert.equal((await kept.request(portHost(id, upstream.port))).status, 200);
      assert.equal(kept.gateway.registry.legs()[0]?.openStreams, 1, 'a connection is kept');
      const before = systemClock.monotonic();
      await runner.close({ drain: 60_000 });
      assert.ok(systemClock.monotonic() - before < 30_000, 'it waited for a connection without a request');
    } finally {
      upstream.server.keepAliveTimeout = 5_000;
      await kept.close();
    }
  });

  it('that are killed: what is in flight ends, new requests get 503, and a new process serves again', async (t) => {
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'killed' });
    const config = join(gateway.stateDir, 'runner.yaml');
    await writeFile(
      config,
      JSON.stringify({
        gateway: `https://api.${DOMAIN}:${gateway.httpsPort}`,
        runnerId: runner.id,
        exchangeToken,
        stateDir: join(gateway.stateDir, 'runner'),
        ca: join(gateway.stateDir, 'self-signed', 'certificate.pem'),
        internal: `unix:${join(gateway.stateDir, 'runner.sock')}`,
        environments: [environment()],
      }),
    );
    const start = () =>
      startProcess(t, process.execPath, ['tunnel-client/src/main.ts', 'run', '--config', config], {
        cwd: join(import.meta.dirname, '../..'),
      });
    const first = start();
    await until(async () => (await status()) === 200);
    const hanging = gateway.request(portHost(id, upstream.port), '/hang');
    const begun = gateway.request(portHost(id, upstream.port), '/begin');
    const cut = assert.rejects(begun);
    await until(() => paths.includes('/hang') && paths.includes('/begin'));
    first.child.kill('SIGKILL');
    const killedAt = performance.now();
    const answer = await hanging;
    assert.deepEqual([answer.status, answer.headers['gateway-error']], [502, 'tunnel_lost']);
    await cut;
    assert.ok(performance.now() - killedAt < DEAD_MS);
    const offline = await gateway.request(portHost(id, upstream.port));
    assert.deepEqual([offline.status, offline.headers['retry-after']], [503, '5']);
    start();
    await until(async () => (await status()) === 200);
  });

  it('that are revoked by another process are cut within 10 s, and told why', async () => {
    const runner = await startTestRunner(gateway);
    await runner.announce(environment());
    assert.equal(await status(), 200);
    const down = new Promise<string>((resolve) => {
      runner.client.on('leg', (event) => event.type === 'down' && resolve(event.code));
    });
    const other = await openEmbeddedDirectory(
      { clock: systemClock },
      { path: join(gateway.stateDir, 'directory.sqlite'), issuer: 'https://unused' },
    );
    const started = performance.now();
    await other.revokeRunner(runner.id);
    await other.close();
    assert.equal(await down, 'revoked');
    assert.ok(performance.now() - started < 10_000);
    assert.equal(await status(), 503);
    await runner.close();
  });

  it('that claim the environment of another are refused, and the first is unaffected', async () => {
    const owner = await startTestRunner(gateway);
    await owner.announce(environment());
    const rival = await startTestRunner(gateway);
    const verdict = await rival.announce(environment());
    assert.deepEqual([verdict.accepted, verdict.code], [false, 'claimed']);
    const state = rival.client.status().environments.find((each) => each.id === id);
    assert.deepEqual([state?.state, state?.code], ['refused', 'claimed']);
    assert.equal(await status(), 200);
    const line = await gateway.waitFor((each) => each.msg === 'environment refused' && each['environmentId'] === id);
    assert.equal(line['runnerId'], rival.id);
    // Nor when the owner is away: its name is not given to who asks next.
    await owner.close();
    await until(async () => (await status()) === 503);
    await rival.close();
  });

  it('with 400 environments announce them in one go', async () => {
    const prefix = uniqueName('many');
    const environments = Array.from({ length: 400 }, (_, index) => ({ ...environment(), id: `${prefix}-${index}` }));
    const runner = await startTestRunner(gateway, { environments });
    await until(() => runner.client.status().environments.every(({ state }) => state === 'accepted'));
    id = `${prefix}-399`;
    assert.equal(await status(), 200);
    const announced = gateway.lines.filter((line) => line['runnerId'] === runner.id && line['accepted'] === 400);
    assert.equal(announced.length, 1);
    await runner.close();
  });

  it('in an update, two processes at once: no request fails while the old one goes', async () => {
    const old = await startTestRunner(gateway, { environments: [environment()] });
    await until(async () => (await status()) === 200);
    const young = await startTestRunner(gateway, { environments: [environment()], like: old });
    await until(() => young.client.status().environments.every(({ state }) => state === 'accepted'));
    const statuses: number[] = [];
    let ended = false;
    const asking = (async () => {
      while (!ended) statuses.push(await status());
    })();
    await old.client.close({ drain: 2_000 });
    await until(() => gateway.gateway.registry.legs().filter(({ runnerId }) => runnerId === old.id).length === 1);
    const enough = statuses.length + 5;
    await until(() => statuses.length >= enough);
    ended = true;
    await asking;
    assert.deepEqual([...new Set(statuses)], [200]);
    await young.close();
    await old.close();
  });
});
