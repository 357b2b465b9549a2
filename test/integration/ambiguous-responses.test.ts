/**
 * Answers of an application that can be read in two ways, or have no end (rows 12 and 13 of the threats), over the whole
 * way. Each is a 502 for one request, or the cut of one response; another request on the same connection, which is
 * in the middle of its answer meanwhile, gets the rest.
 */
import assert from 'node:assert/strict';
import type { ClientHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { OK, startHostileWorld, type HostileWorld } from '../support/hostile-world.ts';

/** Time that the application has for its head here, ms: far more than any head takes that comes, on a busy machine too. */
const HEADER_TIMEOUT_MS = 10_000;
const { maxResponseHeaderBytes } = GATEWAY_LIMITS;

interface Answer {
  readonly status: number;
  readonly error: string | undefined;
  readonly body: string;
  /** Of RST_STREAM, 0 for a clean end. */
  readonly reset: number;
}

const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
const BROKEN_HEADS: Readonly<Record<string, string>> = {
  'two lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk',
  'two equal lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok',
  'lengths in a list': 'HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok',
  'a signed length': 'HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok',
  'a length in hex': 'HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok',
  'a length of 2^64': 'HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nok',
  'a length and a coding': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  'a coding and a length': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n',
  'bare LF': 'HTTP/1.1 200 OK\nContent-Length: 2\n\nok',
  'bare LF in a head': 'HTTP/1.1 200 OK\r\nX-A: 1\nSet-Cookie: b=1\r\nContent-Length: 2\r\n\r\nok',
  'CR in a value': 'HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b=1\r\nContent-Length: 2\r\n\r\nok',
  'NUL in a value': 'HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok',
  'a space before the colon': 'HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok',
  'a folded line': 'HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok',
  'a space before the status line': ' HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
  'HTTP/0.9': '<html>hello</html>\r\n',
  'a status of two digits': 'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok',
  'a status of 99': 'HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n',
  'another protocol': 'SSH-2.0-OpenSSH_9.2p1 Debian\r\n',
  'a control character in a value': 'HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 2\r\n\r\nok',
  'a request': 'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
  '101 unasked': 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
  '101, then 200': `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n${OK}`,
  '103, then 101': `HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n${OK}`,
  'many 1xx': 'HTTP/1.1 103 Early\r\n\r\n'.repeat(1_000),
  'large 1xx': `HTTP/1.1 103 Early\r\nX-A: ${'a'.repeat(8_000)}\r\n\r\n`.repeat(3),
  'a head beyond the limit': `HTTP/1.1 200 OK\r\nX-A: ${'a'.repeat(maxResponseHeaderBytes)}\r\n\r\n`,
  'many fields': `HTTP/1.1 200 OK\r\n${'X-A: a\r\n'.repeat(20_000)}\r\n`,
};
const BROKEN_BODIES: Readonly<Record<string, string>> = {
  'a chunk size that is none': `${chunked}2\r\nok\r\nzz\r\n`,
  'a chunk size beyond 64 bits': `${chunked}2\r\nok\r\n10000000000000002\r\nok`,
  'no line end behind a chunk': `${chunked}2\r\nokk\r\n0\r\n\r\n`,
  'a bare LF behind a size': `${chunked}2\r\nok\r\n2\nok\r\n0\r\n\r\n`,
  'a trailer with a CR': `${chunked}2\r\nok\r\n0\r\nX-A: a\rSet-Cookie: b=1\r\n\r\n`,
};

describe('answers that are none', { timeout: 90_000 }, () => {
  let world: HostileWorld;
  let session: ClientHttp2Session;
  const closed: Promise<unknown>[] = [];
  before(async () => {
    world = await startHostileWorld({ limits: { responseHeaderTimeoutMs: HEADER_TIMEOUT_MS } });
    session = await world.way.connectH2(world.attacked.host);
  });
  after(() => world.close());

  const ask = (path: string): Promise<Answer> =>
    new Promise((resolve) => {
      const stream = session.request({ ':authority': world.attacked.authority, ':path': path });
      const answer = { status: 0, error: undefined as string | undefined, body: '', reset: 0 };
      stream.on('response', (headers) => {
        answer.status = Number(headers[':status']);
        answer.error = headers['gateway-error'] as string | undefined;
      });
      stream.on('data', (chunk: Buffer) => (answer.body += chunk.toString('latin1')));
      stream.on('error', () => undefined);
      stream.on('close', () => resolve({ ...answer, reset: stream.rstCode ?? 0 }));
    });
  type Hostile = (socket: Socket) => void;
  /** The answers of a hostile application, all asked for at once, while another request has half of its own. */
  const answeredAll = async (cases: Readonly<Record<string, Hostile>>): Promise<[string, Answer][]> => {
    const { attacked } = world;
    const waiting = Promise.withResolvers<Socket>();
    attacked.answer = (request, socket) => {
      if (request.target === '/beside') {
        socket.write(OK.slice(0, -2));
        return waiting.resolve(socket);
      }
      socket.on('error', () => undefined);
      closed.push(new Promise((resolve) => void socket.once('close', resolve)));
      Object.values(cases)[Number(request.target.slice(1))]!(socket);
    };
    const beside = ask('/beside');
    const socket = await waiting.promise;
    const answers = await Promise.all(
      Object.keys(cases).map(async (name, index): Promise<[string, Answer]> => [name, await ask(`/${index}`)]),
    );
    socket.write('ok');
    const { status, body, reset } = await beside;
    assert.deepEqual([status, body, reset], [200, 'ok', 0], Object.keys(cases).join(', '));
    return answers;
  };
  const answered = async (name: string, hostile: Hostile): Promise<Answer> =>
    (await answeredAll({ [name]: hostile }))[0]![1];

  test('row 12: a head that is none is 502', async () => {
    for (const [name, bytes] of Object.entries(BROKEN_HEADS)) {
      const { status, error } = await answered(name, (socket) => void socket.write(Buffer.from(bytes, 'latin1')));
      assert.deepEqual([name, status, error], [name, 502, 'upstream_invalid']);
    }
    await world.checkQuiet();
  });

  test('row 12: a body that is none cuts the response', async () => {
    for (const [name, bytes] of Object.entries(BROKEN_BODIES)) {
      const { status, body, reset } = await answered(name, (socket) => void socket.write(Buffer.from(bytes, 'latin1')));
      assert.deepEqual([name, status], [name, 200]);
      assert.match(body, /^(?:ok)?$/, name);
      assert.notEqual(reset, 0, name);
    }
    await world.checkQuiet();
  });

  test('row 13: heads without an end', async () => {
    const drip =
      (line: string, first = '', everyMs = 20) =>
      (socket: Socket) => {
        socket.write(first);
        const timer = setInterval(() => socket.write(line), everyMs);
        socket.once('close', () => clearInterval(timer));
      };
    const fast =
      (line: string, first = 'HTTP/1.1 200 OK\r\n') =>
      (socket: Socket) => {
        const more = (): void => {
          while (!socket.destroyed && socket.write(line));
        };
        socket.on('drain', more);
        socket.write(first);
        more();
      };
    const slow: Record<string, Hostile> = {
      silence: () => undefined,
      'a byte at a time': drip('a', 'HTTP/1.1 200 OK\r\nX-A: '),
      'a status line without an end': drip(' ', 'HTTP/1.1 200 '),
      '1xx now and then': drip('HTTP/1.1 102 Processing\r\n\r\n', '', HEADER_TIMEOUT_MS / 5),
    };
    // That there is an answer says that what comes does not put it off: nothing of this ends by itself.
    for (const [name, { status, error }] of await answeredAll(slow)) {
      assert.deepEqual([name, status, error], [name, 504, 'upstream_timeout']);
    }
    const endless: Record<string, Hostile> = {
      'field lines': fast(`X-A: ${'a'.repeat(100)}\r\n`),
      'a field line': fast('a'.repeat(1_000)),
      '1xx': fast('HTTP/1.1 103 Early\r\n\r\n', ''),
    };
    for (const [name, hostile] of Object.entries(endless)) {
      const { status, error } = await answered(name, hostile);
      // And no timeout: the limit of bytes was there first.
      assert.deepEqual([name, status, error], [name, 502, 'upstream_invalid']);
    }
    await world.checkQuiet();
  });

  test('the connection to the application is closed each time, and kept by nobody', async () => {
    await Promise.all(closed);
    world.attacked.answer = undefined;
    assert.deepEqual([(await ask('/after')).status, session.closed], [200, false]);
  });
});
