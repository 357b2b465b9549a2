/** Two gateways of one domain: a runner has a leg to each, and several addresses of one gateway are tried side by side. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { gatewaysResponseSchema } from '../../shared/src/identity/enrolment.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { gatewayIdOf } from '../../gateway/src/tunnels/own-membership.ts';
import { tcpTargets } from '../../tunnel-client/src/tcp-connector.ts';
import { createUdpPath } from '../support/blocked-udp.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

describe('a runner and two gateways', { timeout: 60_000 }, () => {
  it('has a leg to each, 1 s apart, and goes on with the other one when one ends', async (t) => {
    const stateDir = await mkdtemp(join(tmpdir(), 'gateway-test-'));
    const directory = await openEmbeddedDirectory(
      { clock: systemClock },
      { path: join(stateDir, 'directory.sqlite'), issuer: `https://api.${DOMAIN}` },
    );
    t.after(async () => {
      await directory.close();
      await rm(stateDir, { recursive: true, force: true });
    });
    const gateways: TestGateway[] = [];
    const addressOf = ({ gateway, httpsPort, quicPort }: TestGateway): GatewayAddress => ({
      id: gateway.id,
      quic: [`127.0.0.1:${quicPort}`],
      tcp: [`tunnel.${DOMAIN}:${httpsPort}`],
    });
    const make = async (): Promise<TestGateway> => {
      const made: TestGateway = await startTestGateway({
        directory,
        otherGateways: () => gateways.filter((other) => other !== made).map(addressOf),
      });
      gateways.push(made);
      t.after(() => made.close());
      return made;
    };
    const [left, right] = [await make(), await make()];
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const runner = await startTestRunner(left, {
      environments: [{ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] }],
    });
    t.after(() => runner.close());
    const at = async (gateway: TestGateway): Promise<number> =>
      (await gateway.request(portHost('demo', upstream.port))).status;
    await until(() => runner.client.status().legs.length === 2);
    const [first, second] = runner.client.status().legs;
    assert.deepEqual(new Set([first?.gatewayId, second?.gatewayId]), new Set([left.gateway.id, right.gateway.id]));
    assert.ok((first?.upForMs ?? 0) - (second?.upForMs ?? 0) >= 900, 'one after the other');
    await until(async () => (await at(left)) === 200 && (await at(right)) === 200);

    await left.close();
    assert.equal(await at(right), 200);
    assert.equal(runner.client.status().state, 'online');
    assert.deepEqual(
      runner.client.status().legs.map(({ gatewayId }) => gatewayId),
      [right.gateway.id],
    );
  });

  it('is told name, region, domain, addresses and keys of each', async (t) => {
    const gateway = await startTestGateway({
      config: { name: 'Frankfurt 1', region: 'eu', domains: [DOMAIN, 'other.localhost'] },
    });
    t.after(() => gateway.close());
    const answer = await gateway.request(`api.${DOMAIN}`, '/v1/gateways');
    const { gateways } = gatewaysResponseSchema.parse(JSON.parse(answer.body));
    const [only, ...others] = gateways;
    assert.deepEqual(others, []);
    const { keys, ...rest } = only!;
    assert.deepEqual(rest, {
      id: gateway.gateway.id,
      name: 'Frankfurt 1',
      region: 'eu',
      domain: DOMAIN,
      quic: [`api.${DOMAIN}:${gateway.quicPort}`],
      tcp: [`tunnel.${DOMAIN}:${gateway.httpsPort}`],
    });
    assert.deepEqual(
      keys?.map((key) => gatewayIdOf(Buffer.from(key, 'base64url'))),
      [gateway.gateway.id],
    );
    const at = (host: string) => ({ origin: `https://${host}:1`, host, port: 1 });
    assert.deepEqual(tcpTargets(only!, at('api.other.localhost')), [
      { host: 'tunnel.other.localhost', port: gateway.httpsPort },
    ]);
    assert.deepEqual(tcpTargets({}, at('api.x.test')), [
      { host: 'tunnel.x.test', port: 1 },
      { host: 'tunnel.x.test', port: 8443 },
    ]);
  });

  it('passes over an address that is dead, and tries it last from then on', async (t) => {
    const [dead, alive] = [await createUdpPath(), await createUdpPath()];
    const quic = [`127.0.0.1:${dead.port}`, `127.0.0.1:${alive.port}`];
    const gateway = await startTestGateway({ config: { advertise: { quic, tcp: [] } } });
    alive.setServer(gateway.quicPort);
    t.after(async () => {
      await gateway.close();
      await Promise.all([dead.close(), alive.close()]);
    });
    const startedAt = performance.now();
    const runner = await startTestRunner(gateway);
    t.after(() => runner.close());
    assert.ok(performance.now() - startedAt < 2_400, 'QUIC was up before anything else was tried');
    assert.deepEqual(
      runner.client.status().legs.map(({ transport, remoteAddress }) => [transport, remoteAddress]),
      [['quic', `127.0.0.1:${alive.port}`]],
    );
  });
});
