// needs: nginx-stream, haproxy
/**
 * A gateway behind real load balancers, with the examples of docs/load-balancers.md: what visitors, applications and
 * runners see is what they see without one.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { test, type TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { WebSocketServer } from 'ws';
import { PORT_COOKIE } from '../../gateway/src/access/port-session.ts';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { DOMAIN, startTestGateway, type TestGateway } from '../support/gateway.ts';
import {
  BALANCER_ADDRESS,
  behind,
  example,
  freePorts,
  startHaproxy,
  startNginx,
  type BalancedGateway,
  type FrontPorts,
} from '../support/load-balancers.ts';
import { openWebSocket } from '../support/port-access.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';
import { createVisitor, startApplication, startSignInWorld } from '../support/sign-in-world.ts';

/** Where the visitors of these tests are. */
const VISITOR = '127.0.0.9';
const BODY_BYTES = 3 << 20;

type StartFront = (t: TestContext, ports: FrontPorts, gateway: BalancedGateway) => Promise<void>;

const plainPortOf = (gateway: TestGateway): BalancedGateway => ({
  plainPort: gateway.gateway.addresses.http[0]?.port ?? 0,
});

/** An application that says what came to it; `/slow` says a first word and waits, `/upload` counts. */
const startMirror = async (t: TestContext) => {
  const mirror = await startUpstream((request, response) => {
    if (request.url === '/slow') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      return void response.write('data: first\n\n');
    }
    let bytes = 0;
    request.on('data', (chunk: Buffer) => (bytes += chunk.length));
    request.on('end', () => response.end(JSON.stringify({ headers: request.headers, bytes })));
  });
  t.after(() => mirror.close());
  const sockets = new WebSocketServer({ server: mirror.server });
  sockets.on('connection', (socket, request) => {
    socket.on('message', (data) => socket.send(`${String(data)} ${request.headers['x-forwarded-for'] as string}`));
  });
  return mirror;
};

const ask = async (
  port: number,
  host: string,
  options: { path?: string; headers?: Record<string, string>; method?: string; body?: Buffer; plain?: boolean } = {},
): Promise<IncomingMessage> => {
  const { path = '/', headers = {}, method = 'GET', body, plain } = options;
  const request = (plain ? httpRequest : httpsRequest)({
    host: '127.0.0.1',
    port,
    localAddress: VISITOR,
    servername: host,
    rejectUnauthorized: false,
    agent: false,
    path,
    method,
    headers: { host: `${host}:${port}`, ...headers },
  });
  request.end(body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return response;
};
const textOf = async (response: IncomingMessage): Promise<string> => {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk as string;
  return text;
};
interface Mirrored {
  readonly headers: Readonly<Record<string, string>>;
  readonly bytes: number;
}
const mirrored = async (response: IncomingMessage): Promise<Mirrored> => {
  const text = await textOf(response);
  assert.equal(response.statusCode, 200, text);
  return JSON.parse(text) as Mirrored;
};

/** What every front end has to let through, whatever it speaks with the gateway. */
const visitorsSeeNoDifference = async (
  t: TestContext,
  startFront: StartFront,
  expected: { readonly protocol: string; readonly passed: boolean },
): Promise<void> => {
  const ports = await freePorts();
  const gateway = await startTestGateway({ config: behind(ports, expected) });
  t.after(() => gateway.close());
  await startFront(t, ports, plainPortOf(gateway));
  const runner = await startTestRunner(gateway, {
    // What the front does to tunnels over TCP is another test.
    gateway: `https://api.${DOMAIN}:${ports.tunnel}`,
    transport: 'quic',
  });
  t.after(() => runner.close());
  const mirror = await startMirror(t);
  const announced = await runner.announce({ id: 'demo', ports: [{ port: mirror.port, admission: 'everyone' }] });
  assert.ok(announced.accepted);
  const host = `${mirror.port}--demo.${DOMAIN}`;
  assert.deepEqual(announced.urls, [{ port: mirror.port, url: `https://${host}:${ports.https}/` }]);

  await t.test('a request, with whatever the visitor claims to be', async () => {
    const { headers } = await mirrored(
      await ask(ports.https, host, {
        headers: {
          'x-forwarded-for': '203.0.113.5',
          'x-forwarded-host': `9999--other.${DOMAIN}`,
          'x-forwarded-port': '1',
          'x-real-ip': '203.0.113.5',
          forwarded: 'for=203.0.113.5',
        },
      }),
    );
    assert.equal(headers['x-forwarded-for'], VISITOR);
    assert.equal(headers['x-forwarded-proto'], 'https');
    assert.equal(headers['x-forwarded-host'], `${host}:${ports.https}`);
    assert.equal(headers['x-forwarded-port'], String(ports.https));
    assert.equal(headers['x-real-ip'], undefined);
    assert.equal(headers['host'], `${host}:${ports.https}`);
    const line = await gateway.waitFor(({ msg, environmentId }) => msg === 'request' && environmentId === 'demo');
    assert.deepEqual([line['clientAddress'], line['protocol']], [VISITOR, expected.protocol]);
  });

  await t.test('HTTP/2 from the visitor', async () => {
    const socket = connectTls({
      host: '127.0.0.1',
      port: ports.https,
      // Of the TCP connection; not in Node's types for TLS.
      ...{ localAddress: VISITOR },
      servername: host,
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
    });
    await once(socket, 'secureConnect');
    assert.equal(socket.alpnProtocol, 'h2');
    const session = connectHttp2(`https://${host}:${ports.https}`, { createConnection: () => socket });
    const stream = session.request({ ':path': '/', 'x-forwarded-for': '203.0.113.5' });
    let text = '';
    for await (const chunk of stream.setEncoding('utf8')) text += chunk as string;
    session.close();
    const { headers } = JSON.parse(text) as Mirrored;
    assert.equal(headers['x-forwarded-for'], VISITOR);
    assert.equal(headers['host'], `${host}:${ports.https}`);
  });

  await t.test('an upload, and an answer that never ends', async () => {
    const sent = await ask(ports.https, host, { method: 'POST', path: '/upload', body: Buffer.alloc(BODY_BYTES, 'x') });
    assert.equal((await mirrored(sent)).bytes, BODY_BYTES);
    const events = await ask(ports.https, host, { path: '/slow' });
    const [first] = (await once(events, 'data')) as [Buffer];
    assert.equal(first.toString(), 'data: first\n\n');
    events.destroy();
  });

  await t.test('a WebSocket', async () => {
    const { socket, closed } = await openWebSocket(ports.https, host, { localAddress: VISITOR });
    socket.send('hello');
    const [answer] = (await once(socket, 'message')) as [Buffer];
    assert.equal(String(answer), `hello ${VISITOR}`);
    socket.close();
    await closed;
  });

  await t.test('an error page, and no pretence of the gateway', async () => {
    const response = await ask(ports.https, `3000--nobody.${DOMAIN}`);
    assert.equal(response.statusCode, 404);
    assert.equal(response.headers['gateway-error'], 'unknown_environment');
    response.resume();
  });

  if (!expected.passed) return;
  await t.test('plain HTTP is sent to https, whatever the visitor says of it', async () => {
    const response = await ask(ports.http, host, {
      plain: true,
      path: '/a?b',
      headers: { 'x-forwarded-proto': 'https' },
    });
    assert.equal(response.statusCode, 308);
    assert.equal(response.headers.location, `https://${host}:${ports.https}/a?b`);
    response.resume();
  });
};

/** Runners reach TLS of the gateway through a front that writes PROXY headers. */
const runnersKeepTheirAddress = async (t: TestContext, startFront: StartFront): Promise<void> => {
  const ports = await freePorts();
  const gateway = await startTestGateway({
    config: { ...behind(ports), proxyProtocol: 'required' },
    limits: { unauthenticatedLegsPerAddress: 1 },
  });
  t.after(() => gateway.close());
  await startFront(t, ports, plainPortOf(gateway));
  const mirror = await startMirror(t);
  for (const transport of ['webtransport', 'websocket'] as const) {
    const runner = await startTestRunner(gateway, { gateway: `https://api.${DOMAIN}:${ports.tunnel}`, transport });
    const id = `by-${transport}`;
    await runner.announce({ id, ports: [{ port: mirror.port, admission: 'everyone' }] });
    const [leg] = gateway.gateway.registry.legs().filter(({ runnerId }) => runnerId === runner.id);
    assert.equal(leg?.transport, transport);
    assert.match(leg.remoteAddress, /^127\.0\.0\.1:\d+$/);
    assert.equal(leg.inspected, false);
    const { headers } = await mirrored(await ask(ports.https, `${mirror.port}--${id}.${DOMAIN}`));
    assert.equal(headers['x-forwarded-for'], VISITOR);
    // A visitor who takes the port of the runners is the same visitor.
    const direct = await mirrored(await ask(ports.tunnel, `${mirror.port}--${id}.${DOMAIN}`));
    assert.equal(direct.headers['x-forwarded-for'], VISITOR);
    await runner.close();
  }
  const told = gateway.lines.filter((line) =>
    Object.values(line).some((value) => String(value).startsWith(`${BALANCER_ADDRESS}:`)),
  );
  assert.deepEqual(told, []);
};

/** Redirects, cookies and addresses of sign-in name the front. */
const visitorsSignIn = async (t: TestContext, startFront: StartFront): Promise<void> => {
  const ports = await freePorts();
  // The runner comes up before the front does.
  const { tunnel } = await freePorts();
  const config = behind({ ...ports, tunnel }, { passed: false });
  const world = await startSignInWorld(t, { gateway: { config } });
  await startFront(t, ports, plainPortOf(world.gateway));
  world.provider.serve([`https://${DOMAIN}:${ports.https}/auth/callback`]);
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const origin = `https://${app.port}--demo.${DOMAIN}:${ports.https}`;
  const visitor = createVisitor(world);
  const visits = await visitor.signIn(`${origin}/a?b`, 'grace');
  const last = visits.at(-1)!;
  assert.deepEqual([last.status, last.url], [200, `${origin}/a?b`]);
  const gatewayVisits = visits.filter(({ url }) => !url.startsWith(world.provider.issuer));
  for (const { url } of gatewayVisits) assert.equal(new URL(url).port, String(ports.https), url);
  const cookies = gatewayVisits.flatMap(({ headers }) => headers['set-cookie'] ?? []);
  assert.ok(cookies.some((line) => line.startsWith(`${PORT_COOKIE}=`)));
  for (const line of cookies) assert.match(line, /; Secure/);
};

test('the configuration of the gateway in the example is one', () => {
  const config = parseGatewayConfig(example('yaml gateway'), {});
  assert.deepEqual([config.publicPort, config.trustedProxies, config.proxyProtocol], [443, ['10.0.0.2'], 'optional']);
});

const haproxyTcp: StartFront = (t, ports, gateway) => startHaproxy(t, ports, gateway, 'haproxy-tcp');

test('behind nginx, visitors see no difference', (t) =>
  visitorsSeeNoDifference(t, startNginx, { protocol: 'http/1.1', passed: true }));
test('behind HAProxy with HTTP/2 to the gateway, visitors see no difference', (t) =>
  visitorsSeeNoDifference(t, startHaproxy, { protocol: 'h2', passed: true }));
test('behind HAProxy that ends TLS alone, visitors see no difference', (t) =>
  visitorsSeeNoDifference(t, haproxyTcp, { protocol: 'http/1.1', passed: false }));
test('behind nginx, runners keep their address', (t) => runnersKeepTheirAddress(t, startNginx));
test('behind HAProxy, runners keep their address', (t) => runnersKeepTheirAddress(t, startHaproxy));
test('behind nginx, visitors sign in', (t) => visitorsSignIn(t, startNginx));
test('behind HAProxy, visitors sign in', (t) => visitorsSignIn(t, startHaproxy));

test('HAProxy sends nobody to a gateway whose health check fails', async (t) => {
  const ports = await freePorts();
  const gateway = await startTestGateway({ config: behind(ports) });
  await startHaproxy(t, ports, plainPortOf(gateway));
  const status = async (): Promise<number> => {
    const response = await ask(ports.https, DOMAIN, { path: '/_health' });
    response.resume();
    return response.statusCode ?? 0;
  };
  await until(async () => (await status()) === 200);
  await gateway.close();
  await until(async () => (await status()) === 503);
});
