/**
 * Listeners behind proxies of the operator's: whose words count, on which listener, and what becomes of everybody else's.
 * The peer of every connection here is 127.0.0.1, so that one edge trusts it and another one does not.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import type { ProxyProtocol } from '../../gateway/src/config.ts';
import { START_TIMEOUT_MS } from '../../gateway/src/edge/connection-start.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { startEdge, readAll, type EdgeTestOptions, type EdgeUnderTest } from '../support/edge.ts';
import { createManualClock } from '../support/manual-clock.ts';
import { PLAIN_TLV, proxyV1, proxyV2, TLS_TLV } from '../support/proxy-protocol.ts';
import { until } from '../support/runner.ts';

const HOST = '3000--demo.gateway.localhost';
const CLIENT = '192.0.2.7';

const trusting = (protocol: ProxyProtocol = 'optional', options: EdgeTestOptions = {}): Promise<EdgeUnderTest> =>
  startEdge({ ...options, proxies: { trusted: ['127.0.0.1', '10.0.0.0/8', '2001:db8:1::/48'], protocol } });

const request = (fields: readonly string[] = [], path = '/', host = HOST): string =>
  [`GET ${path} HTTP/1.1`, `Host: ${host}`, ...fields, 'Connection: close', '', ''].join('\r\n');
const MARKED = 'X-Forwarded-Proto: https';
/** More than Node lets pass on one connection of HTTP/2. */
const RESETS = 3_000;
const RESETS_AT_ONCE = 50;
const WEBSOCKET = ['Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='];
type EdgeTestHandlers = NonNullable<EdgeTestOptions['handlers']>;

const dial = async (port: number): Promise<Socket> => {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
};
/** Sends `parts` one by one to a plain listener, and reads until it closes. */
const talk = async (port: number, ...parts: readonly (string | Buffer)[]): Promise<string> => {
  const socket = await dial(port);
  const answer = readAll(socket);
  for (const part of parts) {
    if (socket.destroyed) break;
    await new Promise<void>((resolve) => socket.write(part, () => setImmediate(resolve)));
  }
  return answer;
};
const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0);
const echoOf = (answer: string): Record<string, unknown> =>
  JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4)) as Record<string, unknown>;

/** A TLS connection behind `header`, handshake done. */
const secure = async (edge: EdgeUnderTest, header: Buffer, alpn = 'http/1.1'): Promise<TLSSocket> => {
  const socket = await dial(edge.port);
  if (header.length > 0) socket.write(header);
  const tls = connectTls({ socket, ca: edge.ca, servername: HOST, ALPNProtocols: [alpn] });
  await once(tls, 'secureConnect');
  return tls;
};
const talkSecurely = async (edge: EdgeUnderTest, header: Buffer, fields?: readonly string[]): Promise<string> => {
  const socket = await secure(edge, header);
  const answer = readAll(socket);
  socket.write(request(fields));
  return answer;
};
const h2Get = async (session: ClientHttp2Session, fields: Record<string, string>) => {
  const stream = session.request({ ':path': '/', ':authority': HOST, ...fields });
  const [headers] = (await once(stream, 'response')) as [Record<string, string | number>];
  let body = '';
  for await (const chunk of stream.setEncoding('utf8')) body += chunk as string;
  return { status: headers[':status'], location: headers['location'], body };
};

describe('a plain listener behind a trusted proxy', () => {
  let edge: EdgeUnderTest;
  before(async () => {
    edge = await trusting();
  });
  after(() => edge.close());

  it('serves what the proxy marks as https, and redirects everything else', async () => {
    const served = await talk(edge.plainPort, request([MARKED, `X-Forwarded-For: ${CLIENT}`]));
    assert.equal(statusOf(served), 200);
    assert.equal(echoOf(served)['clientAddress'], CLIENT);
    for (const fields of [
      [],
      ['X-Forwarded-Proto: http'],
      ['X-Forwarded-Proto: https, http'],
      ['X-Forwarded-Proto: http', 'X-Forwarded-Proto: https'],
      ['X-Forwarded-Proto: https, '],
      ['X-Forwarded-Scheme: https'],
      ['Forwarded: proto=https'],
    ]) {
      const before = edge.forwarded.length;
      const answer = await talk(edge.plainPort, request(fields, '/a?b'));
      assert.equal(statusOf(answer), 308, fields.join());
      assert.match(answer, /\r\nLocation: https:\/\/3000--demo\.gateway\.localhost\/a\?b\r\n/);
      assert.equal(edge.forwarded.length, before);
    }
  });

  it('redirects from any port that the proxy has, and serves at the public one', async () => {
    const redirected = await talk(edge.plainPort, request([], '/', `${HOST}:8080`));
    assert.match(redirected, /\r\nLocation: https:\/\/3000--demo\.gateway\.localhost\/\r\n/);
    assert.equal(statusOf(await talk(edge.plainPort, request([MARKED], '/', `${HOST}:8080`))), 400);
    assert.equal(statusOf(await talk(edge.plainPort, request([MARKED], '/', `${HOST}:443`))), 200);
  });

  it('takes for the client the last address that is no trusted proxy', async () => {
    for (const [fields, client] of [
      [[`X-Forwarded-For: 198.51.100.9, ${CLIENT}`], CLIENT],
      [[`X-Forwarded-For: ${CLIENT}, 10.1.2.3, 127.0.0.1`], CLIENT],
      [[`X-Forwarded-For: ${CLIENT}`, 'X-Forwarded-For: 10.1.2.3'], CLIENT],
      [[`X-Forwarded-For: 198.51.100.9, unknown, 10.1.2.3`], '10.1.2.3'],
      [['X-Forwarded-For: 10.1.2.3, 10.4.5.6'], '10.1.2.3'],
      [[`X-Forwarded-For: ${CLIENT}:4711`], CLIENT],
      [['X-Forwarded-For: [2001:DB8::1]:4711'], '2001:db8::1'],
      [['X-Forwarded-For: 2001:db8::1, 2001:db8:1::2'], '2001:db8::1'],
      [['X-Forwarded-For: ::ffff:c000:207'], CLIENT],
      [['X-Forwarded-For: '], '127.0.0.1'],
      [[], '127.0.0.1'],
    ] as const) {
      const answer = await talk(edge.plainPort, request([MARKED, ...fields]));
      assert.equal(echoOf(answer)['clientAddress'], client, fields.join());
    }
  });

  it('never believes X-Forwarded-Host', async () => {
    const answer = await talk(edge.plainPort, request([MARKED, 'X-Forwarded-Host: 4000--other.gateway.localhost']));
    assert.deepEqual(echoOf(answer)['target'], { kind: 'port', ...portTarget });
    assert.equal(echoOf(answer)['host'], HOST);
  });

  it('keeps the connection for the requests of other clients', async () => {
    const socket = await dial(edge.plainPort);
    const answer = readAll(socket);
    const get = (client: string) =>
      `GET / HTTP/1.1\r\nHost: ${HOST}\r\n${MARKED}\r\nX-Forwarded-For: ${client}\r\n\r\n`;
    socket.write(get('192.0.2.1') + get('192.0.2.2') + request());
    const text = await answer;
    assert.deepEqual(
      [...text.matchAll(/"clientAddress":"([^"]+)"/g)].map(([, address]) => address),
      ['192.0.2.1', '192.0.2.2'],
    );
    assert.match(text, /HTTP\/1\.1 308 /);
  });

  it('speaks HTTP/2 with whoever begins with it', async () => {
    const session = connectHttp2(`http://127.0.0.1:${edge.plainPort}`);
    try {
      const marked = { 'x-forwarded-proto': 'https', 'x-forwarded-for': CLIENT };
      for (const scheme of ['http', 'https']) {
        const answer = await h2Get(session, { ':scheme': scheme, ...marked });
        assert.equal(answer.status, 200);
        assert.equal((JSON.parse(answer.body) as Record<string, unknown>)['clientAddress'], CLIENT);
      }
      const plain = await h2Get(session, { ':scheme': 'https' });
      assert.deepEqual([plain.status, plain.location], [308, `https://${HOST}/`]);
    } finally {
      session.close();
    }
  });

  it('bears as many resets as its clients are, which would be an attack of one', async () => {
    const session = connectHttp2(`http://127.0.0.1:${edge.plainPort}`);
    try {
      const marked = { ':scheme': 'https', 'x-forwarded-proto': 'https' };
      for (let sent = 0; sent < RESETS; sent += RESETS_AT_ONCE) {
        const streams = Array.from({ length: RESETS_AT_ONCE }, () => {
          const stream = session.request({ ':path': '/', ':authority': HOST, ...marked });
          stream.on('error', () => {});
          stream.close(constants.NGHTTP2_CANCEL);
          return once(stream, 'close');
        });
        await Promise.all(streams);
      }
      assert.equal((await h2Get(session, marked)).status, 200);
    } finally {
      session.close();
    }
  });

  it('passes a WebSocket on when it is marked, and redirects it otherwise', async () => {
    const head = (fields: readonly string[]): string =>
      request([...WEBSOCKET, ...fields]).replace('Connection: close', 'Connection: Upgrade');
    const before = edge.forwarded.length;
    // The forwarder of the test answers upgrades with 404.
    const socket = await dial(edge.plainPort);
    socket.write(head([MARKED, `X-Forwarded-For: ${CLIENT}`]));
    const [first] = (await once(socket, 'data')) as [Buffer];
    assert.equal(statusOf(first.toString('latin1')), 404);
    socket.destroy();
    const { exchange } = edge.forwarded[before] ?? {};
    assert.ok(exchange && 'socket' in exchange);
    assert.equal(exchange.clientAddress, CLIENT);

    const other = await dial(edge.plainPort);
    other.write(head([]));
    const [second] = (await once(other, 'data')) as [Buffer];
    assert.equal(statusOf(second.toString('latin1')), 308);
    other.destroy();
    assert.equal(edge.forwarded.length, before + 1);
  });

  it('refuses what is ambiguous as TLS listeners do', async () => {
    const before = edge.forwarded.length;
    for (const [head, status] of [
      [
        `POST / HTTP/1.1\r\nHost: ${HOST}\r\n${MARKED}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
        400,
      ],
      [`GET / HTTP/1.1\r\nHost: ${HOST}\r\nHost: ${HOST}\r\n${MARKED}\r\n\r\n`, 400],
      [`GET / HTTP/1.1\r\n${MARKED}\r\n\r\n`, 400],
      [`GET / HTTP/1.1\r\nHost: ${HOST}\r\nTransfer_Encoding: chunked\r\n${MARKED}\r\n\r\n`, 400],
      [`GET http://other.example/ HTTP/1.1\r\nHost: ${HOST}\r\n${MARKED}\r\n\r\n`, 400],
      [`CONNECT ${HOST}:443 HTTP/1.1\r\nHost: ${HOST}\r\n${MARKED}\r\n\r\n`, 501],
      [`GET / HTTP/1.1\r\nHost: other.example\r\n${MARKED}\r\nConnection: close\r\n\r\n`, 421],
    ] as const) {
      assert.equal(statusOf(await talk(edge.plainPort, head)), status, head);
    }
    assert.equal(edge.forwarded.length, before);
  });

  it('serves no tunnel, which needs TLS of its own', async () => {
    const upgrades: unknown[] = [];
    const notFound: EdgeTestHandlers['apex'] = (_request, _response, exchange) => exchange.fail('not_found');
    const tunnelled = await trusting('optional', {
      handlers: {
        apex: notFound,
        api: notFound,
        tunnel: {
          upgradePath: '/v1/ws',
          http2: () => undefined,
          upgrade(_request, socket) {
            upgrades.push(socket);
            socket.end('HTTP/1.1 101 Switching Protocols\r\n\r\n');
          },
        },
      },
    });
    try {
      const head = request([MARKED, ...WEBSOCKET], '/v1/ws', 'tunnel.gateway.localhost').replace(
        ': close',
        ': Upgrade',
      );
      for (const header of ['', proxyV2({ source: CLIENT, tlvs: [TLS_TLV] })]) {
        assert.equal(
          statusOf(await talk(tunnelled.plainPort, Buffer.concat([Buffer.from(header), Buffer.from(head)]))),
          404,
        );
      }
      assert.deepEqual(upgrades, []);
      // The same bytes behind TLS are a tunnel.
      const socket = connectTls({
        socket: await dial(tunnelled.port),
        ca: tunnelled.ca,
        servername: 'tunnel.gateway.localhost',
      });
      await once(socket, 'secureConnect');
      const answer = readAll(socket);
      socket.write(head);
      assert.equal(statusOf(await answer), 101);
    } finally {
      await tunnelled.close();
    }
  });

  it('answers health checks before anything else, whatever they name', async () => {
    for (const host of ['127.0.0.1', 'gateway.localhost', HOST, 'lb-1.example', 'lb-1.example:8080', '[::1]:80']) {
      for (const fields of [[], ['X-Forwarded-Proto: http']]) {
        const answer = await talk(edge.plainPort, request(fields, '/_health', host));
        assert.equal(statusOf(answer), 200, host);
        assert.match(answer, /\r\n\r\nok\n$/);
      }
    }
    // On a port host, behind https, the path is the application's.
    const before = edge.forwarded.length;
    await talk(edge.plainPort, request([MARKED], '/_health'));
    assert.equal(edge.forwarded.length, before + 1);
  });
});

const portTarget = { domain: 'gateway.localhost', port: 3000, tls: false, environmentId: 'demo' };

describe('PROXY protocol', () => {
  let edge: EdgeUnderTest;
  before(async () => {
    edge = await trusting();
  });
  after(() => edge.close());

  it('names the client on https listeners, over HTTP/1.1 and HTTP/2', async () => {
    for (const header of [
      proxyV1(CLIENT),
      proxyV2({ source: CLIENT }),
      proxyV2({ source: CLIENT, tlvs: [PLAIN_TLV] }),
      proxyV2({ source: CLIENT, destinationPort: 80 }),
    ]) {
      // What the client says itself counts no more than without a proxy.
      const answer = await talkSecurely(edge, header, ['X-Forwarded-For: 198.51.100.1']);
      assert.equal(echoOf(answer)['clientAddress'], CLIENT);
    }
    const socket = await secure(edge, proxyV2({ source: '2001:db8::7' }), 'h2');
    const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket });
    const { body } = await h2Get(session, { 'x-forwarded-for': CLIENT });
    session.close();
    assert.equal((JSON.parse(body) as Record<string, unknown>)['clientAddress'], '2001:db8::7');
  });

  it('is not needed from a proxy that ends TLS and begins it anew', async () => {
    const answer = await talkSecurely(edge, Buffer.alloc(0), [`X-Forwarded-For: 198.51.100.1, ${CLIENT}`]);
    assert.equal(echoOf(answer)['clientAddress'], CLIENT);
    assert.equal(echoOf(await talkSecurely(edge, Buffer.alloc(0)))['clientAddress'], '127.0.0.1');
  });

  it('says on plain listeners whether the client spoke TLS: by its TLV, else by the port', async () => {
    const fields = ['X-Forwarded-For: 198.51.100.1'];
    for (const header of [
      proxyV1(CLIENT),
      proxyV2({ source: CLIENT }),
      proxyV2({ source: CLIENT, tlvs: [TLS_TLV], destinationPort: 80 }),
    ]) {
      const answer = await talk(edge.plainPort, header, request(fields));
      assert.equal(statusOf(answer), 200);
      assert.equal(echoOf(answer)['clientAddress'], CLIENT);
    }
    for (const header of [
      proxyV1(CLIENT, { destinationPort: 80 }),
      proxyV2({ source: CLIENT, destinationPort: 80 }),
      proxyV2({ source: CLIENT, tlvs: [PLAIN_TLV] }),
      proxyV2({ family: 0, addresses: '' }),
      Buffer.from('PROXY UNKNOWN\r\n'),
    ]) {
      // The bytes behind are the client's, and so is the mark.
      const answer = await talk(edge.plainPort, header, request([MARKED, ...fields]));
      assert.equal(statusOf(answer), 308);
    }
  });

  it('believes X-Forwarded-* behind a header that names another trusted proxy, or the proxy itself', async () => {
    const fields = [MARKED, `X-Forwarded-For: ${CLIENT}`];
    for (const header of [
      proxyV2({ source: '10.9.8.7', destinationPort: 80 }),
      proxyV2({ command: 0x20, family: 0, addresses: '' }),
    ]) {
      const answer = await talk(edge.plainPort, header, request(fields));
      assert.equal(echoOf(answer)['clientAddress'], CLIENT);
    }
  });

  it('carries HTTP/2 behind it on a plain listener', async () => {
    const socket = await dial(edge.plainPort);
    socket.write(proxyV2({ source: CLIENT, tlvs: [TLS_TLV] }));
    const session = connectHttp2(`http://${HOST}`, { createConnection: () => socket });
    const { status, body } = await h2Get(session, { 'x-forwarded-for': '198.51.100.1' });
    session.close();
    assert.equal(status, 200);
    assert.equal((JSON.parse(body) as Record<string, unknown>)['clientAddress'], CLIENT);
  });

  it('may come in any pieces, alone or with what follows', async () => {
    const headers = [proxyV1('2001:db8::7'), proxyV2({ source: '2001:db8::7', tlvs: [TLS_TLV] })];
    for (const header of headers) {
      const bytes = Buffer.concat([header, Buffer.from(request())]);
      const cuts = [...Array(header.length + 8).keys(), bytes.length];
      for (let index = 0; index < cuts.length; index += 7) {
        const [first = 0, second = 0] = [cuts[index], cuts[Math.min(index + 3, cuts.length - 1)]];
        const parts = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
        const answer = await talk(edge.plainPort, ...parts.filter((part) => part.length > 0));
        assert.equal(echoOf(answer)['clientAddress'], '2001:db8::7', `cut at ${first} and ${second}`);
      }
      const byByte = [...bytes].map((byte) => Buffer.from([byte]));
      assert.equal(statusOf(await talk(edge.plainPort, ...byByte)), 200);
    }
    // In front of TLS too: the ClientHello comes in the same packet, or in two.
    for (const header of headers) {
      for (const cut of [1, 5, header.length - 1]) {
        const socket = await dial(edge.port);
        socket.write(header.subarray(0, cut));
        await new Promise(setImmediate);
        socket.cork();
        socket.write(header.subarray(cut));
        const tls = connectTls({ socket, ca: edge.ca, servername: HOST });
        process.nextTick(() => socket.uncork());
        await once(tls, 'secureConnect');
        const answer = readAll(tls);
        tls.write(request());
        assert.equal(echoOf(await answer)['clientAddress'], '2001:db8::7');
      }
    }
  });

  it('closes a connection whose header is broken', async () => {
    const refused = edge.refused.length;
    const broken = [
      Buffer.from('PROXY TCP4 nonsense\r\n'),
      Buffer.from(`PROXY UNKNOWN ${'x'.repeat(200)}`),
      proxyV2({ source: CLIENT, family: 0x21 }),
      proxyV2({ source: CLIENT, command: 0x2f }),
    ];
    for (const header of broken) {
      for (const port of [edge.port, edge.plainPort]) assert.equal(await talk(port, header, request([MARKED])), '');
    }
    assert.equal(edge.refused.length, refused + 2 * broken.length);
  });

  it('counts connections by the client that it names', async () => {
    const limited = await trusting('optional', { limits: { connectionsPerAddress: 2 } });
    try {
      const kept = await Promise.all([1, 2].map(() => secure(limited, proxyV1(CLIENT))));
      await assert.rejects(secure(limited, proxyV1(CLIENT)));
      assert.deepEqual(limited.refused, [{ code: 'too_many_requests', address: CLIENT }]);
      const other = await secure(limited, proxyV1('192.0.2.8'));
      // The proxy's own connections are as many as its clients need.
      const own = await Promise.all([1, 2, 3].map(() => secure(limited, Buffer.alloc(0))));
      kept[0]?.destroy();
      await until(() => limited.edge.stats().connections === 5);
      const next = await secure(limited, proxyV1(CLIENT));
      for (const socket of [...kept, other, ...own, next]) socket.destroy();
    } finally {
      await limited.close();
    }
  });

  it('gives the first bytes a deadline', async () => {
    const clock = createManualClock();
    const slow = await trusting('optional', { clock: { ...clock, now: systemClock.now } });
    try {
      for (const [port, bytes] of [
        [slow.port, ''],
        [slow.port, 'PROXY TCP4 192'],
        [slow.plainPort, 'PRI * HT'],
      ] as const) {
        const socket = await dial(port);
        if (bytes) socket.write(bytes);
        const answer = readAll(socket);
        await until(() => slow.edge.stats().handshakes === 1);
        await clock.advance(START_TIMEOUT_MS - 1);
        assert.equal(slow.edge.stats().connections, 1);
        await clock.advance(1);
        assert.equal(await answer, '');
        await until(() => slow.edge.stats().connections === 0);
      }
    } finally {
      await slow.close();
    }
  });

  it('is needed on https listeners where the configuration says so', async () => {
    const strict = await trusting('required');
    try {
      await assert.rejects(secure(strict, Buffer.alloc(0)));
      assert.equal(echoOf(await talkSecurely(strict, proxyV1(CLIENT)))['clientAddress'], CLIENT);
      const health = proxyV2({ command: 0x20, family: 0, addresses: '' });
      assert.equal(statusOf(await talkSecurely(strict, health)), 200);
      const plain = await talk(strict.plainPort, request([MARKED, `X-Forwarded-For: ${CLIENT}`]));
      assert.equal(echoOf(plain)['clientAddress'], CLIENT);
    } finally {
      await strict.close();
    }
  });

  it('is refused where the configuration says so', async () => {
    const off = await trusting('off');
    try {
      await assert.rejects(secure(off, proxyV1(CLIENT)));
      for (const header of [proxyV1(CLIENT), proxyV2({ source: CLIENT })]) {
        assert.equal(statusOf(await talk(off.plainPort, header, request([MARKED]))), 400);
      }
      const answer = await talk(off.plainPort, request([MARKED, `X-Forwarded-For: ${CLIENT}`]));
      assert.equal(echoOf(answer)['clientAddress'], CLIENT);
      const session = connectHttp2(`http://127.0.0.1:${off.plainPort}`);
      assert.equal((await h2Get(session, { 'x-forwarded-proto': 'https' })).status, 200);
      session.close();
    } finally {
      await off.close();
    }
  });

  it('leaves connections that wait for their header no time when the edge drains', async () => {
    const draining = await trusting();
    const socket = await dial(draining.port);
    const closed = once(socket.resume(), 'close');
    await until(() => draining.edge.stats().handshakes === 1);
    draining.edge.drain();
    await draining.edge.idle({ signal: AbortSignal.timeout(30_000) });
    await closed;
    await draining.close();
  });
});

describe('somebody who is not trusted', () => {
  let edge: EdgeUnderTest;
  before(async () => {
    edge = await startEdge({ proxies: { trusted: ['192.0.2.0/24', '::1'], protocol: 'optional' } });
  });
  after(() => edge.close());

  it('is served over plain HTTP under no pretence', async () => {
    const fields = [MARKED, 'X-Forwarded-For: 192.0.2.1', 'X-Forwarded-Port: 443', 'Forwarded: proto=https'];
    assert.equal(statusOf(await talk(edge.plainPort, request(fields))), 308);
    for (const header of [proxyV1('192.0.2.1'), proxyV2({ source: '192.0.2.1', tlvs: [TLS_TLV] })]) {
      assert.equal(statusOf(await talk(edge.plainPort, header, request(fields))), 400);
      await assert.rejects(secure(edge, header));
    }
    const session = connectHttp2(`http://127.0.0.1:${edge.plainPort}`);
    const failed = new Promise((resolve) => session.once('error', resolve));
    const closed = new Promise((resolve) => session.once('close', resolve));
    await assert.rejects(h2Get(session, { 'x-forwarded-proto': 'https' }));
    await Promise.all([failed, closed]);
    assert.deepEqual(edge.forwarded, []);
  });

  it('is who its connection says', async () => {
    const answer = await talkSecurely(edge, Buffer.alloc(0), ['X-Forwarded-For: 192.0.2.1, 198.51.100.1']);
    assert.equal(echoOf(answer)['clientAddress'], '127.0.0.1');
  });

  it('may check health under any name', async () => {
    for (const host of ['127.0.0.1', HOST, 'lb-1.example', 'lb-1.example:8080']) {
      assert.equal(statusOf(await talk(edge.plainPort, request([], '/_health', host))), 200, host);
    }
    for (const host of ['127.0.0.1', 'api.gateway.localhost', 'tunnel.gateway.localhost', 'lb-1.example:8080']) {
      const socket = await secure(edge, Buffer.alloc(0));
      const answer = readAll(socket);
      socket.write(request([], '/_health', host));
      assert.equal(statusOf(await answer), 200, host);
    }
  });
});
