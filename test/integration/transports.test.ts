/** The tunnel client on each of its transports, through a whole gateway. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream } from '../support/runner.ts';

for (const transport of ['quic', 'webtransport', 'websocket'] as const) {
  describe(`the tunnel client over ${transport}`, () => {
    it('carries requests, and says how and why', async () => {
      const gateway = await startTestGateway();
      const upstream = await startUpstream((request, response) => void request.pipe(response));
      const runner = await startTestRunner(gateway, { transport });
      const verdict = await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
      assert.equal(verdict.accepted, true);
      const answer = await gateway.request(portHost('demo', upstream.port), '/', { method: 'POST', payload: 'hello' });
      assert.deepEqual([answer.status, answer.body], [200, 'hello']);
      const [leg, ...others] = runner.client.status().legs;
      assert.deepEqual(others, []);
      assert.deepEqual([leg?.transport, leg?.reason, leg?.inspected], [transport, 'configured', false]);
      const [seen] = gateway.gateway.registry.legs();
      assert.deepEqual([seen?.transport, seen?.inspected, seen?.state], [transport, false, 'up']);
      await runner.close();
      await gateway.close();
      await upstream.close();
    });
  });
}
