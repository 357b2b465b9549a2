/** A runner's process is killed while it carries everything that can be carried. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { constants, type ClientHttp2Stream } from 'node:http2';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTls } from 'node:tls';
import { WebSocket, WebSocketServer } from 'ws';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startProcess } from '../support/processes.ts';
import { until } from '../support/runner.ts';
import { httpApplication } from '../support/applications.ts';
import { during } from '../support/whole-way.ts';

/** Nothing hangs longer on a runner that is gone, ms. */
const DEAD_MS = 10_000;

test(
  'what a killed runner carried ends within 10 s: 502 where no answer had begun, else cut',
  { timeout: 60_000 },
  async (t) => {
    const gateway = await during(t, startTestGateway());
    const arrived: string[] = [];
    const application = await during(
      t,
      httpApplication((request, response) => {
        const path = request.url ?? '';
        arrived.push(path);
        if (path.startsWith('/begin')) response.write('the beginning');
        else if (path === '/fixed') response.writeHead(200, { 'content-length': 100 }).write('the beginning');
        else if (path === '/events')
          response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n');
        else if (path === '/') response.end('hello');
      }),
    );
    const sockets = new WebSocketServer({ server: application.server });
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'killed' });
    const config = join(gateway.stateDir, 'runner.yaml');
    await writeFile(
      config,
      JSON.stringify({
        gateway: gateway.url,
        runnerId: runner.id,
        exchangeToken,
        stateDir: join(gateway.stateDir, 'runner'),
        ca: join(gateway.stateDir, 'self-signed', 'certificate.pem'),
        internal: `unix:${join(gateway.stateDir, 'runner.sock')}`,
        environments: [{ id: 'demo', ports: [{ port: application.port, admission: 'everyone' }] }],
      }),
    );
    const start = () =>
      startProcess(t, process.execPath, ['tunnel-client/src/main.ts', 'run', '--config', config], {
        cwd: join(import.meta.dirname, '../..'),
      });
    const host = portHost('demo', application.port);
    const authority = `${host}:${gateway.httpsPort}`;
    const process1 = start();
    await until(async () => (await gateway.request(host)).status === 200);

    // Over HTTP/1.1: one that waits, one that uploads, three in the middle of an answer.
    const waiting = gateway.request(host, '/wait');
    const upload = httpsRequest({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      path: '/upload',
      method: 'POST',
      agent: false,
      rejectUnauthorized: false,
      headers: { host: authority },
    });
    upload.on('error', () => undefined);
    upload.write('the beginning of a body');
    const uploaded = once(upload, 'response') as Promise<[IncomingMessage]>;
    const begun = ['/begin', '/fixed', '/events'].map((path) => assert.rejects(gateway.request(host, path), path));

    // Over HTTP/2, on one connection.
    const socket = connectTls({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
    });
    const session = connectHttp2(`https://${authority}`, { createConnection: () => socket });
    t.after(() => session.destroy());
    session.on('error', () => undefined);
    const open = (path: string): ClientHttp2Stream => session.request({ ':path': path }, { endStream: true });
    const waitingH2 = open('/wait-h2');
    const answeredH2 = once(waitingH2, 'response') as Promise<[Record<string, string>]>;
    const begunH2 = open('/begin-h2');
    await once(begunH2, 'data');
    const cutH2 = once(begunH2, 'error');

    const webSocket = new WebSocket(`wss://127.0.0.1:${gateway.httpsPort}/socket`, {
      rejectUnauthorized: false,
      headers: { host: authority },
      // Goes to tls.connect; the types of ws do not have it.
      ...{ servername: host },
    });
    await once(webSocket, 'open');
    const closed = once(webSocket, 'close') as Promise<[number]>;
    await until(() =>
      ['/wait', '/upload', '/begin', '/fixed', '/events', '/wait-h2'].every((path) => arrived.includes(path)),
    );

    process1.child.kill('SIGKILL');
    const killedAt = performance.now();
    const answer = await waiting;
    assert.deepEqual([answer.status, answer.headers['gateway-error']], [502, 'tunnel_lost']);
    const [response] = await uploaded;
    assert.deepEqual([response.statusCode, response.headers['gateway-error']], [502, 'tunnel_lost']);
    response.resume();
    upload.destroy();
    await Promise.all(begun);
    const [headers] = await answeredH2;
    assert.deepEqual([Number(headers[':status']), headers['gateway-error']], [502, 'tunnel_lost']);
    await cutH2;
    assert.notEqual(begunH2.rstCode, constants.NGHTTP2_NO_ERROR);
    assert.equal((await closed)[0], 1_006);
    assert.ok(performance.now() - killedAt < DEAD_MS);

    const offline = await gateway.request(host);
    assert.deepEqual(
      [offline.status, offline.headers['gateway-error'], offline.headers['retry-after']],
      [503, 'runner_offline', '5'],
    );
    // Back without touching the gateway, whose client connection is still the same.
    start();
    await until(async () => (await gateway.request(host)).status === 200);
    const again = open('/');
    const [backAgain] = (await once(again, 'response')) as [Record<string, string>];
    assert.equal(Number(backAgain[':status']), 200);
    again.resume();
    sockets.close();
  },
);
