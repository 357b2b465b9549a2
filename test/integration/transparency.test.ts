/**
 * What a client sends arrives as it was sent, and so does the answer: the same tables over HTTP/1.1, written by hand, and
 * HTTP/2, before an application that keeps every byte. Large bodies are in acceptance-http.test.ts.
 */
import assert from 'node:assert/strict';
import { METHODS } from 'node:http';
import type { ClientHttp2Session, IncomingHttpHeaders } from 'node:http2';
import { after, afterEach, before, describe, test } from 'node:test';
import { OK, outcome, startHostileWorld, type HostileWorld } from '../support/hostile-world.ts';
import { parseResponse } from '../support/proxy-world.ts';
import { readUntil } from '../support/sockets.ts';
import { FLAG, frame, FRAME_TYPE, headerBlock, startRawHttp2 } from '../support/raw-http2.ts';
import { until } from '../support/runner.ts';
import type { StrictRequest } from '../support/strict-http.ts';

type Lines = (readonly [name: string, value: string])[];

interface Ask {
  readonly method?: string;
  readonly target?: string;
  /** Without Host. HTTP/2 clients write the names in lower case. */
  readonly fields?: Lines;
  readonly body?: string;
  /** HTTP/1.1: the body is chunked, and these come behind it. */
  readonly trailers?: Lines;
}
interface Answer {
  readonly status: number;
  /** Names in lower case, values in order. */
  readonly lines: Lines;
  readonly body: string;
  readonly interim: { readonly status: number; readonly lines: Lines }[];
  readonly trailers: Lines;
}
interface Client {
  readonly name: 'HTTP/1.1' | 'HTTP/2';
  ask(request: Ask): Promise<Answer>;
}

/** Bytes of response head that no application needs. */
const HUGE_HEAD_BYTES = 1 << 20;
const OURS =
  /^(?:x-forwarded-(?:for|host|proto|port)|forwarded|x-request-id|traceparent|gitpod-gateway-hops|connection)$/i;

describe('transparency', { timeout: 90_000 }, () => {
  let world: HostileWorld;
  let session: ClientHttp2Session;
  before(async () => {
    world = await startHostileWorld();
    session = await world.way.connectH2(world.attacked.host);
  });
  afterEach(() => {
    world.attacked.answer = undefined;
    world.attacked.raw = undefined;
    assert.deepEqual(world.attacked.broken, []);
  });
  after(() => world.close());

  const pairs = (lines: readonly string[]): Lines =>
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]);
  const http1: Client = {
    name: 'HTTP/1.1',
    async ask({ method = 'GET', target = '/', fields = [], body, trailers }) {
      const all: Lines = [['Host', world.attacked.authority], ...fields, ['Connection', 'close']];
      let text = '';
      if (trailers) {
        all.push(['Transfer-Encoding', 'chunked'], ['TE', 'trailers']);
        text = `${body!.length.toString(16)}\r\n${body}\r\n0\r\n${trailers.map(([n, v]) => `${n}: ${v}\r\n`).join('')}\r\n`;
      } else if (body !== undefined) {
        all.push(['Content-Length', String(body.length)]);
        text = body;
      }
      const head = `${method} ${target} HTTP/1.1\r\n${all.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
      let rest = await world.send(head + text);
      const interim: Answer['interim'] = [];
      for (let status; (status = Number(/^HTTP\/1\.1 (1\d\d)/.exec(rest)?.[1]));) {
        const end = rest.indexOf('\r\n\r\n');
        interim.push({ status, lines: pairs(rest.slice(0, end).split('\r\n').slice(1)) });
        rest = rest.slice(end + 4);
      }
      const response = parseResponse(rest);
      const section = /\r\n0\r\n([^]*)\r\n\r\n$/.exec(rest)?.[1] ?? '';
      return {
        status: response.status,
        lines: pairs(response.lines),
        body: response.body,
        interim,
        trailers: section === '' ? [] : pairs(section.split('\r\n')),
      };
    },
  };
  const flat = (raw: readonly string[]): Lines =>
    Array.from({ length: raw.length / 2 }, (_, index): [string, string] => [raw[2 * index]!, raw[2 * index + 1]!]);
  const http2: Client = {
    name: 'HTTP/2',
    ask: ({ method = 'GET', target = '/', fields = [], body, trailers }) =>
      new Promise((resolve, reject) => {
        const head = [
          ...[':method', method, ':scheme', 'https', ':authority', world.attacked.authority, ':path', target],
          ...fields.flatMap(([name, value]) => [name.toLowerCase(), value]),
          ...(trailers ? ['te', 'trailers'] : []),
          ...(body !== undefined && !trailers ? ['content-length', String(body.length)] : []),
        ];
        const stream = session.request(head, {
          endStream: body === undefined,
          waitForTrailers: trailers !== undefined,
        });
        const answer = {
          status: 0,
          lines: [] as Lines,
          body: '',
          interim: [] as Answer['interim'],
          trailers: [] as Lines,
        };
        const take =
          (to: (status: number, lines: Lines) => void) =>
          (headers: IncomingHttpHeaders, _flags: number, raw: string[]) =>
            to(
              Number(headers[':status']),
              flat(raw).filter(([name]) => !name.startsWith(':')),
            );
        stream.on(
          'headers',
          take((status, lines) => answer.interim.push({ status, lines })),
        );
        stream.on(
          'response',
          take((status, lines) => Object.assign(answer, { status, lines })),
        );
        stream.on(
          'trailers',
          take((_status, lines) => (answer.trailers = lines)),
        );
        stream.on('wantTrailers', () =>
          stream.sendTrailers(Object.fromEntries(trailers!.map(([name, value]) => [name.toLowerCase(), value]))),
        );
        stream.on('data', (chunk: Buffer) => (answer.body += chunk.toString('latin1')));
        stream.on('error', reject);
        stream.on('close', () => resolve(answer));
        if (body !== undefined) stream.end(Buffer.from(body, 'latin1'));
      }),
  };
  const clients = [http1, http2];
  const last = (): StrictRequest => world.attacked.requests.at(-1)!;
  /** The field lines at the application, without those that the gateway adds. */
  const own = (): Lines => last().lines.filter(([name]) => !OURS.test(name));

  for (const client of clients) {
    const isHttp2 = client.name === 'HTTP/2';
    const named = (name: string): string => (isHttp2 ? name.toLowerCase() : name);

    test(`${client.name}: paths and queries`, async () => {
      const dots = ['/a/../b', '/a/%2e%2e/b', '/a/%2E%2E/b', '/a/.%2e/b', '/a/%2e./b', '/a/..%2fb', '/a/%2e%2e%2fb'];
      const twice = ['/a/%252e%252e/b', '/a/..%5cb', '/a/..\\b', '/a/..;/b', '/..', '/../../x', '/.', '/./a', '/a/.'];
      const escapes = ['/%', '/%z', '/%zz', '/%00', '/%0d%0a', '/%c3%a9', '/%C3%a9', '/%7e~', '/%20', '/+', '/%2F'];
      const slashes = ['/', '//', '///', '//a//b//', '/a/', '//evil.test/', '/http://evil.test/', '/https:/x', '/@x'];
      const queries = [
        '/?',
        '/a?',
        '/??',
        '/?a',
        '/?a=b&a=c&',
        '/?=',
        '/?a=/../b',
        '/?%zz',
        '/?a?b',
        '/?//',
        '/?a=b;c',
      ];
      const odd = ['/;', '/a;b=c/d;e', '/a:b', "/!$&'()*+,=", '/"<>^`{|}', '/[]', '/_health', `/${'x'.repeat(8_000)}`];
      for (const target of [...dots, ...twice, ...escapes, ...slashes, ...queries, ...odd]) {
        const { status } = await client.ask({ target });
        assert.deepEqual([status, last().target], [200, target]);
      }
    });

    test(`${client.name}: field lines in order, repeated, empty, with bytes above 0x7F`, async () => {
      const fields: Lines = [
        ['X-Zero', ''],
        ['aCCept', '*/*'],
        ['X-Odd', 'one'],
        ['x-odd', 'two, three'],
        ['Authorization', 'Bearer a.b=='],
        ['X-Odd', 'one'],
        ["!#$%&'*+.^`|~", 'a token'],
        ['X-Bytes', '\xe9 \xc3\xa9\t\xff'],
        ['Accept-Encoding', 'gzip, br;q=0'],
        ['X-Long', 'a'.repeat(4_000)],
        ['DNT', '1'],
        ['Sec-Fetch-Mode', 'navigate'],
        ['If-None-Match', 'W/"x", "y"'],
        ['Referer', 'https://x.test/?a=%zz'],
      ];
      assert.equal((await client.ask({ fields })).status, 200);
      assert.deepEqual(own(), [
        ['Host', world.attacked.authority],
        ...fields.map(([name, value]) => [named(name), value]),
      ]);
    });

    test(`${client.name}: cookies stay byte for byte, in one line`, async () => {
      const odd = 'a=1; =b; c; d="x, y"; e[]=2;f=3;  g=%zz; __Secure-h=\xe9; a=4';
      await client.ask({ fields: [['Cookie', odd]] });
      assert.deepEqual(own().slice(1), [[named('Cookie'), odd]]);
      await client.ask({
        fields: [
          ['Cookie', 'a=1'],
          ['X-Between', '1'],
          ['Cookie', 'b="2"; c'],
        ],
      });
      assert.deepEqual(own().slice(1), [
        [named('Cookie'), 'a=1; b="2"; c'],
        [named('X-Between'), '1'],
      ]);
    });

    test(`${client.name}: methods`, async () => {
      for (const method of METHODS.filter((each) => each !== 'CONNECT' && each !== 'TRACE')) {
        const { status } = await client.ask({ method });
        assert.deepEqual([status, last().method], [200, method]);
      }
      // Node's HTTP/1.1 parser knows those above and no others.
      const { status } = await client.ask({ method: 'FROBNICATE' });
      assert.deepEqual([status, last().method === 'FROBNICATE'], isHttp2 ? [200, true] : [501, false]);
    });

    test(`${client.name}: OPTIONS * is answered by the gateway`, async () => {
      const before = world.attacked.bytes();
      const answer = await client.ask({ method: 'OPTIONS', target: '*' });
      assert.equal(answer.status, 204);
      assert.match(answer.lines.find(([name]) => name === 'allow')?.[1] ?? '', /GET, HEAD, POST/);
      assert.equal(world.attacked.bytes(), before);
    });

    test(`${client.name}: what is said of a body`, async () => {
      const length = (): string | undefined => own().find(([name]) => /^content-length$/i.test(name))?.[1];
      const coding = (): string | undefined => own().find(([name]) => /^transfer-encoding$/i.test(name))?.[1];
      for (const method of ['GET', 'DELETE', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'PROPFIND']) {
        await client.ask({ method, body: '' });
        assert.deepEqual([method, length(), coding()], [method, '0', undefined], 'a length of 0 stays');
        await client.ask({ method, body: 'hello' });
        assert.deepEqual([method, length(), coding(), last().body], [method, '5', undefined, 'hello']);
        await client.ask({ method, body: 'hello', trailers: [] });
        assert.deepEqual([method, length(), coding(), last().body], [method, undefined, 'chunked', 'hello']);
        await client.ask({ method });
        // Over HTTP/2 the end of the stream says it; over HTTP/1.1 some servers want it said (RFC 9110 section 8.6).
        const isTold = isHttp2 && ['POST', 'PUT', 'PATCH'].includes(method);
        assert.deepEqual([method, length(), coding()], [method, isTold ? '0' : undefined, undefined]);
      }
    });

    test(`${client.name}: trailers in both directions`, async () => {
      world.attacked.answer = (_request, socket) =>
        void socket.write(
          'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\nGrpc-Status: 0\r\n\r\n',
        );
      const trailers: Lines = [
        ['X-Check', 'a'],
        ['X-Other', 'b, c'],
      ];
      const answer = await client.ask({ method: 'POST', body: 'hello', trailers });
      assert.deepEqual(
        last().trailers,
        trailers.map(([name, value]) => [named(name), value]),
      );
      assert.deepEqual([answer.status, answer.body], [200, 'ok']);
      assert.deepEqual(answer.trailers, [
        ['x-sum', '1'],
        ['x-sum', '2'],
        ['grpc-status', '0'],
      ]);
      // Without a byte of a body.
      await client.ask({ method: 'POST', body: '', trailers: isHttp2 ? trailers : [] });
      assert.deepEqual(last().body, '');
    });

    test(`${client.name}: an answer as it was made`, async () => {
      const lines: Lines = [
        ['Set-Cookie', 'a=1; Path=/; HttpOnly'],
        ['X-First', ''],
        ['Set-Cookie', 'b="2, 3"; Expires=Thu, 01 Jan 1970 00:00:00 GMT'],
        ['x-second', 'one'],
        ['X-Second', 'two'],
        ['Set-Cookie', 'a=1; Path=/; HttpOnly'],
        ['Content-Type', 'text/html;charset=utf-8'],
        ['ETag', 'W/"x"'],
        ['Date', 'Thu, 01 Jan 1970 00:00:00 GMT'],
        ['X-Bytes', '\xe9\xff'],
        ['Content-Length', '2'],
      ];
      const text = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
      world.attacked.answer = (_request, socket) =>
        void socket.write(Buffer.from(`HTTP/1.1 242 Made up\r\n${text}\r\nok`, 'latin1'));
      const answer = await client.ask({});
      assert.deepEqual([answer.status, answer.body], [242, 'ok']);
      const connection = /^(?:connection|keep-alive)$/;
      const expected = lines.map(([name, value]): [string, string] => [name.toLowerCase(), value]);
      assert.deepEqual(
        answer.lines.filter(([name]) => !connection.test(name)),
        expected,
      );
    });

    test(`${client.name}: HEAD with a length, 204, 304, and interim responses`, async () => {
      const answers: Record<string, string> = {
        '/head': 'HTTP/1.1 200 OK\r\nContent-Length: 123456789\r\n\r\n',
        '/204': 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n',
        '/304': 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 7\r\n\r\n',
        '/hints': `HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n${OK}`,
      };
      world.attacked.answer = (request, socket) => void socket.write(answers[request.target]!);
      const length = (answer: Answer): string | undefined =>
        answer.lines.find(([name]) => name === 'content-length')?.[1];
      const head = await client.ask({ method: 'HEAD', target: '/head' });
      assert.deepEqual([head.status, length(head), head.body], [200, '123456789', '']);
      const none = await client.ask({ target: '/204' });
      assert.deepEqual([none.status, length(none), none.body], [204, undefined, '']);
      const unmodified = await client.ask({ target: '/304' });
      assert.deepEqual([unmodified.status, length(unmodified), unmodified.body], [304, '7', '']);
      const hinted = await client.ask({ target: '/hints' });
      assert.deepEqual([hinted.status, hinted.body], [200, 'ok']);
      assert.deepEqual(hinted.interim, [
        {
          status: 103,
          lines: [
            ['link', '</a>; rel=preload'],
            ['link', '</b>'],
          ],
        },
        { status: 103, lines: [['x-a', '1']] },
      ]);
    });

    test(`${client.name}: Expect: 100-continue is answered here, and the body follows`, async () => {
      const answer = await client.ask({ method: 'POST', fields: [['Expect', '100-continue']], body: 'hello' });
      assert.equal(answer.status, 200);
      if (!isHttp2) assert.deepEqual(answer.interim, [{ status: 100, lines: [] }]);
      assert.equal(last().body, 'hello');
      assert.ok(!own().some(([name]) => /^expect$/i.test(name)));
    });

    test(`${client.name}: ${HUGE_HEAD_BYTES} bytes of response head are refused, and nothing else`, async () => {
      world.attacked.answer = (request, socket) => {
        socket.on('error', () => undefined);
        if (request.target === '/beside') socket.write(OK);
        else socket.write(`HTTP/1.1 200 OK\r\nX-Huge: ${'a'.repeat(HUGE_HEAD_BYTES)}\r\n\r\n`);
      };
      const beside = client.ask({ target: '/beside' });
      const refused = await client.ask({ target: '/huge' });
      const error = refused.lines.find(([name]) => name === 'gateway-error')?.[1];
      assert.deepEqual([refused.status, error], [502, 'upstream_invalid']);
      assert.equal((await beside).status, 200);
      assert.equal((await client.ask({ target: '/beside' })).status, 200);
    });
  }

  test('bytes above 0x7F in a target are 400 over both', async () => {
    const { attacked, way } = world;
    const before = attacked.bytes();
    const raw = startRawHttp2(await way.connect(attacked.host, { ALPNProtocols: ['h2'] }));
    for (const target of ['/\xe9', '/\xc3\xa9', '/?\xff', '/a\x80']) {
      assert.deepEqual(outcome(await world.send(`GET ${target} HTTP/1.1\r\nHost: ${attacked.authority}\r\n\r\n`)), [
        400,
        'bad_request',
      ]);
      const block = headerBlock([
        [':method', 'GET'],
        [':scheme', 'https'],
        [':authority', attacked.authority],
        [':path', target],
      ]);
      assert.equal((await raw.answer(raw.open(block))).status, 400);
    }
    raw.socket.destroy();
    assert.equal(attacked.bytes(), before);
  });

  test('HTTP/1.1: Host stays where and how it was written', async () => {
    const { authority } = world.attacked;
    await world.send(`GET / HTTP/1.1\r\nX-Before: 1\r\nhOST: ${authority}\r\nX-After: 2\r\nConnection: close\r\n\r\n`);
    assert.deepEqual(own(), [
      ['X-Before', '1'],
      ['hOST', authority],
      ['X-After', '2'],
    ]);
  });

  /** Sends a part of an upload at a time, over each protocol. */
  const uploads = async (
    act: (upload: {
      send(text: string, options?: { end?: boolean }): void;
      until(text: string): Promise<void>;
      status(): Promise<number>;
    }) => Promise<void>,
  ): Promise<void> => {
    const { attacked, way } = world;
    const socket = await way.connect(attacked.host);
    let seen = '';
    const see = async (text: string): Promise<void> => {
      if (!seen.includes(text)) seen += await readUntil(socket, text);
    };
    socket.write(`POST /both HTTP/1.1\r\nHost: ${attacked.authority}\r\nTransfer-Encoding: chunked\r\n\r\n`);
    await act({
      send: (text, { end } = {}) =>
        void socket.write(
          `${text === '' ? '' : `${text.length.toString(16)}\r\n${text}\r\n`}${end ? '0\r\n\r\n' : ''}`,
        ),
      until: see,
      async status() {
        await see('\r\n\r\n');
        return outcome(seen)[0];
      },
    });
    socket.destroy();
    const raw = startRawHttp2(await way.connect(attacked.host, { ALPNProtocols: ['h2'] }));
    const id = raw.open(
      headerBlock([
        [':method', 'POST'],
        [':scheme', 'https'],
        [':authority', attacked.authority],
        [':path', '/both'],
      ]),
      { endStream: false },
    );
    await act({
      send: (text, { end } = {}) =>
        void raw.write(frame(FRAME_TYPE.data, end ? FLAG.endStream : 0, id, Buffer.from(text))),
      until: (text) => until(() => raw.soFar(id).body.includes(text)),
      async status() {
        await until(() => raw.soFar(id).status !== undefined);
        return raw.soFar(id).status!;
      },
    });
    raw.socket.destroy();
  };

  test('a head goes out before there is any body, and both directions run at once', async () => {
    const words = ['first', 'second'];
    let received = '';
    let said = 0;
    world.attacked.raw = (socket, chunk) => {
      const text = chunk.toString('latin1');
      if (text.startsWith('POST /both')) {
        [received, said] = ['', 0];
        socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      }
      received += text;
      for (; words[said] !== undefined && received.includes(words[said]!); said++) {
        socket.write(`${words[said]!.length}\r\n${words[said]!}\r\n`);
      }
      if (received.endsWith('\r\n0\r\n\r\n')) socket.write('0\r\n\r\n');
    };
    await uploads(async (upload) => {
      assert.equal(await upload.status(), 200, 'answered before a byte of the body was sent');
      upload.send('first');
      await upload.until('first');
      upload.send('second');
      await upload.until('second');
      upload.send('', { end: true });
    });
  });

  test('an answer that comes while the upload runs is seen at once', async () => {
    world.attacked.raw = (made, chunk) => {
      if (chunk.toString('latin1').startsWith('POST /both')) {
        made.write('HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlate');
      }
    };
    await uploads(async (upload) => {
      upload.send('part');
      assert.equal(await upload.status(), 413);
      await upload.until('late');
    });
    world.attacked.raw = undefined;
    assert.equal((await http1.ask({})).status, 200);
    assert.equal((await http2.ask({})).status, 200);
  });
});
