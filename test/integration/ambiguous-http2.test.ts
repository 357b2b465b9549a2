/**
 * HTTP/2 requests that would be another one in HTTP/1.1, over the whole way: frames and header blocks by hand. Each is
 * refused with a status or a reset, the application sees no byte of it, and a quiet environment on the same connection
 * is served.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { startHostileWorld, type HostileWorld } from '../support/hostile-world.ts';
import {
  FLAG,
  frame,
  FRAME_TYPE,
  headerBlock,
  startRawHttp2,
  type Fields,
  type RawHttp2,
} from '../support/raw-http2.ts';

describe('ambiguous requests over HTTP/2', { timeout: 60_000 }, () => {
  let world: HostileWorld;
  let client: RawHttp2;
  const connect = async (): Promise<RawHttp2> =>
    startRawHttp2(
      await world.way.connect(world.attacked.host, { ALPNProtocols: ['h2'], allowHalfOpen: false } as object),
    );
  before(async () => {
    world = await startHostileWorld();
    client = await connect();
  });
  afterEach(() => world.checkQuiet());
  after(async () => {
    client.socket.destroy();
    await world.close();
  });

  const head = (over: Readonly<Record<string, string | undefined>> = {}): [string, string][] =>
    Object.entries({
      ':method': 'GET',
      ':scheme': 'https',
      ':authority': world.attacked.authority,
      ':path': '/',
      ...over,
    }).filter((entry): entry is [string, string] => entry[1] !== undefined);

  /** Refused by a 4xx or a reset (or the end of the connection), without a byte to the application. */
  const refused = async (name: string, fields: Fields, body?: string): Promise<number | undefined> => {
    if (client.socket.destroyed) client = await connect();
    const before = world.attacked.bytes();
    const id = client.open(headerBlock(fields), { endStream: body === undefined });
    if (body !== undefined) client.write(frame(FRAME_TYPE.data, FLAG.endStream, id, Buffer.from(body)));
    const answer = await client.answer(id);
    assert.ok(
      answer.status === undefined ? answer.reset !== 0 : answer.status >= 400 && answer.status < 502,
      `${name}: ${JSON.stringify(answer)}`,
    );
    assert.equal(world.attacked.bytes(), before, name);
    return answer.status;
  };
  /** The quiet environment, over the same connection if it is still there. */
  const checkBeside = async (): Promise<void> => {
    if (client.socket.destroyed) client = await connect();
    const id = client.open(headerBlock(head({ ':authority': world.quiet.authority, ':path': '/quiet' })));
    const answer = await client.answer(id);
    assert.deepEqual([answer.status, answer.body], [200, 'ok']);
  };

  test('row 22: pseudo-header fields', async () => {
    const { attacked, quiet } = world;
    const cases: Record<string, Fields> = {
      'no method': head({ ':method': undefined }),
      'no scheme': head({ ':scheme': undefined }),
      'no path': head({ ':path': undefined }),
      'no authority and no host': head({ ':authority': undefined }),
      'an empty path': head({ ':path': '' }),
      'an empty authority': head({ ':authority': '' }),
      'an unknown one': [...head(), [':evil', '1']],
      'one of a response': [...head(), [':status', '200']],
      ':protocol': [...head(), [':protocol', 'websocket']],
      'two paths': [...head(), [':path', '/hidden']],
      'two authorities': [...head(), [':authority', quiet.authority]],
      'two methods': [...head(), [':method', 'POST']],
      'one behind a field': [...head({ ':path': undefined }), ['x-a', '1'], [':path', '/']],
      'scheme http': head({ ':scheme': 'http' }),
      'scheme of nothing': head({ ':scheme': 'x y' }),
      'scheme with a request in it': head({ ':scheme': `http://${quiet.authority}/hidden HTTP/1.1\r\nx: ` }),
      'host differs': [...head(), ['host', quiet.authority]],
      'host differs in its port': [...head(), ['host', attacked.host]],
      'two hosts': [...head(), ['host', attacked.authority], ['host', attacked.authority]],
      'host alone, twice': [
        ...head({ ':authority': undefined }),
        ['host', attacked.authority],
        ['host', quiet.authority],
      ],
      'user information': head({ ':authority': `${quiet.authority}@${attacked.authority}` }),
      'an authority with a path': head({ ':authority': `${attacked.authority}/x` }),
      'an authority with a line': head({ ':authority': `${attacked.authority}\r\nhost: ${quiet.authority}` }),
      'an absolute path': head({ ':path': `https://${quiet.authority}/` }),
      'an absolute path of the same host': head({ ':path': `https://${attacked.authority}/` }),
      'a path without a slash': head({ ':path': 'hidden' }),
      'an asterisk with GET': head({ ':path': '*' }),
      'a space in the path': head({ ':path': '/ HTTP/1.1' }),
      'a line in the path': head({ ':path': `/ HTTP/1.1\r\nhost: ${quiet.authority}\r\n\r\nGET /hidden` }),
      'a bare LF in the path': head({ ':path': '/\nx: 1' }),
      'NUL in the path': head({ ':path': '/\0' }),
      'a tab in the path': head({ ':path': '/\t' }),
      'DEL in the path': head({ ':path': '/\x7f' }),
      'a fragment in the path': head({ ':path': '/a#b' }),
      'a space in the method': head({ ':method': 'GET /hidden HTTP/1.1\r\nx: ' }),
      'an empty method': head({ ':method': '' }),
      'a capital name': [...head(), ['X-A', '1']],
    };
    for (const [name, fields] of Object.entries(cases)) {
      await refused(name, fields);
      await checkBeside();
    }
    // The same as over HTTP/1.1.
    assert.equal(await refused('a byte above 0x7F', head({ ':path': '/\xe9' })), 400);
    assert.equal(await refused('UTF-8', head({ ':path': '/\xc3\xa9' })), 400);
  });

  test('row 23: fields that mean something in HTTP/1.1 only', async () => {
    const cases: Record<string, Fields> = {
      connection: [['connection', 'close']],
      'connection, keep-alive': [['connection', 'keep-alive']],
      'keep-alive': [['keep-alive', 'timeout=5']],
      'proxy-connection': [['proxy-connection', 'keep-alive']],
      'transfer-encoding': [['transfer-encoding', 'chunked']],
      transfer_encoding: [['transfer_encoding', 'chunked']],
      content_length: [['content_length', '5']],
      upgrade: [['upgrade', 'h2c']],
      'te: gzip': [['te', 'gzip']],
      'two lengths': [
        ['content-length', '5'],
        ['content-length', '5'],
      ],
      'lengths in a list': [['content-length', '5, 5']],
      'a signed length': [['content-length', '+5']],
      'an empty length': [['content-length', '']],
      'a length of 2^64': [['content-length', '18446744073709551616']],
      'an unknown expectation': [['expect', 'x']],
    };
    for (const [name, fields] of Object.entries(cases)) {
      await refused(name, [...head({ ':method': 'POST' }), ...fields], 'hello');
      await checkBeside();
    }
  });

  test('row 23: fields that are none: nghttp2 refuses the request, or leaves the field out; no byte of it goes on', async () => {
    const { attacked, quiet } = world;
    const cases: Record<string, Fields> = {
      'transfer-encoding behind a space': [['transfer-encoding ', 'chunked']],
      'transfer-encoding before a space': [[' transfer-encoding', 'chunked']],
      'an empty name': [['', '1']],
      'a name with a colon': [['x:y', '1']],
      'a name with a line': [['x\r\ntransfer-encoding', 'chunked']],
      'a name with a space': [['x y', '1']],
      'a name with NUL': [['x\0', '1']],
      'a name above 0x7F': [['x\xe9', '1']],
      'a value with a line': [['x', `1\r\n\r\nGET /hidden HTTP/1.1\r\nhost: ${quiet.authority}\r\n`]],
      'a value with a bare CR': [['x', '1\rtransfer-encoding: chunked']],
      'a value with a bare LF': [['x', '1\ntransfer-encoding: chunked']],
      'a value with NUL': [['x', '1\0']],
    };
    for (const [name, fields] of Object.entries(cases)) {
      if (client.socket.destroyed) client = await connect();
      const before = attacked.requests.length;
      const block = headerBlock([...head({ ':method': 'POST', ':path': '/left-out' }), ...fields]);
      const id = client.open(block, { endStream: false });
      client.write(frame(FRAME_TYPE.data, FLAG.endStream, id, Buffer.from('hello')));
      const { status } = await client.answer(id);
      const seen = attacked.requests.slice(before);
      assert.equal(seen.length, status === 200 ? 1 : 0, name);
      for (const { lines, body } of seen) {
        const own = lines.filter(([field]) => !/^(?:x-|forwarded|traceparent|gitpod|connection|host)/i.test(field));
        assert.deepEqual([name, own, body], [name, [['Transfer-Encoding', 'chunked']], 'hello']);
      }
      await checkBeside();
    }
    assert.doesNotMatch(attacked.text(), /\/hidden/);
  });

  test('row 23: a length that lies ends the request without an end at the application', async () => {
    const { attacked } = world;
    const before = attacked.requests.length;
    const bodies: Record<string, [length: string, body: string]> = {
      'longer than it says': ['3', 'hello'],
      'shorter than it says': ['9', 'hello'],
      'something where there is nothing': ['0', 'hello'],
    };
    for (const [name, [length, body]] of Object.entries(bodies)) {
      if (client.socket.destroyed) client = await connect();
      const block = headerBlock([...head({ ':method': 'POST', ':path': '/lies' }), ['content-length', length]]);
      const id = client.open(block, { endStream: false });
      client.write(frame(FRAME_TYPE.data, FLAG.endStream, id, Buffer.from(body)));
      const answer = await client.answer(id);
      assert.ok(answer.status === undefined || answer.status === 400, `${name}: ${JSON.stringify(answer)}`);
      await checkBeside();
    }
    const alone = client.open(headerBlock([...head({ ':method': 'POST' }), ['content-length', '5']]));
    const answer = await client.answer(alone);
    assert.ok(answer.status === undefined || answer.status === 400, JSON.stringify(answer));
    assert.deepEqual(attacked.requests.slice(before), []);
  });

  test('row 10: CONNECT and TRACE reach nobody', async () => {
    const connectHead: Fields = [
      [':method', 'CONNECT'],
      [':authority', world.attacked.authority],
    ];
    assert.equal(await refused('CONNECT', connectHead), 501);
    assert.equal(await refused('CONNECT with a body', connectHead, 'hidden'), 501);
    await refused('extended CONNECT', [...head({ ':method': 'CONNECT' }), [':protocol', 'websocket']]);
    assert.equal(await refused('TRACE', head({ ':method': 'TRACE' })), 501);
    await checkBeside();
  });

  test('rows 22 and 23: a trailer section is no place for a head', async () => {
    const { attacked } = world;
    const sections: Record<string, Fields> = {
      'a pseudo-header': [[':path', '/hidden']],
      'transfer-encoding': [['transfer-encoding', 'chunked']],
      'a line in a value': [['x', `1\r\n\r\nGET /hidden HTTP/1.1\r\nhost: ${world.quiet.authority}`]],
    };
    const before = attacked.requests.length;
    for (const [name, fields] of Object.entries(sections)) {
      if (client.socket.destroyed) client = await connect();
      const id = client.open(headerBlock(head({ ':method': 'POST', ':path': '/trailers' })), { endStream: false });
      client.write(frame(FRAME_TYPE.data, 0, id, Buffer.from('hello')));
      client.write(frame(FRAME_TYPE.headers, FLAG.endHeaders | FLAG.endStream, id, headerBlock(fields)));
      const answer = await client.answer(id);
      if (answer.status !== undefined && answer.status < 400) {
        // Taken without the field.
        const [seen] = attacked.requests.slice(-1);
        assert.deepEqual([name, seen?.body, seen?.trailers], [name, 'hello', []]);
      }
      await checkBeside();
    }
    assert.ok(attacked.requests.length - before <= Object.keys(sections).length);
    assert.doesNotMatch(attacked.text(), /GET \/hidden/);
  });

  test('row 11: the rest of an upload that was answered early goes nowhere', async () => {
    const { attacked } = world;
    if (client.socket.destroyed) client = await connect();
    attacked.raw = (socket, chunk) => {
      if (chunk.toString('latin1').startsWith('POST /early')) {
        socket.write('HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlate');
      }
    };
    const id = client.open(headerBlock(head({ ':method': 'POST', ':path': '/early' })), { endStream: false });
    const answer = await client.answer(id);
    assert.deepEqual([answer.status, answer.body], [413, 'late']);
    const hidden = Buffer.from(`GET /hidden HTTP/1.1\r\nHost: ${world.quiet.authority}\r\n\r\n`.repeat(100));
    client.write(frame(FRAME_TYPE.data, FLAG.endStream, id, hidden));
    await checkBeside();
    attacked.raw = undefined;
    assert.doesNotMatch(attacked.text(), /GET \/hidden/);
  });

  test('one that is none of these passes: host beside authority, cookie crumbs, trailers', async () => {
    const { attacked } = world;
    if (client.socket.destroyed) client = await connect();
    const before = attacked.requests.length;
    const fields: Fields = [
      ...head({ ':method': 'POST', ':path': '//a/%zz?' }),
      ['host', attacked.authority],
      ['cookie', 'a=1'],
      ['x-b', '\xe9'],
      ['cookie', 'b="2"'],
      ['te', 'trailers'],
    ];
    const id = client.open(headerBlock(fields), { endStream: false });
    client.write(frame(FRAME_TYPE.data, 0, id, Buffer.from('hello')));
    client.write(frame(FRAME_TYPE.headers, FLAG.endHeaders | FLAG.endStream, id, headerBlock([['x-sum', '1']])));
    assert.equal((await client.answer(id)).status, 200);
    const [seen] = attacked.requests.slice(before);
    assert.deepEqual(
      [seen?.method, seen?.target, seen?.body, seen?.trailers],
      ['POST', '//a/%zz?', 'hello', [['x-sum', '1']]],
    );
    assert.deepEqual(seen?.lines.slice(0, 4), [
      ['host', attacked.authority],
      ['cookie', 'a=1; b="2"'],
      ['x-b', '\xe9'],
      ['TE', 'trailers'],
    ]);
  });
});
