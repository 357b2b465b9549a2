import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { constants, type ClientHttp2Session, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2';
import type { Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { cannedApplication } from '../support/applications.ts';
import { createProxyWorld, httpUpstream, type ProxyWorld } from '../support/proxy-world.ts';

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly informational: IncomingHttpHeaders[];
  readonly trailers: IncomingHttpHeaders | undefined;
  readonly body: string;
  readonly rstCode: number | undefined;
}

const PASSED_ON_MS = 1_000;

const send = (session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string | Buffer): Promise<Answer> =>
  new Promise((resolve) => {
    const stream = session.request(headers, { endStream: body === undefined });
    const informational: IncomingHttpHeaders[] = [];
    let head: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders | undefined;
    let text = '';
    stream.on('headers', (block: IncomingHttpHeaders) => informational.push(block));
    stream.on('response', (block) => (head = block));
    stream.on('trailers', (block: IncomingHttpHeaders) => (trailers = block));
    stream.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
    stream.on('error', () => undefined);
    stream.on('close', () =>
      resolve({ headers: head, informational, trailers, body: text, rstCode: stream.rstCode ?? undefined }),
    );
    if (body !== undefined) stream.end(body);
  });

describe('requests over HTTP/2', () => {
  let world: ProxyWorld;
  before(async () => {
    world = await createProxyWorld();
  });
  after(() => world.close());

  test('cookies in one line, fields as they came, a plain HTTP/1.1 request upstream', async () => {
    const upstream = await httpUpstream((request, response) => {
      response.setHeader('Set-Cookie', ['a=1', 'b=2; Domain=gateway.test']);
      response.setHeader('X-Content-Type-Options', ['nosniff', 'nosniff']);
      response.setHeader('Connection', 'close');
      response.end(JSON.stringify({ url: request.url, raw: request.rawHeaders }));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const session = await world.connectH2(host);
    const { headers, body } = await send(session, {
      ':path': '//x/../%zz?a',
      cookie: ['a=1', '__Host-gitpod_port_auth=x', 'b="2"'],
      'x-a': ['1', '2'],
      te: 'trailers',
    });
    assert.equal(headers[':status'], 200);
    assert.deepEqual(headers['set-cookie'], ['a=1', 'b=2']);
    assert.equal(headers.connection, undefined);
    const seen = JSON.parse(body) as { url: string; raw: string[] };
    assert.equal(seen.url, '//x/../%zz?a');
    const raw = seen.raw.slice(0, seen.raw.indexOf('X-Forwarded-For'));
    assert.deepEqual(raw, [
      ...['Host', `${host}:443`, 'cookie', 'a=1; b="2"', 'x-a', '1', 'x-a', '2', 'TE', 'trailers'],
    ]);
    session.close();
    await upstream.close();
  });

  test('bodies with and without a length, and trailers both ways', async () => {
    const upstream = await httpUpstream((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        response.writeHead(200, { Trailer: 'Grpc-Status' });
        const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
        response.write(JSON.stringify([body, length ?? null, coding ?? null, request.rawTrailers]));
        response.addTrailers({ 'Grpc-Status': '0' });
        response.end();
      });
    });
    world.expose(upstream.port);
    const session = await world.connectH2(world.host(upstream.port));
    const chunked = await send(session, { ':method': 'POST' }, 'hi');
    assert.deepEqual(JSON.parse(chunked.body), ['hi', null, 'chunked', []]);
    assert.equal(chunked.trailers?.['grpc-status'], '0');
    const fixed = await send(session, { ':method': 'POST', 'content-length': 2 }, 'hi');
    assert.deepEqual(JSON.parse(fixed.body), ['hi', '2', null, []]);
    const empty = await send(session, { ':method': 'GET' });
    assert.deepEqual(JSON.parse(empty.body), ['', null, null, []]);
    const answer = await new Promise<string>((resolve) => {
      const stream = session.request({ ':method': 'POST' }, { waitForTrailers: true });
      let body = '';
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1' }));
      stream.on('data', (chunk: Buffer) => (body += chunk.toString()));
      stream.on('close', () => resolve(body));
      stream.end('hi');
    });
    assert.deepEqual(JSON.parse(answer), ['hi', null, 'chunked', ['x-sum', '1']]);
    session.close();
    await upstream.close();
  });

  test('interim responses, HEAD, 204, 304, and a status that HTTP/2 cannot carry in Node', async () => {
    const upstream = await cannedApplication((socket) => {
      socket.write(
        'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: <a>\r\nLink: <b>\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n',
      );
    });
    const statuses = await httpUpstream((request, response) => {
      response.writeHead(Number(request.url!.slice(1)), { 'Content-Length': '2' });
      response.end('ok');
    });
    world.expose(upstream.port);
    world.expose(statuses.port);
    const session = await world.connectH2(world.host(upstream.port));
    const hinted = await send(session, { ':path': '/' });
    assert.equal(hinted.headers[':status'], 204);
    assert.deepEqual(
      hinted.informational.map((block) => block[':status']),
      [100, 103],
    );
    assert.equal(hinted.informational[1]?.['link'], '<a>, <b>');
    const other = await world.connectH2(world.host(statuses.port));
    const head = await send(other, { ':method': 'HEAD', ':path': '/200' });
    assert.deepEqual([head.headers[':status'], head.headers['content-length'], head.body], [200, '2', '']);
    assert.equal((await send(other, { ':path': '/304' })).headers[':status'], 304);
    assert.equal((await send(other, { ':path': '/599' })).body, 'ok');
    const odd = await send(other, { ':path': '/600' });
    assert.deepEqual([odd.headers[':status'], odd.headers['gateway-error']], [502, 'upstream_invalid']);
    session.close();
    other.close();
    await Promise.all([upstream.close(), statuses.close()]);
  });

  test('Expect: 100-continue', async () => {
    const upstream = await httpUpstream((request, response) => void request.pipe(response));
    world.expose(upstream.port);
    const session = await world.connectH2(world.host(upstream.port));
    const stream = session.request({ ':method': 'POST', expect: '100-continue' });
    await once(stream, 'continue');
    stream.end('now');
    let body = '';
    stream.on('data', (chunk: Buffer) => (body += chunk.toString()));
    await once(stream, 'close');
    assert.equal(body, 'now');
    session.close();
    await upstream.close();
  });

  test('32 MiB each way on parallel streams', async () => {
    const size = 16 << 20;
    const upstream = await httpUpstream((request, response) => {
      const hash = createHash('sha256');
      request.on('data', (chunk: Buffer) => {
        hash.update(chunk);
        if (!response.write(chunk)) {
          request.pause();
          response.once('drain', () => request.resume());
        }
      });
      request.on('end', () => response.end(hash.digest()));
    });
    world.expose(upstream.port);
    const session = await world.connectH2(world.host(upstream.port));
    const contents = [Buffer.alloc(size, 1), Buffer.alloc(size, 2)];
    const answers = await Promise.all(contents.map((content) => send(session, { ':method': 'POST' }, content)));
    for (const [index, { body }] of answers.entries()) {
      assert.equal(body.length, size + 32);
      const digest = createHash('sha256').update(contents[index]!).digest('latin1');
      assert.equal(body.slice(size), digest);
      assert.equal(
        createHash('sha256')
          .update(Buffer.from(body.slice(0, size), 'latin1'))
          .digest('latin1'),
        digest,
      );
    }
    session.close();
    await upstream.close();
  });

  test('an answer that comes while the upload runs ends the stream without an error', async () => {
    const upstream = await httpUpstream((_request, response) => {
      response.writeHead(413, { Connection: 'close' });
      response.end('too much');
    });
    world.expose(upstream.port);
    const session = await world.connectH2(world.host(upstream.port));
    const stream = session.request({ ':method': 'POST' });
    let body = '';
    stream.on('data', (chunk: Buffer) => (body += chunk.toString()));
    stream.on('error', () => undefined);
    stream.write(Buffer.alloc(1_000));
    await once(stream, 'close');
    assert.equal(body, 'too much');
    assert.equal(stream.rstCode, constants.NGHTTP2_NO_ERROR);
    session.close();
    await upstream.close();
  });

  test('a cut upstream resets the stream, a reset stream cuts the upstream', async () => {
    let socket: Socket | undefined;
    const upstream = await cannedApplication((made) => {
      socket = made;
      made.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart');
    });
    world.expose(upstream.port);
    const session = await world.connectH2(world.host(upstream.port));
    const answer = send(session, { ':path': '/' });
    const first = session.request({ ':path': '/second' });
    first.on('error', () => undefined);
    await once(first, 'data');
    const mine = socket!;
    const gone = new Promise((resolve) => mine.once('close', resolve));
    const started = performance.now();
    first.close(constants.NGHTTP2_CANCEL);
    await gone;
    assert.ok(performance.now() - started < PASSED_ON_MS);
    // Cuts the connection of the other stream.
    await upstream.close();
    const { body, rstCode } = await answer;
    assert.equal(body, 'part');
    assert.equal(rstCode, constants.NGHTTP2_INTERNAL_ERROR);
    session.close();
  });
});
