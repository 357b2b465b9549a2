/** A list of gateways: the one that is connected to fastest is taken and kept; asked to, the runner moves. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { renderStatus } from '../../tunnel-client/src/cli/status.ts';
import { startGatewayPair } from '../support/gateway-pair.ts';
import { until } from '../support/runner.ts';

describe('a list of gateways', { timeout: 120_000 }, () => {
  it('is measured when the runner joins; the fastest one is taken, told, and kept over a restart', async (t) => {
    const { us, eu, start, isServedBy } = await startGatewayPair(t);
    us.door.delayMs = 400;
    const client = start();
    await client.ready();
    const { gateway, measurements } = client.status();
    assert.equal(gateway, eu.url);
    assert.deepEqual(
      measurements.map((each) => each.gateway),
      [us.url, eu.url],
    );
    const [slow, fast] = measurements.map(({ connectMs }) => connectMs ?? NaN);
    assert.ok(slow !== undefined && fast !== undefined && slow >= 400 && fast < slow, `${slow} ms, ${fast} ms`);
    assert.match(renderStatus(client.status(), Date.now()), new RegExp(`${eu.url} +\\d+\\.\\d ms +in use, fastest`));
    await until(() => isServedBy(eu));
    await client.close();

    us.door.delayMs = 0;
    eu.door.delayMs = 400;
    const again = start();
    await again.ready();
    assert.equal(again.status().gateway, eu.url);
    assert.equal(again.status().measurements.length, 2, 'what was measured then is still told');
  });

  it('is measured again when asked to; the runner moves, and its legs at the old gateway end', async (t) => {
    const { us, eu, start, isServedBy } = await startGatewayPair(t);
    us.door.delayMs = 400;
    const client = start();
    await client.ready();
    us.door.delayMs = 0;
    eu.door.delayMs = 400;
    const states: string[] = [];
    client.on('state', (state) => states.push(state));
    const result = await client.reselectGateway();
    assert.equal(result.gateway, us.url);
    await until(() => isServedBy(us));
    assert.deepEqual(states, [], 'there was a leg all along');
    await until(() => eu.gateway.gateway.registry.legs().length === 0, 30_000);
    assert.deepEqual(
      client.status().legs.map(({ gatewayId }) => gatewayId),
      [us.gateway.gateway.id],
    );
    // Nothing has changed since.
    assert.equal((await client.reselectGateway()).gateway, us.url);
  });

  it('is waited for while none of it answers', async (t) => {
    const { us, eu, start } = await startGatewayPair(t);
    us.door.delayMs = undefined;
    eu.door.delayMs = undefined;
    const client = start();
    const told = new Promise<string>((resolve) => {
      client.on('error', (_error, { message }) => resolve(message));
    });
    assert.match(await told, /none of the gateways can be reached/);
    assert.equal(client.status().gateway, undefined);
    assert.throws(() => client.callbackUrl('github'), RangeError);
    eu.door.delayMs = 0;
    await client.ready({ signal: AbortSignal.timeout(30_000) });
    assert.equal(client.status().gateway, eu.url);
  });

  it('is measured again after the configured time without a leg', async (t) => {
    const { us, eu, start } = await startGatewayPair(t);
    us.door.delayMs = 400;
    const client = start({ reselectAfterMs: 2_000 });
    client.on('error', () => undefined);
    await client.ready();
    assert.equal(client.status().gateway, eu.url);
    us.door.delayMs = 0;
    eu.door.delayMs = undefined;
    await eu.gateway.close();
    await until(() => client.status().gateway === us.url && client.status().state === 'online', 60_000);
  });
});
