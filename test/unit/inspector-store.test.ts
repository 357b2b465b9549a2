/** What the inspector keeps, and that it keeps no more than it says. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Target } from '../../shared/src/protocol/target.ts';
import { viewExchange } from '../../tunnel-client/src/inspector/exchange-view.ts';
import { createMessageReader } from '../../tunnel-client/src/inspector/message-reader.ts';
import { replayBytes, whyNoReplay } from '../../tunnel-client/src/inspector/replay.ts';
import {
  createRequestStore,
  FIELD_OVERHEAD_BYTES,
  KEPT_BODY_BYTES,
  KEPT_REQUESTS,
  MAX_KEPT_BYTES,
  REQUEST_OVERHEAD_BYTES,
} from '../../tunnel-client/src/inspector/request-store.ts';
import { createManualClock } from '../support/manual-clock.ts';

const target = (environmentId: string): Target => ({
  kind: 'port',
  environmentId,
  port: 3000,
  tls: false,
  hops: 0,
  requestId: '',
  traceParent: '',
});
const GET = { method: 'GET', target: '/', version: '1.1' };
const OK = { status: 200, reason: 'OK' };

const start = (limits?: { requests: number; bytes: number }) => {
  const clock = createManualClock();
  const changed: string[] = [];
  const store = createRequestStore({ clock, onChange: ({ id }) => changed.push(id) }, limits);
  return { clock, changed, store };
};

/** The fields of a head of about 128 KiB, as they are read: each string is one of its own. */
const shortFields = (): readonly string[] => {
  let fields: readonly string[] = [];
  const reader = createMessageReader('request', {
    onHead(head) {
      ({ fields } = head);
      return 'none';
    },
    onData: () => undefined,
    onEnd: () => undefined,
    onSwitched: () => undefined,
  });
  const lines = Array.from({ length: 18_000 }, (_, index) => `${index.toString(36)}:b\r\n`);
  reader.push(Buffer.from(`GET / HTTP/1.1\r\n${lines.join('')}\r\n`));
  return fields;
};

describe('inspector: what is kept', () => {
  it('is the newest of each environment', () => {
    const { store } = start({ requests: 3, bytes: 1 << 20 });
    for (let index = 0; index < 5; index++) store.sink(target('a')).begin(GET, []);
    store.sink(target('b')).begin(GET, []);
    assert.deepEqual(
      store.list('a').map(({ id }) => id),
      ['5', '4', '3'],
    );
    assert.deepEqual(store.environments(), [
      { id: 'a', requests: 3 },
      { id: 'b', requests: 1 },
    ]);
    assert.equal(store.get('a', '2'), undefined);
    assert.equal(store.get('b', '5'), undefined);
    assert.equal(store.bytes(), 4 * REQUEST_OVERHEAD_BYTES + 4);
    store.clear('a');
    store.clear('b');
    assert.deepEqual([store.environments(), store.bytes()], [[], 0]);
  });

  it('goes on with one request an environment', () => {
    const { store } = start({ requests: 1, bytes: 1 << 20 });
    for (let index = 0; index < 3; index++) store.sink(target('a')).begin(GET, []);
    assert.deepEqual(
      store.list('a').map(({ id }) => id),
      ['3'],
    );
  });

  it('is bounded in bytes over all environments: the oldest goes, and what still comes of it is not kept', () => {
    const { store, changed } = start({ requests: 100, bytes: 4 * REQUEST_OVERHEAD_BYTES + 260 });
    const old = store.sink(target('old')).begin(GET, []);
    old.body('response', Buffer.alloc(80));
    const next = store.sink(target('new')).begin({ ...GET, target: 'x'.repeat(10) }, ['name', 'value']);
    assert.equal(store.bytes(), 2 * REQUEST_OVERHEAD_BYTES + 1 + 80 + 10 + 9 + FIELD_OVERHEAD_BYTES);
    next.body('response', Buffer.alloc(2 * REQUEST_OVERHEAD_BYTES + 1));
    assert.deepEqual(store.environments(), [{ id: 'new', requests: 1 }]);
    changed.length = 0;
    old.body('response', Buffer.alloc(50));
    old.responseHead(OK, ['a', 'b'.repeat(1_000)]);
    old.end(['c', 'd']);
    old.closed();
    assert.deepEqual([changed, store.bytes()], [[], 3 * REQUEST_OVERHEAD_BYTES + 20 + FIELD_OVERHEAD_BYTES]);
  });

  it('is the beginning of a body, in copies, and the count of all of it', async () => {
    const { store } = start();
    const one = store.sink(target('a')).begin({ ...GET, method: 'POST' }, ['content-length', '300000']);
    const chunk = Buffer.alloc(50_000, 'a');
    for (let index = 0; index < 6; index++) one.body('request', chunk);
    chunk.fill('b');
    one.body('response', Buffer.from('tiny'));
    const [kept] = store.list('a');
    assert.ok(kept);
    assert.deepEqual([kept.bodies.request.bytes, kept.bodies.request.keptBytes], [300_000, KEPT_BODY_BYTES]);
    const { request } = await viewExchange(kept);
    assert.deepEqual([request.body.isTruncated, request.body.content?.text], [true, 'a'.repeat(KEPT_BODY_BYTES)]);
    // No slab that small buffers share.
    assert.equal(kept.bodies.response.kept.buffer.byteLength, 4);
  });

  it('takes no more memory than it accounts for, under 10,000 requests with large bodies in small pieces', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const used = async (): Promise<number> => {
      // The memory of buffers is given back after the collection that found them.
      for (let times = 0; times < 3; times++) {
        collect();
        await new Promise(setImmediate);
      }
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      return heapUsed + arrayBuffers;
    };
    const store = createRequestStore({ clock: createManualClock(), onChange: () => undefined });
    const chunk = Buffer.alloc(1_000, 'x');
    const fields = Array.from({ length: 20 }, (_, index) => `name-${index}`);
    const before = await used();
    let most = 0;
    for (let index = 0; index < 10_000; index++) {
      const one = store.sink(target(`environment-${index % 500}`)).begin(GET, fields);
      for (let piece = 0; piece < 70; piece++) one.body('request', chunk);
      one.responseHead(OK, fields);
      for (let piece = 0; piece < 70; piece++) one.body('response', chunk);
      one.end([]);
      most = Math.max(most, store.bytes());
    }
    assert.ok(most <= MAX_KEPT_BYTES, `${most} bytes were accounted for`);
    assert.ok(store.bytes() > MAX_KEPT_BYTES / 2, 'it keeps what it may');
    const large = (await used()) - before;
    assert.ok(large < 1.25 * MAX_KEPT_BYTES, `${large} bytes are used`);
    // The other way round: many that are small.
    for (let index = 0; index < 100 * KEPT_REQUESTS; index++) store.sink(target(`small-${index % 300}`)).begin(GET, []);
    assert.ok(store.bytes() <= MAX_KEPT_BYTES);
    const small = (await used()) - before;
    assert.ok(small < 1.25 * MAX_KEPT_BYTES, `${small} bytes are used`);
    // And heads of nothing but short fields, as long as they may be.
    for (let index = 0; index < 30; index++) {
      store
        .sink(target(`many-${index}`))
        .begin(GET, shortFields())
        .responseHead(OK, shortFields());
    }
    assert.ok(store.bytes() <= MAX_KEPT_BYTES);
    const short = (await used()) - before;
    assert.ok(short < 1.25 * MAX_KEPT_BYTES, `${short} bytes are used`);
  });

  it('says how it ended, and when', async () => {
    const { store, clock } = start();
    const sink = store.sink(target('a'));
    const done = sink.begin(GET, ['Authorization', 'Bearer s3cr3t']);
    await clock.advance(20);
    done.responseHead(OK, ['Set-Cookie', 'a=s3cr3t', 'Content-Type', 'text/plain']);
    await clock.advance(30);
    done.end([]);
    done.closed();
    const cut = sink.begin({ ...GET, target: '/?code=s3cr3t' }, []);
    cut.closed();
    const upgraded = sink.begin(GET, ['upgrade', 'websocket']);
    upgraded.upgraded({ status: 101, reason: '' }, []);
    upgraded.passed('request', 5);
    sink.beginOther().unreadable('the request is no HTTP/1.1');
    sink.begin(GET, []);
    const views = await Promise.all(store.list('a').reverse().map(viewExchange));
    assert.deepEqual(
      views.map(({ state, status, durationMs, requestBytes, noReplay }) => [
        state,
        status,
        durationMs,
        requestBytes,
        noReplay,
      ]),
      [
        ['done', 200, 50, 0, 'it did not come to its end'],
        ['cut', undefined, 0, 0, 'it did not come to its end'],
        ['upgraded', 101, undefined, 5, 'it asks for another protocol'],
        ['other', undefined, undefined, 0, 'it is no HTTP request'],
        ['open', undefined, undefined, 0, 'it did not come to its end'],
      ],
    );
    assert.equal(views[0]?.answeredAfterMs, 20);
    assert.equal(views[0]?.contentType, 'text/plain');
    assert.ok(!JSON.stringify(views).includes('s3cr3t'));
  });
});

describe('inspector: a request once more', () => {
  const kept = (fields: readonly string[], body: Buffer) => {
    const { store } = start();
    const one = store.sink(target('a')).begin({ ...GET, method: 'POST', target: '/x?code=1' }, fields);
    one.body('request', body);
    one.requestEnd();
    const [exchange] = store.list('a');
    assert.ok(exchange);
    return exchange;
  };

  it('is what it was, on a connection of its own and with its length', () => {
    const exchange = kept(
      [
        'Host',
        'demo',
        'Transfer-Encoding',
        'chunked',
        'Expect',
        '100-continue',
        'Authorization',
        'Bearer s',
        'Connection',
        'keep-alive',
      ],
      Buffer.from([0, 255]),
    );
    assert.equal(whyNoReplay(exchange), undefined);
    assert.equal(
      replayBytes(exchange).toString('latin1'),
      'POST /x?code=1 HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer s\r\ncontent-length: 2\r\nconnection: close\r\n\r\n\0\xff',
    );
    assert.match(
      replayBytes(kept(['Host', 'demo'], Buffer.alloc(0))).toString(),
      /Host: demo\r\nconnection: close\r\n\r\n$/,
    );
  });

  it('needs all of its body', () => {
    assert.equal(whyNoReplay(kept([], Buffer.alloc(KEPT_BODY_BYTES))), undefined);
    assert.match(whyNoReplay(kept([], Buffer.alloc(KEPT_BODY_BYTES + 1))) ?? '', /not kept whole/);
  });
});
