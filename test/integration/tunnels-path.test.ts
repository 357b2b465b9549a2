/** The whole way in one process: client → gateway → tunnel → runner → application, and back. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { connect as connectTls } from 'node:tls';
import { connect as connectHttp2 } from 'node:http2';
import { after, before, describe, it } from 'node:test';
import { once } from 'node:events';
import { WebSocket, WebSocketServer } from 'ws';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, type TestRunner, type TestUpstream } from '../support/runner.ts';

describe('the whole way', () => {
  let gateway: TestGateway;
  let runner: TestRunner;
  let upstream: TestUpstream;
  let host: string;
  let finishEvents: () => void = () => {};

  before(async () => {
    gateway = await startTestGateway();
    upstream = await startUpstream((request, response) => {
      if (request.url === '/events') {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('data: first\n\n');
        finishEvents = () => response.end('data: last\n\n');
        return;
      }
      if (request.method === 'POST') {
        const hash = createHash('sha256');
        request.on('data', (chunk: Buffer) => hash.update(chunk));
        request.on('end', () => response.end(hash.digest('hex')));
        return;
      }
      response.setHeader('set-cookie', ['a=1', 'b=2']);
      response.end(`${request.method} ${request.url} ${request.headers.host} ${request.headers['x-forwarded-proto']}`);
    });
    const sockets = new WebSocketServer({ server: upstream.server });
    sockets.on('connection', (socket) =>
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary })),
    );
    runner = await startTestRunner(gateway);
    const verdict = await runner.announce({
      id: 'demo',
      ports: [
        { port: upstream.port, admission: 'everyone' },
        { port: 3999, admission: 'organization' },
      ],
    });
    assert.equal(verdict.accepted, true);
    host = portHost('demo', upstream.port);
    assert.equal(verdict.urls[0]?.url, `https://${host}:${gateway.httpsPort}/`);
  });

  after(async () => {
    await runner.close();
    await gateway.close();
    await upstream.close();
  });

  it('carries GET, with the path as it is and both cookies', async () => {
    const answer = await gateway.request(host, '/a%2Fb?x=1');
    assert.equal(answer.status, 200);
    assert.equal(answer.body, `GET /a%2Fb?x=1 ${host}:${gateway.httpsPort} https`);
    assert.deepEqual(answer.headers['set-cookie'], ['a=1', 'b=2']);
    assert.equal(answer.headers['gateway-error'], undefined);
  });

  it('carries POST unchanged', async () => {
    const payload = randomBytes(3 << 20);
    const answer = await gateway.request(host, '/', { method: 'POST', payload });
    assert.equal(answer.body, createHash('sha256').update(payload).digest('hex'));
  });

  it('carries HTTP/2', async () => {
    const session = connectHttp2(`https://${host}:${gateway.httpsPort}`, {
      rejectUnauthorized: false,
      createConnection: () =>
        connectTls({
          host: '127.0.0.1',
          port: gateway.httpsPort,
          servername: host,
          rejectUnauthorized: false,
          ALPNProtocols: ['h2'],
        }),
    });
    try {
      const stream = session.request({ ':path': '/h2' });
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.end();
      await once(stream, 'close');
      assert.match(Buffer.concat(chunks).toString(), /^GET \/h2 /);
    } finally {
      session.close();
    }
  });

  it('passes on the first event while the response is still open', async () => {
    const { request } = await import('node:https');
    const outgoing = request({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      path: '/events',
      agent: false,
      rejectUnauthorized: false,
      headers: { host: `${host}:${gateway.httpsPort}` },
    });
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [import('node:http').IncomingMessage];
    const [first] = (await once(response, 'data')) as [Buffer];
    assert.equal(first.toString(), 'data: first\n\n');
    assert.equal(response.complete, false);
    finishEvents();
    const [last] = (await once(response, 'data')) as [Buffer];
    assert.equal(last.toString(), 'data: last\n\n');
    if (!response.readableEnded) await once(response, 'end');
  });

  it('carries a WebSocket both ways', async () => {
    // `servername` goes to tls.connect; the types of ws do not have it.
    const options = {
      rejectUnauthorized: false,
      servername: host,
      headers: { host: `${host}:${gateway.httpsPort}` },
    };
    const socket = new WebSocket(`wss://127.0.0.1:${gateway.httpsPort}/socket`, options);
    await once(socket, 'open');
    for (const size of [0, 1, 125, 126, 65_536, 300_000]) {
      const message = randomBytes(size);
      socket.send(message);
      const [received] = (await once(socket, 'message')) as [Buffer];
      assert.deepEqual(received, message);
    }
    socket.close(4_001, 'done');
    const [code] = (await once(socket, 'close')) as [number];
    assert.equal(code, 4_001);
  });

  it('answers what has no way with its own errors, and no byte reaches the application', async () => {
    const before = upstream.requests();
    const cases: [host: string, status: number, code: string][] = [
      [portHost('nobody', 3000), 404, 'unknown_environment'],
      [portHost('demo', 3001), 404, 'port_not_exposed'],
      [portHost('demo', 3999), 401, 'port_token_required'],
      [`a.b.${DOMAIN}`, 404, 'not_found'],
      ['demo.example.com', 421, 'misdirected'],
    ];
    for (const [name, status, code] of cases) {
      const answer = await gateway.request(name);
      assert.deepEqual([name, answer.status, answer.headers['gateway-error']], [name, status, code]);
    }
    assert.equal(upstream.requests(), before);
  });

  it('says when nothing listens', async () => {
    await runner.announce({ id: 'empty', ports: [{ port: 1_234, admission: 'everyone' }] });
    const answer = await gateway.request(portHost('empty', 1_234));
    assert.deepEqual([answer.status, answer.headers['gateway-error']], [502, 'upstream_refused']);
  });

  it('writes one access line for a request, without its query', async () => {
    await gateway.request(host, '/secret-path?token=canary-value');
    const line = await gateway.waitFor((each) => each.msg === 'request' && each['path'] === '/secret-path');
    assert.equal(line['status'], 200);
    assert.equal(line['environmentId'], 'demo');
    assert.equal(line['runnerId'], runner.id);
    assert.ok(!JSON.stringify(gateway.lines).includes('canary-value'));
  });

  it('counts requests, legs and bytes', async () => {
    const text = await (await gateway.internal('/metrics')).text();
    assert.match(text, /^gitpod_gateway_proxy_up 1$/m);
    assert.match(text, /^gitpod_gateway_legs\{transport="quic"\} 1$/m);
    assert.match(text, /^gitpod_gateway_proxy_http_requests_total\{protocol="h2",status_code="200"\} 1$/m);
    assert.match(text, /^gitpod_gateway_joins_total\{result="ok"\} 1$/m);
    assert.match(text, /^gitpod_gateway_proxy_http_backend_failures_total\{error_type="upstream_refused"\} 1$/m);
    const received = /^gitpod_gateway_tunnel_bytes_total\{direction="sent"\} (\d+)$/m.exec(text);
    assert.ok(Number(received?.[1]) > 3 << 20);
    assert.ok(!text.includes('demo') && !text.includes(runner.id));
  });
});
