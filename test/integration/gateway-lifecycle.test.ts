/** Start and end of a gateway. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { startGateway, StartError } from '../../gateway/src/gateway.ts';
import {
  fetchOnce,
  keepLog,
  portHost,
  startTestGateway,
  startTestGatewayAgain,
  testConfig,
} from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

const never = new AbortController().signal;
const isAccepted = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
const withStateDir = async (use: (stateDir: string) => Promise<void>): Promise<void> => {
  const stateDir = await mkdtemp(join(tmpdir(), 'gateway-test-'));
  try {
    await use(stateDir);
  } finally {
    await rm(stateDir, { recursive: true, force: true });
  }
};

describe('start', () => {
  it('names the option of a busy port, and leaves nothing behind', () =>
    withStateDir(async (stateDir) => {
      const tcp = createServer().listen(0, '127.0.0.1');
      const udp = createSocket('udp4').bind(0, '127.0.0.1');
      await Promise.all([once(tcp, 'listening'), once(udp, 'listening')]);
      const { port: tcpPort } = tcp.address() as { port: number };
      const { port: udpPort } = udp.address();
      const at = (port: number) => ({ host: '127.0.0.1', port });
      const base = testConfig(stateDir);
      const cases = {
        'listeners.https': { https: [at(tcpPort)] },
        'listeners.http': { http: [at(tcpPort)] },
        'listeners.quic': { quic: [at(udpPort)] },
        'listeners.internal': { internal: { kind: 'tcp', ...at(tcpPort) } as const },
      };
      for (const [option, listeners] of Object.entries(cases)) {
        const config = { ...base, listeners: { ...base.listeners, ...listeners } };
        await assert.rejects(startGateway(config, { log: keepLog().log }, { signal: never }), (error) => {
          assert.ok(error instanceof StartError);
          assert.equal(error.option, option);
          assert.match(error.problem, /in use by another process\. Stop that process, or set listeners\.\w+/);
          return true;
        });
      }
      tcp.close();
      udp.close();
      // Everything that was opened on the way is closed: the same state starts again.
      const gateway = await startGateway(base, { log: keepLog().log }, { signal: never });
      await gateway.close();
    }));

  it('says what is wrong with a broken key', () =>
    withStateDir(async (stateDir) => {
      await writeFile(join(stateDir, 'gateway-key.json'), '{"kty":"OKP"}');
      await assert.rejects(
        startGateway(testConfig(stateDir), { log: keepLog().log }, { signal: never }),
        (error) => error instanceof StartError && /gateway-key\.json is broken/.test(error.problem),
      );
    }));

  it('does not start when it was told to end before', () =>
    withStateDir(async (stateDir) => {
      const signal = AbortSignal.abort(new Error('asked to end'));
      await assert.rejects(startGateway(testConfig(stateDir), { log: keepLog().log }, { signal }), /asked to end/);
    }));

  it('keeps its id and its key over a restart', () =>
    withStateDir(async (stateDir) => {
      const first = await startTestGateway({ stateDir });
      const { id } = first.gateway;
      await first.close();
      const second = await startTestGateway({ stateDir });
      assert.equal(second.gateway.id, id);
      await second.close();
    }));

  it('shows a page on the domain itself, over HTTP/1.1', async () => {
    const gateway = await startTestGateway();
    try {
      const page = await gateway.request('gateway.localhost');
      assert.equal(page.status, 200);
      assert.match(page.body, /This is a Gitpod Gateway/);
      assert.match(String(page.headers['content-security-policy']), /default-src 'none'/);
      assert.equal(page.headers['cache-control'], 'no-store');
      const post = await gateway.request('gateway.localhost', '/', { method: 'POST', payload: 'x' });
      assert.deepEqual([post.status, post.headers['gateway-error']], [405, 'method_not_allowed']);
      const other = await gateway.request('gateway.localhost', '/wp-login.php');
      assert.deepEqual([other.status, other.headers['gateway-error']], [404, 'not_found']);
      assert.equal((await gateway.request('gateway.localhost', '/_health')).status, 200);
    } finally {
      await gateway.close();
    }
  });
});

describe('end', () => {
  it('takes less than a second without traffic, says so to its runners, and twice is once', async () => {
    const gateway = await startTestGateway();
    const runner = await startTestRunner(gateway);
    const down = new Promise<string>((resolve) => {
      runner.client.on('leg', (event) => event.type === 'down' && resolve(event.code));
    });
    const before = performance.now();
    await Promise.all([gateway.close({ drainTimeoutMs: 30_000 }), gateway.close()]);
    assert.ok(performance.now() - before < 1_000);
    assert.equal(await down, 'draining');
    await runner.close();
  });

  it('is not ready while it drains, and lets a request in flight end', async () => {
    const gateway = await startTestGateway();
    const runner = await startTestRunner(gateway);
    let response: ServerResponse | undefined;
    const upstream = await startUpstream((_request, answer) => {
      response = answer;
    });
    await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
    const answer = gateway.request(portHost('demo', upstream.port));
    await until(() => response !== undefined);
    const closed = gateway.close({ drainTimeoutMs: 10_000 });
    await until(async () => (await gateway.internal('/readyz')).status === 503);
    assert.equal((await gateway.internal('/livez')).status, 200);
    // Nothing new comes in, as soon as what the system had accepted is taken.
    await until(async () => !(await isAccepted(gateway.httpsPort)));
    await assert.rejects(fetchOnce(gateway.httpsPort, portHost('demo', upstream.port)));
    response?.end('finished');
    assert.deepEqual([(await answer).status, (await answer).body], [200, 'finished']);
    await closed;
    await runner.close();
    await upstream.close();
  });

  it('cuts what is still in flight when the drain time is over', async () => {
    const gateway = await startTestGateway();
    const runner = await startTestRunner(gateway);
    const upstream = await startUpstream((_request, answer) => answer.write('never ends'));
    await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
    const answer = gateway.request(portHost('demo', upstream.port));
    await until(() => upstream.requests() === 1);
    const cut = assert.rejects(answer);
    await gateway.close({ drainTimeoutMs: 300 });
    await cut;
    await runner.close();
    await upstream.close();
  });

  it('is served again by a gateway that comes back at the same address', () =>
    withStateDir(async (stateDir) => {
      const first = await startTestGateway({ stateDir });
      const runner = await startTestRunner(first);
      const upstream = await startUpstream((_request, answer) => answer.end('hello'));
      await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
      const { httpsPort, quicPort } = first;
      await first.close();
      const second = await startTestGatewayAgain({ stateDir, httpsPort, quicPort });
      const before = performance.now();
      const host = portHost('demo', upstream.port);
      const offline = await second.request(host);
      if (offline.status !== 200) {
        assert.deepEqual([offline.status, offline.headers['retry-after']], [503, '5']);
      }
      await until(async () => (await second.request(host)).status === 200, 6_000);
      assert.ok(performance.now() - before < 6_000);
      await runner.close();
      await second.close();
      await upstream.close();
    }));
});
