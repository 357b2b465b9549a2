import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  createResponseParser,
  MAX_CHUNK_EXTENSION_BYTES,
  ResponseFault,
  type ResponseHead,
} from '../../gateway/src/proxy/response-parser.ts';

const MAX_HEAD_BYTES = 2_000;

interface Seen {
  readonly interim: ResponseHead[];
  head: ResponseHead | undefined;
  body: string;
  trailers: string[] | undefined;
  isLast: boolean | undefined;
  rest: string | undefined;
}

const reader = (request = { method: 'GET', upgrade: false }) => {
  const parser = createResponseParser({ maxHeadBytes: MAX_HEAD_BYTES });
  const seen: Seen = {
    interim: [],
    head: undefined,
    body: '',
    trailers: undefined,
    isLast: undefined,
    rest: undefined,
  };
  parser.expect(request, {
    onInformation: (head) => void seen.interim.push(head),
    onHead: (head) => (seen.head = head),
    onData: (bytes) => (seen.body += bytes.toString('latin1')),
    onEnd(trailers, isLast) {
      seen.trailers = trailers;
      seen.isLast = isLast;
    },
    onSwitch(head, rest) {
      seen.head = head;
      seen.rest = rest.toString('latin1');
    },
  });
  return { parser, seen };
};

/** Feeds `text` in pieces, and the end. */
const read = (text: string, options: { method?: string; upgrade?: boolean; pieces?: readonly number[] } = {}) => {
  const { parser, seen } = reader({ method: options.method ?? 'GET', upgrade: options.upgrade ?? false });
  const bytes = Buffer.from(text, 'latin1');
  let at = 0;
  for (const length of options.pieces ?? [bytes.length]) {
    parser.push(bytes.subarray(at, at + length));
    at += length;
  }
  if (at < bytes.length) parser.push(bytes.subarray(at));
  const complete = parser.end();
  return { ...seen, complete };
};

const OK = 'HTTP/1.1 200 OK\r\n';

describe('the response parser', () => {
  test('reads heads, bodies by each kind of framing, and trailers', () => {
    const byLength = read(`${OK}Content-Length: 5\r\nX-A:  b \r\nx-a:c\r\n\r\nhello`);
    assert.deepEqual(byLength.head, {
      status: 200,
      reason: 'OK',
      headers: ['Content-Length', '5', 'X-A', 'b', 'x-a', 'c'],
    });
    assert.deepEqual([byLength.body, byLength.trailers, byLength.isLast], ['hello', [], false]);
    const chunked = read(
      `${OK}Transfer-Encoding: Chunked\r\n\r\n5;a="b"\r\nhello\r\n0a\r\n, you all!\r\n0\r\nX-T: 1\r\n\r\n`,
    );
    assert.deepEqual([chunked.body, chunked.trailers, chunked.isLast], ['hello, you all!', ['X-T', '1'], false]);
    const untilEnd = read(`${OK}\r\nhello`);
    assert.deepEqual([untilEnd.body, untilEnd.trailers, untilEnd.isLast], ['hello', [], true]);
    const bare = read('HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n');
    assert.deepEqual([bare.head?.reason, bare.trailers], ['', []]);
    const high = read(`HTTP/1.1 200 Gr\xfc\xdfe\r\nX-A: \xe9\x80\r\nContent-Length: 0\r\n\r\n`);
    assert.deepEqual([high.head?.reason, high.head?.headers[1]], ['Gr\xfc\xdfe', '\xe9\x80']);
  });

  test('knows which responses have no body', () => {
    for (const [method, status] of [
      ['HEAD', 200],
      ['GET', 204],
      ['GET', 304],
    ] as const) {
      for (const framing of ['Content-Length: 5', 'Transfer-Encoding: chunked', 'X-A: b']) {
        const { trailers, body, isLast } = read(`HTTP/1.1 ${status} X\r\n${framing}\r\n\r\n`, { method });
        assert.deepEqual([trailers, body, isLast], [[], '', false], `${method} ${status} ${framing}`);
      }
    }
  });

  test('tells interim responses from the final one, and a switch that was asked for from one that was not', () => {
    const early = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n';
    const { interim, head } = read(`${early}${early}${OK}Content-Length: 0\r\n\r\n`);
    assert.deepEqual([interim.map(({ status }) => status), head?.status], [[103, 103], 200]);
    const switching = 'HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n';
    assert.deepEqual(read(`${switching}${OK}`, { upgrade: true }).rest, OK);
    assert.deepEqual(
      read(`${switching}${OK}Content-Length: 0\r\n\r\n`).interim.map(({ status }) => status),
      [101],
    );
  });

  test('says when nothing more may come on a connection', () => {
    const isLast = (head: string): boolean | undefined => read(`${head}Content-Length: 0\r\n\r\n`).isLast;
    assert.equal(isLast(OK), false);
    assert.equal(isLast(`${OK}Connection: x, Close\r\n`), true);
    assert.equal(isLast('HTTP/1.0 200 OK\r\n'), true);
    assert.equal(isLast('HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n'), false);
    // Bytes behind a response are an answer to nothing, and must not become the answer to what is asked next.
    assert.equal(read(`${OK}Content-Length: 0\r\n\r\n${OK}Content-Length: 0\r\n\r\n`).isLast, true);
    assert.equal(read(`${OK}Content-Length: 1\r\n\r\na${OK}`).isLast, true);
    assert.equal(read(`${OK}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n`).isLast, true);
  });

  test('tells how long the upstream keeps a connection', () => {
    const { parser } = reader();
    parser.push(Buffer.from(`${OK}Keep-Alive: max=5, timeout=7\r\nContent-Length: 0\r\n\r\n`));
    assert.equal(parser.keepAliveSeconds(), 7);
  });

  test('an end in the middle is none', () => {
    for (const text of ['', OK, `${OK}Content-Length: 5\r\n\r\nhell`, `${OK}Transfer-Encoding: chunked\r\n\r\n0\r\n`]) {
      const { complete, trailers } = read(text);
      assert.deepEqual([complete, trailers], [false, undefined], text);
    }
  });

  test('refuses what can be read in two ways', () => {
    const length = 'Content-Length: 2\r\n\r\nok';
    const chunked = `${OK}Transfer-Encoding: chunked\r\n\r\n`;
    const broken = [
      `\r\n${OK}${length}`,
      `HTTP/1.2 200 OK\r\n${length}`,
      `HTTP/2.0 200 OK\r\n${length}`,
      `http/1.1 200 OK\r\n${length}`,
      `HTTP/1.1  200 OK\r\n${length}`,
      `HTTP/1.1 099 OK\r\n${length}`,
      `HTTP/1.1 20 OK\r\n${length}`,
      `HTTP/1.1 2000 OK\r\n${length}`,
      `HTTP/1.1 200 O\0K\r\n${length}`,
      `${OK}: a\r\n${length}`,
      `${OK}X-A\r\n${length}`,
      `${OK}X A: b\r\n${length}`,
      `${OK}X-A : b\r\n${length}`,
      `${OK}X-A: b\r\n c\r\n${length}`,
      `${OK} X-A: b\r\n${length}`,
      `${OK}X-A: b\nX-B: c\r\n${length}`,
      `${OK}X-A: b\rX-B: c\r\n${length}`,
      `${OK}X-A: b\r\r\n${length}`,
      `${OK}X-A: \x7f\r\n${length}`,
      `${OK}Content-Length: 2\r\n${length}`,
      `${OK}Content-Length: 2, 2\r\n\r\nok`,
      `${OK}Content-Length: \r\n\r\nok`,
      `${OK}Content-Length: -0\r\n\r\n`,
      `${OK}Transfer-Encoding: chunked\r\n${length}`,
      `${OK}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      `${OK}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
      `${OK}Transfer-Encoding: gzip\r\n\r\n`,
      `${OK}Transfer-Encoding: \r\n\r\n`,
      `${chunked}\r\nok\r\n`,
      `${chunked}+2\r\nok\r\n`,
      `${chunked}0x2\r\nok\r\n`,
      `${chunked} 2\r\nok\r\n`,
      `${chunked}2 \r\nok\r\n`,
      `${chunked}2\nok\r\n`,
      `${chunked}2\r\nok\n`,
      `${chunked}2\r\nokk\r\n`,
      `${chunked}00000000000002\r\nok\r\n`,
      `${chunked}2;a\nb\r\nok\r\n`,
      `${chunked}2;${'a'.repeat(MAX_CHUNK_EXTENSION_BYTES + 20)}\r\nok\r\n`,
      `${chunked}0\r\nX-A: b\rc\r\n\r\n`,
      `${chunked}0\r\nX-A: b\n\r\n`,
      `${chunked}0\r\n${'X-A: b\r\n'.repeat(MAX_HEAD_BYTES / 8)}\r\n`,
      `${OK}X-A: ${'a'.repeat(MAX_HEAD_BYTES)}\r\n${length}`,
      `${OK}X-A: ${'a'.repeat(MAX_HEAD_BYTES)}`,
    ];
    for (const text of broken) {
      assert.throws(() => read(text), ResponseFault, JSON.stringify(text.slice(0, 120)));
      const everyByte = Array.from({ length: text.length }, () => 1);
      assert.throws(
        () => read(text, { pieces: everyByte }),
        ResponseFault,
        `bytewise ${JSON.stringify(text.slice(0, 120))}`,
      );
    }
  });

  test('another protocol is refused at its first bytes, which the fault tells', () => {
    const { parser } = reader();
    assert.throws(
      () => parser.push(Buffer.from('\x15\x03\x01\x00\x02\x02', 'latin1')),
      (error: ResponseFault) => error.begin.startsWith('\x15\x03\x01'),
    );
    const drip = reader().parser;
    drip.push(Buffer.from('HT'));
    assert.throws(() => drip.push(Buffer.from('ML')), ResponseFault);
  });

  test('nobody is answered without having asked', () => {
    const { parser } = reader();
    parser.push(Buffer.from(`${OK}Content-Length: 0\r\n\r\n`));
    assert.equal(parser.isBusy(), false);
    assert.throws(() => parser.push(Buffer.from('x')), ResponseFault);
  });

  test('property: how the bytes are cut makes no difference', () => {
    const body = fc.string({ unit: 'binary-ascii', maxLength: 60 });
    const message = fc.oneof(
      body.map((text) => `${OK}Content-Length: ${text.length}\r\n\r\n${text}`),
      fc
        .array(
          body.filter((text) => text !== ''),
          { maxLength: 5 },
        )
        .map(
          (chunks) =>
            `${OK}Transfer-Encoding: chunked\r\n\r\n${chunks
              .map((chunk) => `${chunk.length.toString(16)};x\r\n${chunk}\r\n`)
              .join('')}0\r\nX-T: 1\r\n\r\n`,
        ),
      body.map((text) => `HTTP/1.1 103 Early\r\nX-A: b\r\n\r\n${OK}X-B: c\r\n\r\n${text}`),
    );
    fc.assert(
      fc.property(message, fc.array(fc.integer({ min: 1, max: 40 })), (text, pieces) => {
        assert.deepEqual(read(text, { pieces }), read(text));
      }),
      { seed: 8, numRuns: 2_000 },
    );
  });
});
