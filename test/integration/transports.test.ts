/** The tunnel client on each of its transports, and between them, through a whole gateway. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { BETTER_LIMITS } from '../../tunnel-client/src/better-transport.ts';
import { renderMetrics } from '../../tunnel-client/src/metrics.ts';
import { renderStatus } from '../../tunnel-client/src/cli/status.ts';
import { startGatewayBehindUdpPath } from '../support/blocked-udp.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, type TestRunner, type TestRunnerOptions, until } from '../support/runner.ts';

/** Timers so long wait for a jump of the clock. */
const LONG_TIMER_MS = 30_000;

/** Real time, but for what takes half a minute and more. */
const createJumpingClock = () => {
  let offset = 0;
  const long = new Set<{ readonly at: number; readonly callback: () => void }>();
  const monotonic = (): number => systemClock.monotonic() + offset;
  return {
    now: () => Date.now() + offset,
    monotonic,
    timer(delayMs: number, callback: () => void) {
      if (delayMs < LONG_TIMER_MS) return systemClock.timer(delayMs, callback);
      const timer = { at: monotonic() + delayMs, callback };
      long.add(timer);
      return () => void long.delete(timer);
    },
    jump(ms: number) {
      offset += ms;
      for (const timer of [...long].filter(({ at }) => at <= monotonic())) {
        long.delete(timer);
        timer.callback();
      }
    },
  };
};

const startRunner = async (t: TestContext, gateway: TestGateway, options: TestRunnerOptions = {}) => {
  const upstream = await startUpstream((request, response) => void request.pipe(response));
  t.after(() => upstream.close());
  const runner = await startTestRunner(gateway, options);
  t.after(() => runner.close());
  const verdict = await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
  assert.equal(verdict.accepted, true);
  const echo = async (text: string): Promise<void> => {
    const answer = await gateway.request(portHost('demo', upstream.port), '/', { method: 'POST', payload: text });
    assert.deepEqual([answer.status, answer.body], [200, text]);
  };
  return { runner, echo };
};

const ways = ({ client }: TestRunner): (readonly string[])[] =>
  client.status().legs.map(({ transport, reason, state }) => [transport, reason, state]);
const served = ({ client }: TestRunner): string | undefined =>
  client.status().legs.find(({ state }) => state === 'up')?.transport;

for (const transport of ['quic', 'webtransport', 'websocket'] as const) {
  describe(`the tunnel client over ${transport}`, { timeout: 60_000 }, () => {
    it('carries requests, and says how and why', async (t) => {
      const gateway = await startTestGateway();
      t.after(() => gateway.close());
      const { runner, echo } = await startRunner(t, gateway, { transport });
      await echo('hello');
      assert.deepEqual(ways(runner), [[transport, 'configured', 'up']]);
      const [seen] = gateway.gateway.registry.legs();
      assert.deepEqual([seen?.transport, seen?.inspected, seen?.state], [transport, false, 'up']);
      const metrics = await (await gateway.internal('/metrics')).text();
      assert.match(metrics, new RegExp(`^gitpod_gateway_legs\\{transport="${transport}"\\} 1$`, 'm'));
      const own = renderMetrics(runner.client.status());
      assert.match(own, new RegExp(`^gitpod_tunnel_client_legs\\{transport="${transport}"\\} 1$`, 'm'));
      assert.match(
        own,
        new RegExp(`_leg_transport_info\\{transport="${transport}",reason="configured",inspected="false"\\} 1$`, 'm'),
      );
    });
  });
}

describe('the tunnel client where UDP does not pass', { timeout: 120_000 }, () => {
  it('is up within 5 s of its start, over WebTransport, and says why', async (t) => {
    const { gateway, udp, close } = await startGatewayBehindUdpPath();
    t.after(close);
    udp.setOpen(false);
    const startedAt = performance.now();
    const { runner, echo } = await startRunner(t, gateway);
    assert.ok(performance.now() - startedAt < 5_000, `${performance.now() - startedAt} ms`);
    assert.deepEqual(ways(runner), [['webtransport', 'quic_silent', 'up']]);
    await echo('over TCP');
    const shown = renderStatus(runner.client.status(), Date.now());
    assert.match(shown, /WebTransport, because QUIC gave no answer: UDP seems to be\s+blocked/);
  });

  it('switches within 10 s when UDP dies, and a request that waits is answered', async (t) => {
    const { gateway, udp, close } = await startGatewayBehindUdpPath();
    t.after(close);
    const { runner, echo } = await startRunner(t, gateway);
    assert.deepEqual(ways(runner), [['quic', 'first', 'up']]);
    await echo('over UDP');
    udp.setOpen(false);
    const cutAt = performance.now();
    await until(() => served(runner) === 'webtransport', 20_000);
    assert.ok(performance.now() - cutAt < 10_000, `${performance.now() - cutAt} ms`);
    await echo('over TCP');
  });

  it('moves back to QUIC when it works again, and no request fails', async (t) => {
    const clock = createJumpingClock();
    const { gateway, udp, close } = await startGatewayBehindUdpPath();
    t.after(close);
    udp.setOpen(false);
    const { runner, echo } = await startRunner(t, gateway, { clock });
    assert.equal(served(runner), 'webtransport');
    udp.setOpen(true);
    let isOver = false;
    let requests = 0;
    const load = Promise.all(
      Array.from({ length: 4 }, async (_, index) => {
        while (!isOver) await echo(`request ${index} ${requests++}`);
      }),
    );
    clock.jump(BETTER_LIMITS.firstLookMs * (1 + BETTER_LIMITS.lookJitter));
    await until(() => ways(runner).some(([transport, , state]) => transport === 'quic' && state === 'standby'));
    assert.equal(served(runner), 'webtransport');
    const trialAt = performance.now();
    await until(() => served(runner) === 'quic', 30_000);
    assert.ok(performance.now() - trialAt >= BETTER_LIMITS.trialMs - 1_000);
    assert.ok(ways(runner).some(([transport, reason]) => transport === 'quic' && reason === 'better'));
    await until(() => ways(runner).length === 1, 30_000);
    isOver = true;
    await load;
    assert.ok(requests > 20, `${requests} requests`);
    await echo('over UDP again');
  });
});
