/** OpenTelemetry over the whole way: a gateway, a runner, an application, and a receiver of OTLP. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { registerHooks } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { MAX_SPANS_PER_EXPORT } from '../../gateway/src/observability/span-export.ts';
import { VERSION } from '../../gateway/src/version.ts';
import { DOMAIN, portHost, startTestGateway, type GatewayOptions, type TestGateway } from '../support/gateway.ts';
import { startOtlpReceiver, type OtlpReceiver, type ReceivedSpan } from '../support/otlp-receiver.ts';
import { startTestRunner, startUpstream, until, type TestRunner, type TestUpstream } from '../support/runner.ts';

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c';
const CLIENT_SPAN = 'b7ad6b7169203331';
const SERVER = 2;
const CLIENT = 3;
/** Stands wherever a secret may stand in a request. */
const CANARY = 'canary-sesame';

/** Modules that were loaded, from here on. */
const loaded = new Set<string>();
registerHooks({
  load(url, context, nextLoad) {
    loaded.add(url);
    return nextLoad(url, context);
  },
});
/** Of the gateway; this file itself knows what a full batch is. */
const tracingModules = (): string[] =>
  [...loaded].filter((url) => /\/gateway\/src\/observability\/(?:tracing|otlp[^/]*)\.ts$/.test(url));

const tracingConfig = (
  endpoint: string,
  more: { headersFile?: string; sampleRatio?: number } = {},
): GatewayOptions => ({
  config: { tracing: { endpoint, headersFile: undefined, ca: undefined, sampleRatio: 1, ...more } },
});

describe('tracing that is not configured', () => {
  it('is not loaded, and costs a request nothing', async () => {
    const gateway = await startTestGateway();
    try {
      assert.equal((await gateway.request(DOMAIN, '/_health')).status, 200);
      assert.match(
        await (await gateway.internal('/metrics')).text(),
        /# TYPE gitpod_gateway_trace_spans_total counter\n(?!gitpod_gateway_trace)/,
      );
    } finally {
      await gateway.close();
    }
    assert.deepEqual(tracingModules(), []);
  });
});

describe('tracing', () => {
  let directory: string;
  let receiver: OtlpReceiver;
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: TestUpstream;
  let sockets: WebSocketServer;
  /** Requests that reached the application, by path. */
  const arrived = new Map<string, IncomingMessage>();
  let spans: ReceivedSpan[];
  const sent: Record<'kept' | 'made' | 'unsampled' | 'refused' | 'unknown' | 'failed' | 'login', string> = {
    kept: '',
    made: '',
    unsampled: '',
    refused: '',
    unknown: '',
    failed: '',
    login: '',
  };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'tracing-'));
    const headersFile = join(directory, 'headers');
    await writeFile(headersFile, `Authorization: Bearer ${CANARY}-receiver\n`);
    receiver = await startOtlpReceiver();
    gateway = await startTestGateway(tracingConfig(receiver.endpoint, { headersFile }));
    upstream = await startUpstream((request, response) => {
      arrived.set(new URL(request.url ?? '', 'http://app').pathname, request);
      response.statusCode = request.url?.startsWith('/broken') ? 500 : 200;
      response.end('hello');
    });
    sockets = new WebSocketServer({ server: upstream.server });
    sockets.on('connection', (socket, request) => {
      arrived.set('/socket', request);
      socket.on('message', (data) => socket.send(data));
    });
    runner = await startTestRunner(gateway, { oauth: { target: `http://127.0.0.1:${upstream.port}` } });
    await runner.announce({
      id: 'demo',
      host: '127.0.0.1',
      ports: [
        { port: upstream.port, protocol: 'http', admission: 'everyone' },
        { port: 1_025, protocol: 'http', admission: 'everyone' },
      ],
    });
    const host = portHost('demo', upstream.port);
    const id = async (answer: ReturnType<TestGateway['request']>): Promise<string> => {
      const { headers, status } = await answer;
      return String(headers['x-request-id'] ?? status);
    };
    const parent = `00-${TRACE_ID}-${CLIENT_SPAN}-01`;
    const query = `?token=${CANARY}`;
    await gateway.request(host, `/kept${query}`, {
      headers: { traceparent: parent, tracestate: 'vendor=1', cookie: `session=${CANARY}`, authorization: CANARY },
    });
    await gateway.request(host, '/made');
    await gateway.request(host, '/broken');
    await gateway.request(host, '/unsampled', { headers: { traceparent: parent.replace(/01$/, '00') } });
    sent.refused = await id(gateway.request(portHost('demo', 1_025), `/${query}`));
    sent.unknown = await id(gateway.request(portHost('nobody'), `/${query}`));
    await gateway.request(`${runner.id}.${DOMAIN}`, `/oauth/github/callback?code=${CANARY}&state=${CANARY}`);
    // `ws` passes on what its types do not name.
    const options = {
      rejectUnauthorized: false,
      servername: host,
      headers: { host: `${host}:${gateway.httpsPort}` },
    };
    const socket = new WebSocket(`wss://127.0.0.1:${gateway.httpsPort}/socket?token=${CANARY}`, options);
    await once(socket, 'open');
    socket.send('x');
    await once(socket, 'message');
    socket.close();
    await once(socket, 'close');
    await runner.close({ drain: false });
    // What is left is sent when the gateway ends.
    await gateway.close();
    ({ spans } = receiver);
  });
  after(async () => {
    sockets.close();
    await upstream.close();
    await receiver.close();
    await rm(directory, { recursive: true });
  });

  const byPath = (path: string): ReceivedSpan => {
    const found = spans.find(({ kind, attributes }) => kind === SERVER && attributes['url.path'] === path);
    assert.ok(found, `no span of ${path}`);
    return found;
  };
  const byRequest = (requestId: string): ReceivedSpan[] =>
    spans.filter(({ attributes }) => attributes['gitpod.request.id'] === requestId);
  const childrenOf = ({ spanId, traceId }: ReceivedSpan): ReceivedSpan[] =>
    spans.filter((span) => span.parentSpanId === spanId && span.traceId === traceId);
  const childOf = (span: ReceivedSpan, name: string): ReceivedSpan => {
    const found = childrenOf(span).find((child) => child.name === name);
    assert.ok(found, `no span ${name} below ${span.spanId}`);
    return found;
  };

  it('is loaded where it is configured', () => {
    assert.equal(tracingModules().length, 3);
  });

  it('continues the trace of the client, and the application hangs below the span of its request', () => {
    const server = byPath('/kept');
    assert.equal(server.traceId, TRACE_ID);
    assert.equal(server.parentSpanId, CLIENT_SPAN);
    // Sampled; the parent is known, and lies elsewhere.
    assert.equal(server.flags, 0x301);
    const request = childOf(server, 'GET');
    assert.equal(request.kind, CLIENT);
    const { headers } = arrived.get('/kept')!;
    assert.equal(headers.traceparent, `00-${TRACE_ID}-${request.spanId}-01`);
    assert.equal(headers.tracestate, 'vendor=1');
    assert.equal(childrenOf(server).length, 2);
  });

  it('begins a trace where there is none, named after the request', () => {
    const server = byPath('/made');
    const requestId = String(arrived.get('/made')!.headers['x-request-id']);
    assert.equal(server.traceId, requestId);
    assert.equal(server.parentSpanId, undefined);
    assert.equal(arrived.get('/made')!.headers.traceparent, `00-${requestId}-${childOf(server, 'GET').spanId}-01`);
  });

  it('leaves a trace alone of which the client says that it is not recorded', () => {
    assert.equal(arrived.get('/unsampled')!.headers.traceparent, `00-${TRACE_ID}-${CLIENT_SPAN}-00`);
    assert.ok(!spans.some(({ attributes }) => attributes['url.path'] === '/unsampled'));
  });

  it('tells of a request what the semantic conventions ask for', () => {
    const server = byPath('/made');
    const tunnel = childOf(server, 'tunnel');
    const request = childOf(server, 'GET');
    const host = portHost('demo', upstream.port);
    assert.deepEqual(server.attributes, {
      'http.request.method': 'GET',
      'http.response.status_code': 200,
      'server.address': host,
      'server.port': gateway.httpsPort,
      'gitpod.request.id': server.traceId,
      'gitpod.environment.id': 'demo',
      'gitpod.runner.id': runner.id,
      'url.scheme': 'https',
      'url.path': '/made',
      'network.protocol.name': 'http',
      'network.protocol.version': '1.1',
      'client.address': '127.0.0.1',
      'gitpod.port': upstream.port,
    });
    assert.match(String(tunnel.attributes['gitpod.leg.id']), /./);
    assert.equal(tunnel.attributes['gitpod.leg.transport'], process.env['TEST_TRANSPORT'] ?? 'quic');
    assert.equal(request.attributes['url.full'], `https://${host}:${gateway.httpsPort}/made`);
    assert.deepEqual(server.resource, {
      'service.name': 'gitpod-gateway',
      'service.version': VERSION,
      'service.instance.id': gateway.gateway.id,
    });
    // One after the other, inside of the request.
    assert.ok(server.startNs <= tunnel.startNs && tunnel.startNs <= tunnel.endNs);
    assert.ok(tunnel.endNs <= request.startNs && request.startNs < request.endNs && request.endNs <= server.endNs);
    assert.ok(Math.abs(Number(server.startNs / 1_000_000n) - Date.now()) < 60_000);
  });

  it('says how far a request came that failed', () => {
    const broken = byPath('/broken');
    assert.equal(broken.attributes['error.type'], '500');
    assert.ok(broken.isError && childOf(broken, 'GET').isError && !childOf(broken, 'tunnel').isError);

    const [refused, ...more] = byRequest(sent.refused);
    assert.equal(refused?.attributes['error.type'], 'upstream_refused');
    assert.ok(refused.isError);
    const tunnel = childOf(refused, 'tunnel');
    assert.equal(tunnel.attributes['error.type'], 'upstream_refused');
    // Its application was never reached.
    assert.deepEqual([more.length, childrenOf(refused).length], [0, 1]);

    const [unknown] = byRequest(sent.unknown);
    assert.equal(unknown?.attributes['error.type'], 'unknown_environment');
    // What a client does wrong is no failure of a server.
    assert.equal(unknown.isError, false);
    assert.equal(childrenOf(unknown).length, 0);
  });

  it('covers WebSockets and callbacks', () => {
    const socket = byPath('/socket');
    assert.equal(socket.attributes['http.response.status_code'], 101);
    assert.equal(
      arrived.get('/socket')!.headers.traceparent,
      `00-${socket.traceId}-${childOf(socket, 'GET').spanId}-01`,
    );
    const callback = byPath('/oauth/github/callback');
    assert.equal(
      arrived.get('/oauth/github/callback')!.headers.traceparent,
      `00-${callback.traceId}-${childOf(callback, 'GET').spanId}-01`,
    );
  });

  it('sends no query, cookie or credential, and shows who it is to the receiver alone', () => {
    const bodies = receiver.bodies.join('\n');
    assert.ok(!bodies.includes(CANARY), bodies);
    for (const { path, headers } of receiver.requests) {
      assert.equal(path, '/v1/traces');
      assert.equal(headers.authorization, `Bearer ${CANARY}-receiver`);
      assert.equal(headers['content-type'], 'application/json');
    }
    assert.ok(!JSON.stringify(gateway.lines).includes(`${CANARY}-receiver`));
  });
});

describe('a receiver that takes no spans', () => {
  it('is counted and logged, and requests go on', async () => {
    const receiver = await startOtlpReceiver();
    receiver.status = 401;
    const gateway = await startTestGateway(tracingConfig(receiver.endpoint));
    try {
      // Each has one span: a full batch leaves at once.
      for (let count = 0; count < MAX_SPANS_PER_EXPORT; count += 32) {
        const answers = await Promise.all(Array.from({ length: 32 }, () => gateway.request(DOMAIN, '/_health')));
        assert.ok(answers.every(({ status }) => status === 200));
      }
      await until(async () =>
        (await (await gateway.internal('/metrics')).text()).includes(
          `gitpod_gateway_trace_spans_total{result="failed"} ${MAX_SPANS_PER_EXPORT}`,
        ),
      );
      const line = await gateway.waitFor(({ spans }) => spans === MAX_SPANS_PER_EXPORT);
      assert.equal(line['reason'], 'status_401');
    } finally {
      await gateway.close();
      await receiver.close();
    }
  });

  it('does not hold up the end of a gateway', async () => {
    const receiver = await startOtlpReceiver();
    const { endpoint } = receiver;
    await receiver.close();
    const gateway = await startTestGateway(tracingConfig(endpoint));
    await gateway.request(DOMAIN, '/_health');
    await gateway.close();
    assert.equal((await gateway.waitFor(({ spans }) => spans === 1))['reason'], 'ECONNREFUSED');
  });
});
