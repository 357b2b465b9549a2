import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { request as httpsRequest } from 'node:https';
import { after, before, describe, test } from 'node:test';
import { cannedApplication, httpsApplication } from '../support/applications.ts';
import {
  createProxyWorld,
  exchangeBytes,
  get,
  httpUpstream,
  parseResponse,
  valuesOf,
  type ProxyWorld,
} from '../support/proxy-world.ts';
import { readUntilClosed, readUntil } from '../support/sockets.ts';

describe('requests over HTTP/1.1', () => {
  let world: ProxyWorld;
  before(async () => {
    world = await createProxyWorld();
  });
  after(() => world.close());

  test('an upstream sees the request as it was sent, and the client sees its answer', async () => {
    const upstream = await httpUpstream((request, response) => {
      response.writeHead(201, 'Made up', [
        'X-Mixed-Case',
        'a',
        'x-mixed-case',
        'b',
        'Set-Cookie',
        'a=1',
        'Set-Cookie',
        'b=2; Domain=gateway.test',
      ]);
      response.end(JSON.stringify({ method: request.method, url: request.url, raw: request.rawHeaders }));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const answer = await exchangeBytes(
      world,
      host,
      `GET //a/../b/%zz?q=//&%zz HTTP/1.1\r\nHost: ${host}\r\nX-Odd-CASE: one\r\nx-odd-case: two\r\nAccept: */*\r\nConnection: close\r\n\r\n`,
    );
    assert.equal(answer.status, 201);
    assert.equal(answer.statusText, 'Made up');
    assert.deepEqual(valuesOf(answer, 'set-cookie'), ['a=1', 'b=2']);
    assert.deepEqual(
      answer.lines.filter((line) => /^x-mixed-case/i.test(line)),
      ['X-Mixed-Case: a', 'x-mixed-case: b'],
    );
    const seen = JSON.parse(answer.body) as { method: string; url: string; raw: string[] };
    assert.equal(seen.url, '//a/../b/%zz?q=//&%zz');
    const own = seen.raw.slice(0, seen.raw.indexOf('X-Forwarded-For'));
    assert.deepEqual(own, ['Host', host, 'X-Odd-CASE', 'one', 'x-odd-case', 'two', 'Accept', '*/*']);
    await upstream.close();
  });

  test('a kept connection serves the next request', async () => {
    const upstream = await httpUpstream((_request, response) => void response.end('ok'));
    world.expose(upstream.port);
    assert.equal((await get(world, upstream.port)).body, 'ok');
    assert.equal((await get(world, upstream.port)).body, 'ok');
    assert.equal(upstream.connections(), 1);
    await upstream.close();
  });

  test('methods, bodies and their framing', async () => {
    const upstream = await httpUpstream((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
        const body = Buffer.concat(chunks).toString();
        response.end(JSON.stringify([request.method, length ?? null, coding ?? null, body]));
      });
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const send = async (method: string, headers: string, body = ''): Promise<unknown> => {
      const head = `${method} / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${headers}\r\n`;
      return JSON.parse((await exchangeBytes(world, host, head + body)).body);
    };
    assert.deepEqual(await send('GET', ''), ['GET', null, null, '']);
    assert.deepEqual(await send('OPTIONS', ''), ['OPTIONS', null, null, '']);
    assert.deepEqual(await send('GET', 'Content-Length: 2\r\n', 'hi'), ['GET', '2', null, 'hi']);
    assert.deepEqual(await send('GET', 'Transfer-Encoding: chunked\r\n', '2\r\nhi\r\n0\r\n\r\n'), [
      'GET',
      null,
      'chunked',
      'hi',
    ]);
    assert.deepEqual(await send('DELETE', 'Content-Length: 2\r\n', 'hi'), ['DELETE', '2', null, 'hi']);
    assert.deepEqual(await send('POST', 'Content-Length: 0\r\n'), ['POST', '0', null, '']);
    assert.deepEqual(await send('POST', 'Content-Length: 2\r\n', 'hi'), ['POST', '2', null, 'hi']);
    assert.deepEqual(await send('PUT', 'Transfer-Encoding: chunked\r\n', '1\r\nh\r\n1\r\ni\r\n0\r\n\r\n'), [
      'PUT',
      null,
      'chunked',
      'hi',
    ]);
    assert.deepEqual(await send('PATCH', 'Transfer-Encoding: chunked\r\n', '0\r\n\r\n'), [
      'PATCH',
      null,
      'chunked',
      '',
    ]);
    assert.deepEqual(await send('PROPFIND', 'Content-Length: 2\r\n', 'hi'), ['PROPFIND', '2', null, 'hi']);
    assert.equal(upstream.connections(), 1, 'every one of them left its connection in order');
    await upstream.close();
  });

  test('HEAD, 204, 304, ranges and any status', async () => {
    const upstream = await httpUpstream((request, response) => {
      const status = Number(request.url!.slice(1));
      if (status === 206) response.writeHead(206, { 'Content-Range': 'bytes 0-1/10', 'Content-Length': 2 });
      else if (status === 304) response.writeHead(304, { ETag: '"x"' });
      else response.writeHead(status, status === 204 ? {} : { 'Content-Length': 2 });
      response.end(status === 204 || status === 304 ? undefined : 'ok');
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const head = await exchangeBytes(world, host, `HEAD /200 HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    assert.deepEqual([head.status, head.body, valuesOf(head, 'content-length')], [200, '', ['2']]);
    const none = await get(world, upstream.port, '/204');
    assert.deepEqual([none.status, none.body, valuesOf(none, 'transfer-encoding')], [204, '', []]);
    const unmodified = await get(world, upstream.port, '/304');
    assert.deepEqual([unmodified.status, unmodified.body, valuesOf(unmodified, 'etag')], [304, '', ['"x"']]);
    const part = await get(world, upstream.port, '/206', 'Range: bytes=0-1\r\n');
    assert.deepEqual([part.status, part.body, valuesOf(part, 'content-range')], [206, 'ok', ['bytes 0-1/10']]);
    for (const status of [200, 299, 418, 451, 503, 600, 999]) {
      const answer = await get(world, upstream.port, `/${status}`);
      assert.deepEqual([answer.status, answer.body], [status, 'ok']);
      assert.deepEqual(valuesOf(answer, 'gateway-error'), []);
    }
    assert.equal(upstream.connections(), 1);
    await upstream.close();
  });

  test('bytes above 0x7f in field values and reason phrases arrive as they were', async () => {
    const upstream = await cannedApplication(
      Buffer.from(
        'HTTP/1.1 200 Gr\xfc\xdfe\r\nContent-Length: 2\r\nX-Raw: \xe9\r\nContent-Disposition: attachment; filename="\xc3\xa9"\r\n\r\nok',
        'latin1',
      ),
    );
    world.expose(upstream.port);
    const answer = await get(world, upstream.port, '/', 'X-Raw: \xc3\xa9\xff\r\n');
    assert.equal(answer.body, 'ok');
    assert.deepEqual(valuesOf(answer, 'x-raw'), ['\xe9']);
    assert.deepEqual(valuesOf(answer, 'content-disposition'), ['attachment; filename="\xc3\xa9"']);
    assert.match(upstream.received(), /X-Raw: \xc3\xa9\xff\r\n/);
    await upstream.close();
  });

  test('interim responses, links and response trailers', async () => {
    const upstream = await cannedApplication(
      'HTTP/1.1 103 Early Hints\r\nLink: <a>; rel=preload\r\nLink: not a link at all\r\nGateway-Error: x\r\n\r\n' +
        'HTTP/1.1 199 Odd\r\n\r\n' +
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\nSet-Cookie: a=1\r\n\r\n',
    );
    world.expose(upstream.port);
    const socket = await world.connect(world.host(upstream.port));
    socket.write(`GET / HTTP/1.1\r\nHost: ${world.host(upstream.port)}\r\nConnection: close\r\n\r\n`);
    const { text } = await readUntilClosed(socket);
    const [hints, odd, head, ...rest] = text.split('\r\n\r\n');
    assert.equal(hints, 'HTTP/1.1 103 Early Hints\r\nLink: <a>; rel=preload\r\nLink: not a link at all');
    assert.match(odd!, /^HTTP\/1\.1 199 /);
    assert.match(head!, /^HTTP\/1\.1 200 OK\r\n/);
    assert.equal(rest.join('\r\n\r\n'), '2\r\nok\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n');
    await upstream.close();
  });

  test('request trailers', async () => {
    const upstream = await httpUpstream((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => response.end(JSON.stringify([body, request.rawTrailers, request.headers.te ?? null])));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const send = async (body: string): Promise<unknown> =>
      JSON.parse(
        (
          await exchangeBytes(
            world,
            host,
            `POST / HTTP/1.1\r\nHost: ${host}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nConnection: close, TE\r\n\r\n${body}`,
          )
        ).body,
      );
    const trailers = ['X-Sum', '1', 'x-sum', '2'];
    const section = 'X-Sum: 1\r\nX-Forwarded-For: spoofed\r\nx-sum: 2\r\n\r\n';
    assert.deepEqual(await send(`2\r\nhi\r\n0\r\n${section}`), ['hi', trailers, 'trailers']);
    assert.deepEqual(await send(`0\r\n${section}`), ['', trailers, 'trailers']);
    assert.deepEqual(await send(`2\r\nhi\r\n0\r\n\r\n`), ['hi', [], 'trailers']);
    assert.equal(upstream.connections(), 1);
    await upstream.close();
  });

  test('Expect: 100-continue is answered when the upstream takes the body', async () => {
    const upstream = await httpUpstream((request, response) => {
      request.resume();
      request.on('end', () => response.end(`expect: ${request.headers.expect}`));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const socket = await world.connect(host);
    const head = (port: number) =>
      `POST / HTTP/1.1\r\nHost: ${world.host(port)}\r\nExpect: 100-Continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n`;
    socket.write(head(upstream.port));
    assert.equal(await readUntil(socket, '\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n');
    socket.write('hi');
    assert.equal(parseResponse((await readUntilClosed(socket)).text).body, 'expect: undefined');
    await upstream.close();
    // Nobody takes the body: no 100.
    const refused = await world.connect(host);
    refused.write(head(upstream.port));
    assert.match((await readUntilClosed(refused)).text, /^HTTP\/1\.1 502 /);
  });

  test('a 100 that nobody asked for is passed on as every interim response, but not over HTTP/1.0', async () => {
    const upstream = await cannedApplication((socket) => {
      socket.write('HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const ask = async (version: string): Promise<string> => {
      const socket = await world.connect(host);
      socket.write(`GET / HTTP/${version}\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      return (await readUntilClosed(socket)).text;
    };
    assert.match(await ask('1.1'), /^HTTP\/1\.1 100 Continue\r\nX-A: 1\r\n\r\nHTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nok$/);
    assert.match(await ask('1.0'), /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nok$/);
    await upstream.close();
  });

  test('an answer that comes while the upload runs', async () => {
    const upstream = await httpUpstream((_request, response) => {
      response.writeHead(413, { Connection: 'close' });
      response.end('too much');
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const socket = await world.connect(host);
    socket.write(`POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 100000\r\n\r\n`);
    socket.write('x'.repeat(1_000));
    const answer = await readUntil(socket, 'too much');
    assert.match(answer, /^HTTP\/1\.1 413 /);
    // The rest is read away, and the connection goes on or ends, but never takes body for a request.
    socket.write('x'.repeat(99_000));
    socket.write(`GET /next HTTP/1.1\r\nHost: ${world.host(1024)}\r\nConnection: close\r\n\r\n`);
    const { text } = await readUntilClosed(socket);
    const rest = text.slice(text.indexOf('HTTP/1.1'));
    assert.ok(rest === '' || /port_not_exposed/.test(rest), rest);
    await upstream.close();
  });

  test('head and body flow in both directions at once, without waiting for an end', async () => {
    const upstream = await httpUpstream((request, response) => {
      response.writeHead(200);
      response.flushHeaders();
      request.pipe(response);
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const socket = await world.connect(host);
    socket.write(`POST / HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n`);
    socket.write('5\r\nfirst\r\n');
    await readUntil(socket, 'first\r\n');
    socket.write('6\r\nsecond\r\n');
    await readUntil(socket, 'second\r\n');
    socket.write('0\r\n\r\n');
    assert.equal((await readUntilClosed(socket)).text, '0\r\n\r\n');
    await upstream.close();
  });

  test('a head goes out before there is any body', async () => {
    const upstream = await httpUpstream((_request, response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.flushHeaders();
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const socket = await world.connect(host);
    socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    assert.match(await readUntil(socket, '\r\n\r\n'), /text\/event-stream/);
    socket.destroy();
    await upstream.close();
  });

  test('64 MiB each way arrive whole', async () => {
    const size = 64 << 20;
    const hash = createHash('sha256');
    const upstream = await httpUpstream((request, response) => {
      if (request.method === 'GET') {
        const chunk = Buffer.alloc(1 << 20, 7);
        let left = size;
        response.writeHead(200, { 'Content-Length': size });
        const more = (): void => {
          while (left > 0) {
            left -= chunk.length;
            if (!response.write(chunk)) return void response.once('drain', more);
          }
          response.end();
        };
        return more();
      }
      request.on('data', (chunk: Buffer) => hash.update(chunk));
      request.on('end', () => response.end(hash.digest('hex')));
    });
    world.expose(upstream.port);
    const headers = { host: world.host(upstream.port) };
    const options = {
      port: world.port,
      servername: headers.host,
      rejectUnauthorized: false,
      headers,
      agent: false as const,
    };
    const content = Buffer.alloc(size, 9);
    const answer = await new Promise<string>((resolve, reject) => {
      const request = httpsRequest({ ...options, method: 'POST' }, (response) => {
        let body = '';
        response.on('data', (part: Buffer) => (body += part.toString())).on('end', () => resolve(body));
      });
      request.on('error', reject);
      request.end(content);
    });
    assert.equal(answer, createHash('sha256').update(content).digest('hex'));
    const received = await new Promise<number>((resolve, reject) => {
      const request = httpsRequest(options, (response) => {
        let bytes = 0;
        response.on('data', (part: Buffer) => (bytes += part.length)).on('end', () => resolve(bytes));
      });
      request.on('error', reject);
      request.end();
    });
    assert.equal(received, size);
    await upstream.close();
  });

  test('TLS to the upstream, by protocol and by the "s" of the host', async () => {
    const upstream = await httpsApplication((_request, response) => void response.end('secret'));
    world.expose(upstream.port, { protocol: 'https' });
    assert.equal((await get(world, upstream.port)).body, 'secret');
    const other = await httpsApplication((_request, response) => void response.end('secret too'));
    world.expose(other.port);
    const host = world.host(other.port, { tls: true });
    const answer = await exchangeBytes(world, host, `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    assert.equal(answer.body, 'secret too');
    const mistaken = await get(world, other.port);
    assert.deepEqual([mistaken.status, valuesOf(mistaken, 'gateway-error')], [502, ['upstream_speaks_tls']]);
    const plain = await httpUpstream((_request, response) => void response.end('plain'));
    world.expose(plain.port, { protocol: 'https' });
    const reverse = await get(world, plain.port);
    assert.deepEqual([reverse.status, valuesOf(reverse, 'gateway-error')], [502, ['upstream_speaks_plain']]);
    await Promise.all([upstream.close(), other.close(), plain.close()]);
  });

  test('hostHeader local, there and back', async () => {
    const upstream = await httpUpstream((request, response) => {
      response.writeHead(302, { Location: `http://${request.headers.host}/next` });
      response.end(JSON.stringify([request.headers.host, request.headers.origin, request.headers['x-forwarded-host']]));
    });
    world.expose(upstream.port, { hostHeader: 'local' });
    const host = world.host(upstream.port);
    const answer = await get(world, upstream.port, '/', `Origin: https://${host}\r\n`);
    const local = `localhost:${upstream.port}`;
    assert.deepEqual(JSON.parse(answer.body), [local, `http://${local}`, host]);
    assert.deepEqual(valuesOf(answer, 'location'), [`https://${host}/next`]);
    await upstream.close();
  });

  test('nothing listens', async () => {
    const upstream = await cannedApplication('');
    world.expose(upstream.port);
    await upstream.close();
    const answer = await get(world, upstream.port);
    assert.equal(answer.status, 502);
    assert.deepEqual(valuesOf(answer, 'gateway-error'), ['upstream_refused']);
  });
});
