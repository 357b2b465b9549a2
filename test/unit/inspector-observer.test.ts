/** The inspector's reading of a connection: where requests and responses begin and end, however the bytes come. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  createExchangeObserver,
  type Direction,
  type Exchange,
  type ExchangeObserver,
  type ExchangeSink,
  MAX_WAITING_REQUESTS,
} from '../../tunnel-client/src/inspector/exchange-observer.ts';
import { MAX_CHUNK_LINE_BYTES, MAX_HEAD_BYTES } from '../../tunnel-client/src/inspector/message-reader.ts';

interface Seen {
  line: string | undefined;
  fields: readonly string[];
  body: Record<Direction, string>;
  isRequestEnded: boolean;
  interim: number[];
  status: number | undefined;
  responseFields: readonly string[];
  trailers: readonly string[] | undefined;
  upgraded: boolean;
  passed: Record<Direction, number>;
  unreadable: string | undefined;
  closed: boolean;
}

const watch = (): { seen: Seen[]; observer: ExchangeObserver; faults: unknown[] } => {
  const seen: Seen[] = [];
  const faults: unknown[] = [];
  const begin = (line: string | undefined, fields: readonly string[]): Exchange => {
    const one: Seen = {
      line,
      fields,
      body: { request: '', response: '' },
      isRequestEnded: false,
      interim: [],
      status: undefined,
      responseFields: [],
      trailers: undefined,
      upgraded: false,
      passed: { request: 0, response: 0 },
      unreadable: undefined,
      closed: false,
    };
    seen.push(one);
    return {
      id: String(seen.length),
      body: (direction, bytes) => void (one.body[direction] += bytes.toString('latin1')),
      requestEnd: () => void (one.isRequestEnded = true),
      interim: (status) => void one.interim.push(status),
      responseHead: ({ status }, responseFields) => void Object.assign(one, { status, responseFields }),
      end: (trailers) => void (one.trailers = trailers),
      upgraded: ({ status }, responseFields) => void Object.assign(one, { status, responseFields, upgraded: true }),
      passed: (direction, bytes) => void (one.passed[direction] += bytes),
      unreadable: (why) => void (one.unreadable = why),
      closed: () => void (one.closed = true),
    };
  };
  const sink: ExchangeSink = {
    begin: ({ method, target, version }, fields) => begin(`${method} ${target} ${version}`, fields),
    beginOther: () => begin(undefined, []),
  };
  return { seen, observer: createExchangeObserver(sink, (error) => faults.push(error)), faults };
};

type Part = readonly [direction: Direction, text: string];
const request = (text: string): Part => ['request', text];
const response = (text: string): Part => ['response', text];

/** Gives `parts` in pieces: `sizes` in turn, again and again. */
const observe = (parts: readonly Part[], sizes: readonly number[]) => {
  const world = watch();
  let turn = 0;
  for (const [direction, text] of parts) {
    const bytes = Buffer.from(text, 'latin1');
    for (let at = 0; at < bytes.length;) {
      const size = sizes[turn++ % sizes.length] ?? 1;
      world.observer.push(direction, bytes.subarray(at, at + size));
      at += size;
    }
  }
  world.observer.responseEnded();
  world.observer.closed();
  assert.deepEqual(world.faults, []);
  return world.seen;
};

const CONVERSATION: readonly Part[] = [
  request('GET /a?b=\xe9 HTTP/1.1\r\nHost: demo\r\nX-Odd:  two words \t\r\nEmpty:\r\n\r\n'),
  response('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'),
  // A body that looks like the next request, two requests on the way at once, and a method nobody knows.
  request('POST /form HTTP/1.1\r\nContent-Length: 24\r\n\r\nGET /no HTTP/1.1\r\n\r\nabcd'),
  request(
    'BREW /pot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n01234\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n',
  ),
  response('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'),
  response('HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n'),
  response('HTTP/1.1 418 \r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\nB:2\r\n\r\n'),
  request('HEAD / HTTP/1.1\r\n\r\nGET /not HTTP/1.1\r\n\r\n'),
  response('HTTP/1.1 200\r\nContent-Length: 1000\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n'),
  request('GET /last HTTP/1.0\r\n\r\n'),
  response('HTTP/1.1 200 OK\r\n\r\nuntil the end\r\n\r\n'),
];

const assertConversation = (seen: readonly Seen[]): void => {
  assert.deepEqual(
    seen.map(({ line, status, body, interim, trailers, isRequestEnded, unreadable }) => [
      line,
      status,
      body.request,
      body.response,
      interim,
      trailers,
      isRequestEnded,
      unreadable,
    ]),
    [
      ['GET /a?b=\xe9 1.1', 200, '', 'hello', [], [], true, undefined],
      ['POST /form 1.1', 204, 'GET /no HTTP/1.1\r\n\r\nabcd', '', [100, 103], [], true, undefined],
      ['BREW /pot 1.1', 418, '012340123456789', 'abc', [], ['A', '1', 'B', '2'], true, undefined],
      ['HEAD / 1.1', 200, '', '', [], [], true, undefined],
      ['GET /not 1.1', 304, '', '', [], [], true, undefined],
      ['GET /last 1.0', 200, '', 'until the end\r\n\r\n', [], [], true, undefined],
    ],
  );
  assert.deepEqual(seen[0]?.fields, ['Host', 'demo', 'X-Odd', 'two words', 'Empty', '']);
};

describe('inspector: reading a connection', () => {
  it('is the same however the bytes are cut', () => {
    for (const sizes of [[1], [2], [3], [7], [100_000], [1, 5, 2]]) assertConversation(observe(CONVERSATION, sizes));
    const length = CONVERSATION.reduce((sum, [, text]) => sum + text.length, 0);
    // Every cut of each part in two.
    for (let first = 1; first < length; first++) assertConversation(observe(CONVERSATION, [first, 100_000]));
  });

  it('counts the bytes of another protocol from the upgrade on, those that came with its head too', () => {
    const parts = [
      request('GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'),
      response('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi'),
      request('\x81\x82aaaabc'),
      response('HTTP/1.1 999 no head any more\r\n\r\n'),
    ];
    for (const sizes of [[1], [100_000]]) {
      const [one, ...others] = observe(parts, sizes);
      assert.equal(others.length, 0);
      assert.deepEqual([one?.upgraded, one?.status, one?.closed], [true, 101, true]);
      assert.deepEqual(one?.passed, { request: 8, response: 4 + 33 });
    }
  });

  it('reads on when an upgrade is declined', () => {
    const seen = observe(
      [
        request('GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'),
        response('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno'),
        request('GET /next HTTP/1.1\r\n\r\n'),
        response('HTTP/1.1 204 No Content\r\n\r\n'),
      ],
      [9],
    );
    assert.deepEqual(
      seen.map(({ status, upgraded, body }) => [status, upgraded, body.response]),
      [
        [403, false, 'no'],
        [204, false, ''],
      ],
    );
  });

  it('marks what ends in the middle', () => {
    const [one] = observe(
      [request('GET / HTTP/1.1\r\n\r\n'), response('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc')],
      [100],
    );
    assert.deepEqual([one?.trailers, one?.closed, one?.body.response], [undefined, true, 'abc']);
  });

  it('sees a response that is complete before its request', () => {
    const [one, two] = observe(
      [
        request('POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc'),
        response('HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n'),
        request('defGET /2 HTTP/1.1\r\n\r\n'),
      ],
      [100],
    );
    assert.deepEqual([one?.status, one?.body.request, one?.isRequestEnded], [413, 'abcdef', true]);
    assert.equal(two?.line, 'GET /2 1.1');
  });

  const BROKEN: readonly (readonly [why: string, parts: readonly Part[], lines: readonly (string | undefined)[]])[] = [
    ['no request', [request('\x16\x03\x01\x02\x00\x01\r\n\r\n')], [undefined]],
    ['HTTP/2', [request('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')], [undefined]],
    ['no response', [request('GET / HTTP/1.1\r\n\r\n'), response('SSH-2.0-x\r\n\r\n')], ['GET / 1.1']],
    ['an answer to nothing', [response('HTTP/1.1 408 Timeout\r\n\r\n')], [undefined]],
    ['a line that is no field', [request('GET / HTTP/1.1\r\nno field\r\n\r\n')], [undefined]],
    ['a length that is none', [request('GET / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n')], ['GET / 1.1']],
    [
      'a request whose end cannot be told',
      [request('GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n')],
      ['GET / 1.1'],
    ],
    ['a chunk without a size', [request('GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n')], ['GET / 1.1']],
    [
      'a chunk that goes on',
      [request('GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n')],
      ['GET / 1.1'],
    ],
    [
      'a size beyond all numbers',
      [request(`GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n${'f'.repeat(14)}\r\n`)],
      ['GET / 1.1'],
    ],
  ];
  for (const [why, parts, lines] of BROKEN) {
    it(`gives up, once and without a word to anybody else, on ${why}`, () => {
      const seen = observe([...parts, request('more'), response('and more')], [100_000]);
      assert.deepEqual(
        seen.map(({ line }) => line),
        lines,
      );
      assert.equal(typeof seen[0]?.unreadable, 'string');
      assert.deepEqual([seen[0]?.passed, seen[0]?.closed], [{ request: 4, response: 8 }, true]);
    });
  }

  it('holds no more of a head, a chunk line or waiting requests than it says', () => {
    const endless = (text: string, head: string, bytes: number): Seen | undefined => {
      const { observer, seen } = watch();
      observer.push('request', Buffer.from(head));
      const piece = Buffer.from(text.repeat(1_024));
      for (let sent = 0; sent < bytes + piece.length; sent += piece.length) observer.push('request', piece);
      return seen[0];
    };
    assert.match(endless('x', 'GET / HTTP/1.1\r\nA: ', MAX_HEAD_BYTES)?.unreadable ?? '', /no end/);
    const chunked = 'GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n';
    assert.match(endless('x', `${chunked}1;`, MAX_CHUNK_LINE_BYTES)?.unreadable ?? '', /no end/);
    assert.match(endless('a:b\r\n', `${chunked}0\r\n`, MAX_HEAD_BYTES)?.unreadable ?? '', /no end/);
    const { observer, seen } = watch();
    for (let index = 0; index <= MAX_WAITING_REQUESTS; index++) {
      observer.push('request', Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    }
    assert.equal(seen.length, MAX_WAITING_REQUESTS);
    assert.ok(seen.every(({ unreadable }) => unreadable?.includes('too many')));
  });

  it('never throws, whatever comes, and reports no fault of its own', () => {
    const pieces = fc.array(
      fc.tuple(
        fc.constantFrom<Direction>('request', 'response'),
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
          fc.constantFrom(
            ...CONVERSATION.map(([, text]) => text),
            '\r\n',
            '\r\n\r\n',
            '0\r\n\r\n',
            ':',
            'HTTP/1.1 200\r\n',
          ),
        ),
      ),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(
        pieces,
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
        (parts, sizes) => void observe(parts, sizes),
      ),
      {
        numRuns: 500,
      },
    );
  });

  it('lets the connection be when its own bookkeeping fails', () => {
    const faults: unknown[] = [];
    const fault = new Error('no room');
    const fail = (): never => {
      throw fault;
    };
    const observer = createExchangeObserver({ begin: fail, beginOther: fail }, (error) => faults.push(error));
    for (const text of ['GET / HTTP/1.1\r\n\r\n', '\0\r\n\r\n', 'GET / HTTP/1.1\r\n\r\n']) {
      observer.push('request', Buffer.from(text));
    }
    observer.responseEnded();
    observer.closed();
    assert.deepEqual(faults, [fault]);
  });
});
