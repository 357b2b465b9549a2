// needs: squid, openssl
/** The client's way out through a real HTTP proxy: the API, both transports over TCP, and what is said when it fails. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { after, before, describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../shared/src/identity/enrolment.ts';
import { createApiClient, type ApiClient } from '../../tunnel-client/src/api-client.ts';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { createOutbound, OutboundError, type Outbound } from '../../tunnel-client/src/outbound.ts';
import { proxySettingsOf } from '../../tunnel-client/src/proxy-settings.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { startTestRunner, startUpstream, until, type TestRunner, type TestUpstream } from '../support/runner.ts';
import { SQUID_CA_NAME, startSquid, type Squid } from '../support/squid.ts';

const never = new AbortController().signal;
const API = `api.${DOMAIN}`;
const TUNNEL = `tunnel.${DOMAIN}`;

const rejection = async (promise: Promise<unknown>): Promise<Error> => {
  const error: unknown = await promise.then(
    () => assert.fail('it was not rejected'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof Error);
  return error;
};

describe('through an HTTP proxy', () => {
  let gateway: TestGateway;
  before(async () => {
    gateway = await startTestGateway();
  });
  after(async () => {
    await gateway.close();
  });

  const outboundWith = (env: Record<string, string>, ca?: string): Outbound => {
    const { settings, problems } = proxySettingsOf(env);
    assert.deepEqual(problems, []);
    return createOutbound(
      { clock: systemClock, resolver: createResolver({ clock: systemClock }) },
      { ca: ca ?? gateway.ca, proxy: settings },
    );
  };
  const apiWith = (outbound: Outbound): ApiClient =>
    createApiClient({ clock: systemClock, outbound }, { url: parseGatewayUrl(gateway.url), userAgent: 'test' });
  const ask = (outbound: Outbound) => apiWith(outbound).get(GATEWAYS_PATH, gatewaysResponseSchema, { signal: never });
  const connect = (outbound: Outbound, alpn: readonly string[] = ['http/1.1']) =>
    outbound.connectTls({ host: TUNNEL, port: gateway.httpsPort, servername: TUNNEL, alpn }, { signal: never });

  it('reaches the API with CONNECT, and ALPN is agreed with the gateway', async (t) => {
    const squid = await startSquid(t);
    const outbound = outboundWith({ HTTPS_PROXY: squid.url });
    assert.equal((await ask(outbound)).gateways.length, 1);
    for (const protocol of ['h2', 'http/1.1']) {
      const socket = await connect(outbound, [protocol]);
      assert.equal(socket.alpnProtocol, protocol);
      assert.equal(socket.remotePort, squid.port);
      socket.destroy();
    }
    await until(async () => (await squid.requests()).length === 3);
    assert.equal((await squid.requests())[0], `CONNECT ${API}:${gateway.httpsPort} 200`);
  });

  it('goes direct where NO_PROXY says so', async (t) => {
    const squid = await startSquid(t);
    for (const except of [DOMAIN, `.${DOMAIN}:${gateway.httpsPort}`, '127.0.0.0/8,::1', '*']) {
      const outbound = outboundWith({ HTTPS_PROXY: squid.url, NO_PROXY: except });
      await ask(outbound);
      assert.equal(await outbound.proxyOf({ host: API, port: gateway.httpsPort }, { signal: never }), undefined);
    }
    assert.deepEqual(await squid.requests(), []);
    const outbound = outboundWith({ HTTPS_PROXY: squid.url, NO_PROXY: `127.0.0.0/8,${DOMAIN}:1` });
    await ask(outbound);
    // ::1 is outside of 127.0.0.0/8, and the port is another one.
    await until(async () => (await squid.requests()).length === 1);
  });

  it('speaks TLS with the proxy itself', async (t) => {
    const squid = await startSquid(t, { tls: true });
    const outbound = outboundWith({ https_proxy: squid.url }, `${gateway.ca}\n${squid.ca}`);
    assert.equal((await ask(outbound)).gateways.length, 1);
    const socket = await connect(outbound, ['h2']);
    assert.equal(socket.alpnProtocol, 'h2');
    assert.equal(socket.remotePort, squid.port);
    socket.destroy();
    const error = await rejection(ask(outboundWith({ https_proxy: squid.url })));
    assert.match(error.message, /the proxy's certificate was issued by Example Inspecting CA \(Example Corp\)/);
  });

  it('gives user name and password, and says 407 when they are not taken', async (t) => {
    const squid = await startSquid(t, { login: { user: 'user@x', password: 'p@ss:w%rd/é' } });
    const { host } = new URL(squid.url);
    const login = `user%40x:${encodeURIComponent('p@ss:w%rd/é')}`;
    assert.equal((await ask(outboundWith({ HTTPS_PROXY: `http://${login}@${host}` }))).gateways.length, 1);
    for (const credentials of ['', 'user%40x:wrong-secret@']) {
      const error = await rejection(ask(outboundWith({ HTTPS_PROXY: `http://${credentials}${host}` })));
      assert.match(
        error.message,
        /through the proxy http:\/\/proxy\.localhost:\d+ .*\(407\); put them into HTTPS_PROXY/,
      );
      assert.doesNotMatch(JSON.stringify([error.message, error.cause]), /wrong-secret/);
      assert.equal((error.cause as OutboundError).code, 'proxy_authentication');
    }
  });

  it('says 403 when the proxy forbids the connection', async (t) => {
    const squid = await startSquid(t, {
      rules: ['acl tunnels dstdomain .gateway.localhost', 'http_access deny tunnels'],
    });
    const error = await rejection(ask(outboundWith({ HTTPS_PROXY: squid.url })));
    assert.match(error.message, /does not allow this connection \(403\); let it CONNECT to this host/);
    assert.equal((error.cause as OutboundError).code, 'proxy_denied');
  });

  it('says what else may be wrong with a proxy', async (t) => {
    const code = async (url: string): Promise<[string, string]> => {
      const error = (await rejection(connect(outboundWith({ HTTPS_PROXY: url })))) as OutboundError;
      assert.ok(error instanceof OutboundError, String(error));
      return [error.code, error.message];
    };
    const squid = await startSquid(t);
    // The gateway's certificate is for another name than that of the proxy; and it is no proxy.
    assert.deepEqual((await code(`https://127.0.0.1:${gateway.httpsPort}`))[0], 'wrong_name');
    assert.deepEqual((await code(`https://127.0.0.1:${squid.port}`))[0], 'proxy_failed');
    assert.deepEqual((await code(`http://127.0.0.1:${gateway.httpsPort}`))[0], 'proxy_failed');
    const [down, message] = await code('http://127.0.0.1:1');
    assert.equal(down, 'proxy_unreachable');
    assert.match(message, /through the proxy http:\/\/127\.0\.0\.1:1 \(tried 127\.0\.0\.1:1\): .*ECONNREFUSED/);
    assert.equal((await code('http://proxy.invalid:1'))[0], 'proxy_unreachable');

    const outbound = outboundWith({ HTTPS_PROXY: squid.url });
    const target = { host: TUNNEL, port: 1, servername: TUNNEL, alpn: [] };
    const refused = (await rejection(outbound.connectTls(target, { signal: never }))) as OutboundError;
    assert.equal(refused.code, 'proxy_failed');
    assert.match(refused.message, /the proxy answered 503 to CONNECT/);
  });

  it('ends with the signal while a proxy does not answer', async (t) => {
    const silent = createServer(() => undefined).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const sockets: Socket[] = [];
    silent.on('connection', (socket) => sockets.push(socket));
    t.after(() => {
      sockets.forEach((socket) => socket.destroy());
      silent.close();
    });
    for (const scheme of ['http', 'https']) {
      const outbound = outboundWith({ HTTPS_PROXY: `${scheme}://127.0.0.1:${(silent.address() as AddressInfo).port}` });
      const controller = new AbortController();
      const target = { host: TUNNEL, port: 1, servername: TUNNEL, alpn: [] };
      const asked = outbound.connectTls(target, { signal: controller.signal });
      const [socket] = (await once(silent, 'connection')) as [Socket];
      await once(socket, 'readable');
      const reason = new Error('enough');
      controller.abort(reason);
      assert.equal(await rejection(asked), reason);
      socket.resume();
      await once(socket, 'close');
    }
  });

  it('names the issuer that an inspecting proxy presents, and the option that would accept it', async (t) => {
    const squid = await startSquid(t, { inspect: { upgrades: true } });
    const error = await rejection(ask(outboundWith({ HTTPS_PROXY: squid.url })));
    const said = `its certificate was issued by ${SQUID_CA_NAME} (Example Corp), which is not trusted here; give the certificate of that issuer with \`ca\``;
    assert.ok(error.message.endsWith(said), error.message);
    assert.equal((error.cause as OutboundError).issuer, `${SQUID_CA_NAME} (Example Corp)`);

    const outbound = outboundWith({ HTTPS_PROXY: squid.url }, squid.ca);
    assert.equal((await ask(outbound)).gateways.length, 1);
    const socket = await connect(outbound, ['h2', 'http/1.1']);
    assert.equal(socket.alpnProtocol, false, 'no ALPN: HTTP/2 is out of the question');
    socket.destroy();
  });
});

describe('a runner behind an HTTP proxy, where UDP does not pass', { timeout: 120_000 }, () => {
  let gateway: TestGateway;
  let upstream: TestUpstream;
  const body = randomBytes(3 << 20);
  before(async () => {
    // Nothing answers there.
    gateway = await startTestGateway({ config: { advertise: { quic: ['127.0.0.1:9'], tcp: [] } } });
    upstream = await startUpstream((_request, response) => response.end(body));
  });
  after(async () => {
    await gateway.close();
    await upstream.close();
  });

  const runnerThrough = async (t: TestContext, squid: Squid, ca: string): Promise<TestRunner> => {
    const { settings } = proxySettingsOf({ HTTPS_PROXY: squid.url });
    const runner = await startTestRunner(gateway, { proxy: settings, ca });
    t.after(() => runner.close());
    return runner;
  };
  /** A whole download through the runner's only leg. */
  const serves = async (runner: TestRunner, id: string): Promise<void> => {
    await runner.announce({ id, ports: [{ port: upstream.port, admission: 'everyone' }] });
    const answer = await gateway.request(portHost(id, upstream.port));
    assert.equal(answer.status, 200);
    assert.equal(answer.body.length, body.toString('utf8').length);
  };

  it('gets through with WebTransport, and nothing is inspected', async (t) => {
    const squid = await startSquid(t);
    const runner = await runnerThrough(t, squid, gateway.ca);
    await serves(runner, 'plain-proxy');
    const [leg] = runner.client.status().legs;
    assert.deepEqual([leg?.transport, leg?.inspected], ['webtransport', false]);
    assert.equal(leg?.remoteAddress, `127.0.0.1:${squid.port}`);
  });

  it('gets through a TLS connection to the proxy', async (t) => {
    const squid = await startSquid(t, { tls: true });
    const runner = await runnerThrough(t, squid, `${gateway.ca}${squid.ca}`);
    await serves(runner, 'tls-proxy');
    const [leg] = runner.client.status().legs;
    assert.deepEqual([leg?.transport, leg?.inspected], ['webtransport', false]);
  });

  it('gets through TLS inspection with a WebSocket, and everybody is told', async (t) => {
    const squid = await startSquid(t, { inspect: { upgrades: true } });
    const runner = await runnerThrough(t, squid, squid.ca);
    await serves(runner, 'inspected');
    const [leg] = runner.client.status().legs;
    assert.deepEqual([leg?.transport, leg?.inspected, leg?.reason], ['websocket', true, 'no_http2']);
    const line = await gateway.waitFor(({ msg, runnerId }) => msg === 'leg up' && runnerId === runner.id);
    assert.deepEqual([line['transport'], line['inspected']], ['websocket', true]);
    const listed = gateway.gateway.registry.legs().find((entry) => entry.runnerId === runner.id);
    assert.deepEqual([listed?.transport, listed?.inspected], ['websocket', true]);
  });

  it('says what to except from inspection where the proxy strips upgrades too', async (t) => {
    const squid = await startSquid(t, { inspect: { upgrades: false } });
    const { settings } = proxySettingsOf({ HTTPS_PROXY: squid.url });
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'stripped' });
    const stateDir = await temporaryDirectory(t);
    const client = connectRunner({
      ...{ gateway: gateway.url, runnerId: runner.id, exchangeToken, stateDir, ca: squid.ca, proxy: settings },
    });
    t.after(() => client.close());
    await until(() => client.status().problems.some(({ message }) => /WebSocket: /.test(message)), 30_000);
    const { message } = client.status().problems.find((problem) => /WebSocket: /.test(problem.message))!;
    assert.match(message, /WebTransport: .*no HTTP\/2/);
    assert.match(message, new RegExp(`except ${API} and ${TUNNEL} from inspection`));
    assert.equal(client.status().state, 'connecting', 'it joined, and goes on trying');
  });
});
