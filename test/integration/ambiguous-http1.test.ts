/**
 * HTTP/1.1 requests that can be read in two ways, over the whole way. Each has a request for another environment behind
 * it, or inside it; the application sees no byte of either, and the other environment only what is its own.
 * Rows 6 and 7 of the threats have more in acceptance-safety.test.ts; random mutations are in ambiguous-mutation.test.ts.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { OK, outcome, startHostileWorld, type HostileWorld } from '../support/hostile-world.ts';
import { readUntil } from '../support/sockets.ts';
import { readUntilClosed } from '../support/sockets.ts';

type Make = (names: { host: string; other: string }) => string;
const head =
  (line: string, ...lines: string[]): Make =>
  ({ host }) =>
    `${line}\r\nHost: ${host}\r\n${lines.map((each) => `${each}\r\n`).join('')}\r\n`;
const post = (...lines: string[]): Make => head('POST / HTTP/1.1', ...lines);
const get = (...lines: string[]): Make => head('GET / HTTP/1.1', ...lines);
const withBody =
  (make: Make, body: string): Make =>
  (names) =>
    make(names) + body;

const REFUSED: Readonly<Record<string, Readonly<Record<string, Make>>>> = {
  'rows 1 and 2: a length and a coding, two codings': {
    'CL.TE': withBody(post('Content-Length: 5', 'Transfer-Encoding: chunked'), '0\r\n\r\n'),
    'TE.CL': withBody(post('Transfer-Encoding: chunked', 'Content-Length: 5'), '0\r\n\r\n'),
    'CL: 0 and TE': withBody(post('Content-Length: 0', 'Transfer-Encoding: chunked'), '0\r\n\r\n'),
    'TE.TE': withBody(post('Transfer-Encoding: chunked', 'Transfer-Encoding: identity'), '0\r\n\r\n'),
    'TE.TE, twice the same': withBody(post('Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'), '0\r\n\r\n'),
    'chunked, chunked': withBody(post('Transfer-Encoding: chunked, chunked'), '0\r\n\r\n'),
    'CL and Transfer_Encoding': withBody(post('Content-Length: 5', 'Transfer_Encoding: chunked'), '0\r\n\r\n'),
    'CL and TE behind a vertical tab': withBody(
      post('Content-Length: 5', 'Transfer-Encoding: \x0bchunked'),
      '0\r\n\r\n',
    ),
    'CL and a name with a space': withBody(post('Content-Length: 5', 'Transfer-Encoding : chunked'), '0\r\n\r\n'),
    'CL and TE after a bare CR': withBody(post('Content-Length: 5', 'X: y\rTransfer-Encoding: chunked'), '0\r\n\r\n'),
    'CL and TE after a bare LF': withBody(post('Content-Length: 5', 'X: y\nTransfer-Encoding: chunked'), '0\r\n\r\n'),
  },
  'row 3: a coding that does not end in chunked, and HTTP/1.0': {
    gzip: withBody(post('Transfer-Encoding: gzip'), 'abc'),
    identity: withBody(post('Transfer-Encoding: identity'), 'abc'),
    'gzip, chunked': withBody(post('Transfer-Encoding: gzip, chunked'), '0\r\n\r\n'),
    'chunked, gzip': withBody(post('Transfer-Encoding: chunked, gzip'), '0\r\n\r\n'),
    xchunked: withBody(post('Transfer-Encoding: xchunked'), '0\r\n\r\n'),
    'chunked in quotes': withBody(post('Transfer-Encoding: "chunked"'), '0\r\n\r\n'),
    'an empty coding': withBody(post('Transfer-Encoding:'), '0\r\n\r\n'),
    'chunked with a parameter': withBody(post('Transfer-Encoding: chunked;q=1'), '0\r\n\r\n'),
    'HTTP/1.0': withBody(head('POST / HTTP/1.0', 'Transfer-Encoding: chunked', 'Connection: keep-alive'), '0\r\n\r\n'),
  },
  'row 4: lengths': Object.fromEntries(
    ['+5', '-5', '0x5', '', '5 5', '5, 5', '5,', '5;', '5.0', '5e0', '\x0b5', '18446744073709551616', '９'].map(
      (value) => [`"${value}"`, withBody(post(`Content-Length: ${value}`), 'hello')],
    ),
  ),
  'row 4: repeated lengths': {
    'the same': withBody(post('Content-Length: 5', 'Content-Length: 5'), 'hello'),
    'another one': withBody(post('Content-Length: 5', 'content-length: 0'), 'hello'),
    Content_Length: withBody(post('Content-Length: 0', 'Content_Length: 5'), 'hello'),
  },
  'row 5: the grammar of lines': {
    'space before the colon': get('X-A : 1'),
    'a folded line': get('X-A: 1', ' 2'),
    'a folded first line': ({ host }) => `GET / HTTP/1.1\r\n X-A: 1\r\nHost: ${host}\r\n\r\n`,
    'a folded Host': ({ host, other }) => `GET / HTTP/1.1\r\nHost: ${host}\r\n ${other}\r\n\r\n`,
    'bare LF': ({ host }) => `GET / HTTP/1.1\nHost: ${host}\n\n`,
    'bare LF at the end of the head': ({ host }) => `GET / HTTP/1.1\r\nHost: ${host}\r\n\n`,
    'bare CR in a value': get('X-A: 1\r2'),
    'CR CR LF': get('X-A: 1\r'),
    'NUL in a value': get('X-A: 1\x002'),
    'NUL in a name': get('X\x00A: 1'),
    'DEL in a value': get('X-A: \x7f'),
    'a line of a space in front': ({ host }) => ` \r\nGET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    'a space in front of the method': head(' GET / HTTP/1.1'),
    'a tab for a space': head('GET\t/ HTTP/1.1'),
    'a space in the target': head('GET /a b HTTP/1.1'),
    'a name that is empty': get(': 1'),
    'no colon': get('X-A'),
    'a name above 0x7F': get('X-\xe9: 1'),
    'a target above 0x7F': head('GET /\xe9 HTTP/1.1'),
    'a fragment': head('GET /a#b HTTP/1.1'),
  },
  'row 6: Host': {
    none: () => 'GET / HTTP/1.1\r\n\r\n',
    'none in HTTP/1.0': () => 'GET / HTTP/1.0\r\n\r\n',
    two: ({ host, other }) => `GET / HTTP/1.1\r\nHost: ${host}\r\nHost: ${other}\r\n\r\n`,
    'two, the same': ({ host }) => `GET / HTTP/1.1\r\nHost: ${host}\r\nHost: ${host}\r\n\r\n`,
    'a list': ({ host, other }) => `GET / HTTP/1.1\r\nHost: ${host}, ${other}\r\n\r\n`,
    'one with a path': ({ host }) => `GET / HTTP/1.1\r\nHost: ${host}/\r\n\r\n`,
  },
  'row 7: the target in absolute form': {
    'another host': ({ host, other }) => `GET https://${other}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    'another host in Host': ({ host, other }) => `GET https://${host}/ HTTP/1.1\r\nHost: ${other}\r\n\r\n`,
    'another scheme': ({ host }) => `GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    'user information': ({ host, other }) => `GET https://${other}@${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    'a backslash': ({ host, other }) => `GET https://${other}\\@${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    'no host': ({ host }) => `GET https:/// HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    '* with GET': head('GET * HTTP/1.1'),
    'a relative path': head('GET a/b HTTP/1.1'),
  },
  'row 8: other versions': {
    'HTTP/0.9': () => 'GET /\r\n\r\n',
    'HTTP/0.9 with Host': head('GET /'),
    'HTTP/2.0': head('GET / HTTP/2.0'),
    'HTTP/1.2': head('GET / HTTP/1.2'),
    'HTTP/1.10': head('GET / HTTP/1.10'),
    'http/1.1': head('GET / http/1.1'),
  },
  'row 9: a body before an upgrade': {
    'a length': withBody(get('Connection: Upgrade', 'Upgrade: websocket', 'Content-Length: 5'), 'hello'),
    chunked: withBody(get('Connection: Upgrade', 'Upgrade: websocket', 'Transfer-Encoding: chunked'), '0\r\n\r\n'),
  },
};

describe('ambiguous requests over HTTP/1.1', { timeout: 90_000 }, () => {
  let world: HostileWorld;
  let names: { host: string; other: string };
  /** A request for the other environment, and one for the same. */
  let hidden: string;
  before(async () => {
    world = await startHostileWorld();
    names = { host: world.attacked.authority, other: world.quiet.authority };
    hidden = [names.other, names.host].map((host) => `GET /hidden HTTP/1.1\r\nHost: ${host}\r\n\r\n`).join('');
  });
  afterEach(async () => {
    world.attacked.answer = undefined;
    await world.checkQuiet();
  });
  after(() => world.close());

  for (const [row, cases] of Object.entries(REFUSED)) {
    test(row, async () => {
      for (const [name, make] of Object.entries(cases)) {
        const before = world.attacked.bytes();
        const answer = await world.send(make(names) + hidden);
        const [status, code] = outcome(answer);
        assert.equal(status, 400, `${name}: ${answer.slice(0, 200)}`);
        assert.match(code ?? '', /^bad_(?:request|host)$/, name);
        assert.equal(answer.split('HTTP/1.1 ').length, 2, `${name}: one answer, then the connection is closed`);
        assert.equal(world.attacked.bytes(), before, name);
      }
    });
  }

  test('row 1: chunks that can be read in two ways end the request, and what is behind them is none', async () => {
    const bodies = {
      'a size with a sign': '+5\r\nhello\r\n0\r\n\r\n',
      'a size with 0x': '0x5\r\nhello\r\n0\r\n\r\n',
      'a size too large for 64 bits': '10000000000000005\r\nhello\r\n0\r\n\r\n',
      'an empty size': '\r\nhello\r\n0\r\n\r\n',
      'a size behind a space': ' 5\r\nhello\r\n0\r\n\r\n',
      'a bare LF behind the size': '5\nhello\r\n0\r\n\r\n',
      'a bare LF in an extension': '5;a\nhello\r\n0\r\n\r\n',
      'a bare CR in an extension': '5;a\rb\r\nhello\r\n0\r\n\r\n',
      'no CRLF behind the chunk': '5\r\nhello0\r\n\r\n',
      'a bare LF behind the chunk': '5\r\nhello\n0\r\n\r\n',
      'a negative last chunk': '5\r\nhello\r\n-0\r\n\r\n',
      'a bare LF behind the last chunk': '5\r\nhello\r\n0\n\r\n',
      'a trailer with a bare LF': '5\r\nhello\r\n0\r\nX: y\n\r\n',
      'a folded trailer': '5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n',
    };
    for (const [name, body] of Object.entries(bodies)) {
      const before = world.attacked.requests.length;
      const answer = await world.send(post('Transfer-Encoding: chunked')(names) + body + hidden);
      assert.deepEqual(outcome(answer), [400, 'bad_request'], name);
      assert.equal(answer.split('HTTP/1.1 ').length, 2, name);
      // The head, and perhaps a whole chunk, were sent on before the fault came; an end never is.
      assert.equal(world.attacked.requests.length, before, name);
    }
    assert.doesNotMatch(world.attacked.text(), /hidden/);
  });

  test('row 8: HTTP/1.0 is answered once, whatever it says of keeping the connection', async () => {
    const before = world.attacked.requests.length;
    const answer = await world.send(head('GET /old HTTP/1.0', 'Connection: keep-alive')(names) + hidden);
    assert.equal(outcome(answer)[0], 200);
    assert.equal(answer.split('HTTP/1.1 ').length, 2);
    assert.deepEqual(
      world.attacked.requests.slice(before).map(({ target }) => target),
      ['/old'],
    );
  });

  test('row 9: what comes behind an upgrade that is refused is no request', async () => {
    const upgrade = head(
      'GET /socket HTTP/1.1',
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    )(names);
    const before = world.attacked.requests.length;
    const answer = await world.send(upgrade + hidden);
    assert.equal(outcome(answer)[0], 200);
    assert.equal(answer.split('HTTP/1.1 ').length, 2);
    const seen = world.attacked.requests.slice(before);
    assert.deepEqual(
      seen.map(({ target }) => target),
      ['/socket'],
    );
    assert.doesNotMatch(world.attacked.text(), /hidden/);
  });

  test('row 10: h2c asks for nothing, CONNECT and TRACE reach nobody', async () => {
    const before = world.attacked.requests.length;
    const h2c = get(
      'Connection: Upgrade, HTTP2-Settings, close',
      'Upgrade: h2c',
      'HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA',
    );
    assert.equal(outcome(await world.send(h2c(names)))[0], 200);
    const [request] = world.attacked.requests.slice(before);
    assert.doesNotMatch(JSON.stringify(request?.lines), /h2c|http2-settings|upgrade/i);
    const bytes = world.attacked.bytes();
    for (const line of [`CONNECT ${names.host} HTTP/1.1`, 'CONNECT / HTTP/1.1', 'TRACE / HTTP/1.1']) {
      const answer = await world.send(head(line)(names) + hidden);
      assert.match(String(outcome(answer)), /^(?:501,method_not_supported|400,bad_request)$/, line);
      assert.equal(answer.split('HTTP/1.1 ').length, 2, line);
    }
    assert.equal(world.attacked.bytes(), bytes);
  });

  test('row 11: the rest of an upload that was answered early is never a request', async () => {
    const { attacked, quiet } = world;
    const body = hidden.repeat(2_000);
    const early = 'HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlate';
    attacked.raw = (socket, chunk) => {
      if (chunk.toString('latin1').startsWith('POST /early')) socket.write(early);
    };
    const socket = await world.way.connect(attacked.host);
    socket.write(`POST /early HTTP/1.1\r\nHost: ${attacked.authority}\r\nContent-Length: ${body.length}\r\n\r\n`);
    socket.write(hidden, 'latin1');
    const first = await readUntil(socket, 'late');
    assert.equal(outcome(first)[0], 413);
    const rest = readUntilClosed(socket);
    socket.write(body.slice(hidden.length), 'latin1');
    socket.write(`GET /quiet HTTP/1.1\r\nHost: ${quiet.authority}\r\nConnection: close\r\n\r\n`);
    const { text } = await rest;
    attacked.raw = undefined;
    // Closed, or read away; then the request that is one is answered.
    assert.match(text, /^(?:|HTTP\/1\.1 200 OK\r\n[^]*ok)$/);
    const requests = attacked.text().slice(attacked.text().indexOf('POST /early'));
    // Bytes of the body may have gone out before the answer came, but on that connection only.
    assert.doesNotMatch(requests.slice(requests.indexOf('\r\n\r\n') + 4 + body.length), /hidden/);
  });

  test('two spaces before the version are one (RFC 9112 section 3), and are sent on as one', async () => {
    const answer = await world.send(head('GET /spaces  HTTP/1.1', 'Connection: close')(names));
    assert.equal(outcome(answer)[0], 200);
    assert.match(world.attacked.text(), /^GET \/spaces HTTP\/1\.1\r$/m);
  });

  test('a request that is none of these passes, and leaves the connection in order', async () => {
    const before = world.attacked.requests.length;
    const chunked = withBody(post('Transfer-Encoding: Chunked'), '5;a="b"\r\nhello\r\n00\r\nX-Sum: 1\r\n\r\n');
    const answer = await world.send(chunked(names) + get('Connection: close')(names));
    assert.equal(answer.split(OK.slice(0, 12)).length, 3);
    const seen = world.attacked.requests.slice(before);
    assert.deepEqual(
      seen.map(({ method, body }) => [method, body]),
      [
        ['POST', 'hello'],
        ['GET', ''],
      ],
    );
  });
});
