/** Two gateways of one domain: a runner has a leg to each, and several addresses of one gateway are tried side by side. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../shared/src/identity/enrolment.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { gatewayIdOf } from '../../gateway/src/tunnels/own-membership.ts';
import { createApiClient } from '../../tunnel-client/src/api-client.ts';
import { renderStatus } from '../../tunnel-client/src/cli/status.ts';
import { parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { createOutbound } from '../../tunnel-client/src/outbound.ts';
import { NO_PROXY_SETTINGS } from '../../tunnel-client/src/proxy-settings.ts';
import type { Resolver } from '../../tunnel-client/src/resolver.ts';
import { tcpTargets } from '../../tunnel-client/src/tcp-connector.ts';
import { createUdpPath } from '../support/blocked-udp.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

const openDirectory = async (t: TestContext): Promise<Directory> => {
  const stateDir = await temporaryDirectory(t);
  const path = join(stateDir, 'directory.sqlite');
  const directory = await openEmbeddedDirectory({ clock: systemClock }, { path, issuer: `https://api.${DOMAIN}` });
  t.after(() => directory.close());
  return directory;
};

describe('a runner and two gateways', { timeout: 120_000 }, () => {
  it('has a leg to each, 1 s apart, and goes on with the other one when one ends', async (t) => {
    const directory = await openDirectory(t);
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

  it('scores each leg by echoes, and holds the one for healthiest that answers soonest', async (t) => {
    const directory = await openDirectory(t);
    const paths = [await createUdpPath(), await createUdpPath()] as const;
    const gateways: TestGateway[] = [];
    const quicOf = (index: number): string[] => [`127.0.0.1:${paths[index]?.port}`];
    for (const [index, path] of paths.entries()) {
      const other = 1 - index;
      const made = await startTestGateway({
        directory,
        config: { advertise: { quic: quicOf(index), tcp: [] } },
        otherGateways: () =>
          gateways.slice(other, other + 1).map(({ gateway }) => ({ id: gateway.id, quic: quicOf(other) })),
      });
      gateways.push(made);
      path.setServer(made.quicPort);
      t.after(async () => {
        await made.close();
        await path.close();
      });
    }
    const idOf = (index: number): string => gateways[index]?.gateway.id ?? '';
    paths[0].setWeather({ delayMs: 60 });
    const runner = await startTestRunner(gateways[0]!, { transport: 'quic' });
    t.after(() => runner.close());
    const legTo = (id: string) => runner.client.status().legs.find(({ gatewayId }) => gatewayId === id);
    const areScored = (): boolean => [0, 1].every((index) => legTo(idOf(index))?.echoMs !== undefined);
    await until(areScored, 30_000);
    assert.ok((legTo(idOf(0))?.echoMs ?? 0) >= 120, 'both ways of a slow path');
    assert.deepEqual([legTo(idOf(0))?.isHealthiest, legTo(idOf(1))?.isHealthiest], [false, true]);
    assert.match(renderStatus(runner.client.status(), Date.now()), new RegExp(`^\\* +${idOf(1)} `, 'm'));

    paths[0].setWeather({ delayMs: 0 });
    paths[1].setWeather({ delayMs: 100 });
    await until(() => legTo(idOf(0))?.isHealthiest === true && legTo(idOf(1))?.isHealthiest === false, 40_000);
    assert.deepEqual(
      runner.client.status().legs.map(({ state }) => state),
      ['up', 'up'],
      'a slow leg stays',
    );
  });

  it('asks the API of the gateway where its healthiest leg ends, where the name means several', async (t) => {
    const directory = await openDirectory(t);
    const first = await startTestGateway({ directory });
    t.after(() => first.close());
    const tls = [
      {
        certificate: join(first.stateDir, 'self-signed', 'certificate.pem'),
        key: join(first.stateDir, 'self-signed', 'key.pem'),
      },
    ];
    const port = first.httpsPort;
    const second = await startTestGateway({
      directory,
      config: {
        tls,
        listeners: {
          ...{ https: [{ host: '127.0.0.2', port }], quic: [{ host: '127.0.0.1', port: 0 }], http: [] },
          internal: { kind: 'tcp', host: '127.0.0.1', port: 0 },
        },
      },
    });
    t.after(() => second.close());
    const resolver: Resolver = {
      resolve: () =>
        Promise.resolve(['127.0.0.1', '127.0.0.2', '127.0.0.3'].map((address) => ({ address, family: 4 as const }))),
      forget: () => undefined,
    };
    let preferredAddress: string | undefined;
    const clock = systemClock;
    const outbound = createOutbound({ clock, resolver }, { proxy: NO_PROXY_SETTINGS, ca: first.ca });
    const api = createApiClient(
      { clock, outbound, preferredAddress: () => preferredAddress },
      { url: parseGatewayUrl(first.url), userAgent: 'test' },
    );
    const answeredBy = async (): Promise<string | undefined> => {
      const { gateways } = await api.get(GATEWAYS_PATH, gatewaysResponseSchema, {
        signal: AbortSignal.timeout(15_000),
      });
      return gateways[0]?.id;
    };
    assert.equal(await answeredBy(), first.gateway.id);
    preferredAddress = '127.0.0.2';
    assert.equal(await answeredBy(), second.gateway.id);
    preferredAddress = '127.0.0.3';
    assert.equal(await answeredBy(), first.gateway.id, 'nobody is there any more');
    preferredAddress = '192.0.2.1';
    assert.equal(await answeredBy(), first.gateway.id, 'an address that the name does not mean counts for nothing');
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
