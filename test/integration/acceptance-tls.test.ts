/** Applications that speak TLS themselves, and ports that are announced with the wrong protocol. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { httpApplication, httpsApplication, type Application, type HttpsApplication } from '../support/applications.ts';
import { open, portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';
import { DOMAIN } from '../support/gateway.ts';

describe('TLS to the application', () => {
  let way: WholeWay;
  let secure: HttpsApplication;
  let plain: Application;
  before(async () => {
    secure = await httpsApplication((request, response) => response.end(`secure ${request.headers.host}`));
    const sockets = new WebSocketServer({ server: secure.server });
    sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data)));
    plain = await httpApplication((_request, response) => response.end('plain'));
    way = await startWholeWay();
    await way.expose('named', [{ port: secure.port, protocol: 'https', admission: 'everyone' }], 'app.localhost');
    await way.expose('suffixed', [secure.port, plain.port], 'app.localhost');
    await way.expose('address', [{ port: secure.port, protocol: 'https', admission: 'everyone' }]);
    await way.expose('wrong', [{ port: plain.port, protocol: 'https', admission: 'everyone' }]);
  });
  after(async () => {
    await way.close();
    await Promise.all([secure.close(), plain.close()]);
  });
  const suffixed = (environmentId: string, port: number): string => `${port}s--${environmentId}.${DOMAIN}`;
  const hosts = (): string[] => [portHost('named', secure.port), suffixed('suffixed', secure.port)];

  it('is spoken by protocol and by the "s" of the host, to a certificate that nobody verifies', async () => {
    for (const host of hosts()) {
      const before = secure.serverNames.length;
      const answer = await way.gateway.request(host);
      assert.deepEqual([answer.status, answer.body], [200, `secure ${host}:${way.gateway.httpsPort}`]);
      // The announced host, not that of the visitor.
      assert.deepEqual(new Set(secure.serverNames.slice(before)), new Set(['app.localhost']));
    }
    // An address is no server name (RFC 6066 section 3).
    const before = secure.serverNames.length;
    assert.equal((await way.gateway.request(portHost('address', secure.port))).status, 200);
    assert.equal(secure.serverNames.length, before);
  });

  it('carries WebSockets', async () => {
    for (const host of hosts()) {
      const { httpsPort } = way.gateway;
      const options = { rejectUnauthorized: false, servername: host, headers: { host: `${host}:${httpsPort}` } };
      const socket = new WebSocket(`wss://127.0.0.1:${httpsPort}/`, options);
      await once(socket, 'open');
      socket.send('over TLS');
      const [data] = (await once(socket, 'message')) as [Buffer];
      assert.equal(data.toString(), 'over TLS');
      socket.close();
      await once(socket, 'close');
    }
  });

  it('that is missing, or not expected, is said with what was expected', async () => {
    const cases: [host: string, code: string, says: RegExp][] = [
      [portHost('suffixed', secure.port), 'upstream_speaks_tls', /expects TLS.*exposed as http.*protocol https/],
      [portHost('wrong', plain.port), 'upstream_speaks_plain', /exposed as https.*without TLS.*protocol http/],
      [suffixed('suffixed', plain.port), 'upstream_speaks_plain', /without TLS/],
    ];
    for (const [host, code, says] of cases) {
      for (const method of ['GET', 'POST']) {
        const response = await open(way.to(host, '/', { method, headers: { accept: 'application/json' } }));
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(chunk as Buffer);
        assert.deepEqual(
          [host, method, response.statusCode, response.headers['gateway-error']],
          [host, method, 502, code],
        );
        const { error } = JSON.parse(Buffer.concat(chunks).toString()) as { error: { message: string } };
        assert.match(error.message, says);
      }
      const { httpsPort } = way.gateway;
      const options = { rejectUnauthorized: false, servername: host, headers: { host: `${host}:${httpsPort}` } };
      const socket = new WebSocket(`wss://127.0.0.1:${httpsPort}/`, options);
      const [, response] = (await once(socket, 'unexpected-response')) as [
        unknown,
        import('node:http').IncomingMessage,
      ];
      assert.deepEqual([response.statusCode, response.headers['gateway-error']], [502, code]);
      response.resume();
      await once(response, 'end');
    }
  });
});
