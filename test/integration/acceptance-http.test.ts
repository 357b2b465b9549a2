/** HTTP over the whole way: large bodies with equal hashes in constant memory, and answers that have no body. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { constants } from 'node:http2';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { httpApplication, type Application } from '../support/applications.ts';
import { open, portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';

const BLOCK_BYTES = 256 << 10;
const LARGE_BYTES = 256 << 20;
const SMALL_BYTES = 8 << 20;
/**
 * Growth of the process that may be seen during a transfer, bytes: client, gateway, runner and application together
 * hold windows and garbage, but far from a whole body.
 */
const MAX_GROWTH_BYTES = 128 << 20;

const block = randomBytes(BLOCK_BYTES);

/** A body in which no two blocks are alike. */
function* blocks(bytes: number): Generator<Buffer> {
  for (let index = 0; index < bytes / BLOCK_BYTES; index++) {
    const copy = Buffer.from(block);
    copy.writeUInt32BE(index);
    yield copy;
  }
}
const hashes = new Map<number, string>();
const expectedHash = (bytes: number): string => {
  const known = hashes.get(bytes);
  if (known) return known;
  const hash = createHash('sha256');
  for (const each of blocks(bytes)) hash.update(each);
  const digest = hash.digest('hex');
  hashes.set(bytes, digest);
  return digest;
};
const hashOf = async (stream: Readable): Promise<string> => {
  const hash = createHash('sha256');
  for await (const chunk of stream) hash.update(chunk as Buffer);
  return hash.digest('hex');
};

/** Runs `work`, and gives how much the process grew meanwhile at most. */
const growthDuring = async (work: () => Promise<void>): Promise<number> => {
  const before = process.memoryUsage.rss();
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, process.memoryUsage.rss());
  }, 50);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return most - before;
};

/** 15 s on an idle machine, several times that on a busy one. */
const TIMEOUT_MS = 300_000;

describe('large bodies', { timeout: TIMEOUT_MS }, () => {
  let way: WholeWay;
  let upstream: Application;
  let host: string;
  before(async () => {
    upstream = await httpApplication((request, response) => {
      const url = new URL(request.url ?? '', 'http://upstream');
      const bytes = Number(url.searchParams.get('bytes'));
      if (request.method === 'POST') {
        const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
        void hashOf(request).then((hash) => response.end(JSON.stringify({ hash, length, coding })));
        return;
      }
      if (url.searchParams.get('framing') === 'fixed') response.setHeader('content-length', bytes);
      void pipeline(Readable.from(blocks(bytes)), response).catch(() => response.destroy());
    });
    way = await startWholeWay();
    await way.expose('demo', [upstream.port]);
    host = portHost('demo', upstream.port);
  });
  after(async () => {
    await way.close();
    await upstream.close();
  });

  type Framing = 'fixed' | 'chunked';
  const downloadH1 = async (bytes: number, framing: Framing): Promise<void> => {
    const response = await open(way.to(host, `/?bytes=${bytes}&framing=${framing}`));
    assert.equal(response.headers['content-length'], framing === 'fixed' ? String(bytes) : undefined);
    assert.equal(response.headers['transfer-encoding'], framing === 'fixed' ? undefined : 'chunked');
    assert.equal(await hashOf(response), expectedHash(bytes));
  };
  const judge = (body: string, bytes: number, framing: Framing): void => {
    assert.deepEqual(JSON.parse(body), {
      hash: expectedHash(bytes),
      ...(framing === 'fixed' ? { length: String(bytes) } : { coding: 'chunked' }),
    });
  };
  const textOf = async (stream: Readable): Promise<string> => {
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks).toString();
  };
  const uploadH1 = async (bytes: number, framing: Framing): Promise<void> => {
    const headers = framing === 'fixed' ? { 'content-length': bytes } : {};
    const outgoing = httpsRequest(way.to(host, '/', { method: 'POST', headers }));
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    await pipeline(Readable.from(blocks(bytes)), outgoing);
    const [response] = await answered;
    judge(await textOf(response), bytes, framing);
  };
  const downloadH2 = async (bytes: number, framing: Framing): Promise<void> => {
    const session = await way.connectH2(host);
    const stream = session.request({ ':path': `/?bytes=${bytes}&framing=${framing}` });
    const [headers] = (await once(stream, 'response')) as [Record<string, string | undefined>];
    assert.equal(headers['content-length'], framing === 'fixed' ? String(bytes) : undefined);
    assert.equal(await hashOf(stream), expectedHash(bytes));
    session.close();
  };
  const uploadH2 = async (bytes: number, framing: Framing): Promise<void> => {
    const session = await way.connectH2(host);
    const stream = session.request({
      ':path': '/',
      ':method': 'POST',
      ...(framing === 'fixed' ? { 'content-length': bytes } : {}),
    });
    const answer = textOf(stream);
    await pipeline(Readable.from(blocks(bytes)), stream, { end: true }).catch((error: NodeJS.ErrnoException) => {
      // The duplex counts as closed early when its response is complete.
      if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
    });
    judge(await answer, bytes, framing);
    assert.equal(stream.rstCode, constants.NGHTTP2_NO_ERROR);
    session.close();
  };

  const cases: [name: string, transfer: (bytes: number, framing: Framing) => Promise<void>, large: Framing][] = [
    ['GET over HTTP/1.1', downloadH1, 'fixed'],
    ['POST over HTTP/1.1', uploadH1, 'chunked'],
    ['GET over HTTP/2', downloadH2, 'chunked'],
    ['POST over HTTP/2', uploadH2, 'fixed'],
  ];
  for (const [name, transfer, large] of cases) {
    it(`${name}: 256 MiB (${large}) and 8 MiB (fixed, chunked) arrive whole, in constant memory`, async () => {
      await transfer(SMALL_BYTES, 'fixed');
      await transfer(SMALL_BYTES, 'chunked');
      const growth = await growthDuring(() => transfer(LARGE_BYTES, large));
      assert.ok(growth < MAX_GROWTH_BYTES, `the process grew by ${growth >> 20} MiB`);
    });
  }
});

describe('answers', () => {
  let way: WholeWay;
  let upstream: Application;
  let host: string;
  const content = randomBytes(100_000);
  const openEvents: (() => void)[] = [];
  before(async () => {
    upstream = await httpApplication((request, response) => {
      const path = request.url ?? '';
      if (path === '/events') {
        response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n');
        openEvents.push(() => void response.end('data: 2\n\n'));
        return;
      }
      if (path === '/cookies') {
        response.setHeader('set-cookie', [
          'a=1; Path=/; HttpOnly',
          'b=2; Expires=Wed, 21 Oct 2065 07:28:00 GMT',
          'a=3',
        ]);
        return response.end();
      }
      if (path === '/empty') return response.writeHead(204, { 'x-kept': 'yes' }).end();
      if (request.headers['if-none-match'] === '"v1"') return response.writeHead(304, { etag: '"v1"' }).end();
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
      if (!range) {
        return response.writeHead(200, { 'content-length': content.length, etag: '"v1"' }).end(content);
      }
      const [from, to] = [Number(range[1]), Number(range[2])];
      response.writeHead(206, {
        'content-range': `bytes ${from}-${to}/${content.length}`,
        'content-length': to - from + 1,
      });
      response.end(content.subarray(from, to + 1));
    });
    way = await startWholeWay();
    await way.expose('demo', [upstream.port]);
    host = portHost('demo', upstream.port);
  });
  after(async () => {
    await way.close();
    await upstream.close();
  });

  interface Seen {
    readonly status: number;
    readonly headers: Readonly<Record<string, string | string[] | undefined>>;
    readonly body: Buffer;
  }
  const overH1 = async (method: string, path: string, headers: Record<string, string> = {}): Promise<Seen> => {
    const response = await open(way.to(host, path, { method, headers }));
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) };
  };
  const overH2 = async (method: string, path: string, headers: Record<string, string> = {}): Promise<Seen> => {
    const session = await way.connectH2(host);
    const stream = session.request({ ':method': method, ':path': path, ...headers }, { endStream: true });
    const [fields] = (await once(stream, 'response')) as [Record<string, string | string[] | undefined>];
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    session.close();
    return { status: Number(fields[':status']), headers: fields, body: Buffer.concat(chunks) };
  };

  it('are passed on as they come: the first event is there while the response is open, over both', async () => {
    const response = await open(way.to(host, '/events'));
    const [first] = (await once(response, 'data')) as [Buffer];
    assert.equal(first.toString(), 'data: 1\n\n');
    const session = await way.connectH2(host);
    const stream = session.request({ ':path': '/events' }, { endStream: true });
    const [firstOfH2] = (await once(stream, 'data')) as [Buffer];
    assert.equal(firstOfH2.toString(), 'data: 1\n\n');
    assert.deepEqual([response.complete, stream.readableEnded, openEvents.length], [false, false, 2]);
    for (const end of openEvents.splice(0)) end();
    if (!response.readableEnded) await once(response.resume(), 'end');
    if (!stream.readableEnded) await once(stream.resume(), 'end');
    session.close();
  });

  for (const [protocol, ask] of [['HTTP/1.1', overH1] as const, ['HTTP/2', overH2] as const]) {
    it(`${protocol}: cookies, HEAD, 204, 304 and ranges`, async () => {
      const cookies = await ask('GET', '/cookies');
      assert.deepEqual(cookies.headers['set-cookie'], [
        'a=1; Path=/; HttpOnly',
        'b=2; Expires=Wed, 21 Oct 2065 07:28:00 GMT',
        'a=3',
      ]);
      const head = await ask('HEAD', '/');
      assert.deepEqual([head.status, head.headers['content-length'], head.body.length], [200, '100000', 0]);
      const empty = await ask('GET', '/empty');
      assert.deepEqual([empty.status, empty.headers['x-kept'], empty.body.length], [204, 'yes', 0]);
      assert.equal(empty.headers['content-length'], undefined);
      const unchanged = await ask('GET', '/', { 'if-none-match': '"v1"' });
      assert.deepEqual([unchanged.status, unchanged.headers['etag'], unchanged.body.length], [304, '"v1"', 0]);
      const part = await ask('GET', '/', { range: 'bytes=500-999' });
      assert.deepEqual([part.status, part.headers['content-range']], [206, 'bytes 500-999/100000']);
      assert.deepEqual(part.body, content.subarray(500, 1_000));
      // Nothing is stored on the way, and no answer of an application is marked as the gateway's.
      const whole = await ask('GET', '/');
      assert.deepEqual(whole.body, content);
      for (const answer of [cookies, head, empty, unchanged, part, whole]) {
        assert.deepEqual([answer.headers['gateway-error'], answer.headers['cache-control']], [undefined, undefined]);
      }
    });
  }
});
