/**
 * Floods of HTTP/2 frames (rows 17 to 21 of the threats), over the whole way: what they start at the application is
 * bounded, so is the memory that they take, and a quiet environment is served from another connection meanwhile.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:http2';
import { after, afterEach, before, describe, test } from 'node:test';
import { MAX_VIOLATIONS } from '../../gateway/src/edge/http2-server.ts';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { startHostileWorld, type HostileWorld } from '../support/hostile-world.ts';
import {
  FLAG,
  frame,
  FRAME_TYPE,
  headerBlock,
  indexedField,
  setting,
  startRawHttp2,
  tableSizeUpdate,
  uint32,
  type RawHttp2,
} from '../support/raw-http2.ts';

/** Growth of the process, which is client, gateway and application in one, bytes. */
const MAX_GROWTH_BYTES = 48 << 20;
/** Row 19: of the gateway alone; the client's writes are in here too. */
const MAX_CONTINUATION_GROWTH_BYTES = 10 << 20;
/** A flood that has not been stopped by then is one that goes on, ms. */
const FLOOD_TIMEOUT_MS = 20_000;
/** Bytes of a client that may wait to be sent before it pauses. */
const BACKLOG_BYTES = 1 << 20;

describe('floods over HTTP/2', { timeout: 110_000 }, () => {
  let world: HostileWorld;
  before(async () => {
    world = await startHostileWorld({ limits: { stalledStreamTimeoutMs: 1_000, stalledUploadTimeoutMs: 1_000 } });
  });
  afterEach(() => world.checkQuiet());
  after(() => world.close());

  const connect = async (options?: { windows?: boolean }): Promise<RawHttp2> =>
    startRawHttp2(
      await world.way.connect(world.attacked.host, { ALPNProtocols: ['h2'], allowHalfOpen: false } as object),
      options,
    );
  const head = (path = '/', method = 'GET'): [string, string][] => [
    [':method', method],
    [':scheme', 'https'],
    [':authority', world.attacked.authority],
    [':path', path],
  ];
  const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  /** Sends what `next` gives, again and again, until the gateway ends the connection or `most` is reached. */
  const flood = async (client: RawHttp2, most: number, next: (count: number) => Uint8Array): Promise<number> => {
    const end = performance.now() + FLOOD_TIMEOUT_MS;
    let count = 0;
    while (count < most && client.socket.writable && client.goaway === undefined) {
      assert.ok(performance.now() < end, 'the flood was not stopped');
      client.write(next(count++));
      if (count % 16 === 0 || client.socket.writableLength > BACKLOG_BYTES) await tick();
    }
    return count;
  };
  /** How much the process grew in `work` at most, bytes. */
  const growth = async (work: () => Promise<void>): Promise<number> => {
    const start = process.memoryUsage.rss();
    let most = start;
    const timer = setInterval(() => (most = Math.max(most, process.memoryUsage.rss())), 20);
    await work().finally(() => clearInterval(timer));
    return Math.max(most, process.memoryUsage.rss()) - start;
  };
  /** How many requests for `path` the application has seen, once nothing is on its way any more. */
  const started = async (path: string): Promise<number> => {
    for (let last = -1; ;) {
      await world.checkQuiet();
      const count = world.attacked.requests.filter(({ target }) => target === path).length;
      if (count === last) return count;
      last = count;
    }
  };

  test('row 17: rapid reset', async () => {
    const { requestsInFlightPerConnection, resetsPerConnection } = GATEWAY_LIMITS;
    const client = await connect();
    const sent = await flood(client, 20_000, () => {
      const id = client.nextId();
      return Buffer.concat([
        frame(FRAME_TYPE.headers, FLAG.endHeaders | FLAG.endStream, id, headerBlock(head('/reset'))),
        frame(FRAME_TYPE.rstStream, 0, id, uint32(constants.NGHTTP2_CANCEL)),
      ]);
    });
    assert.ok(sent < 20_000);
    await client.closed;
    const count = await started('/reset');
    assert.ok(count <= requestsInFlightPerConnection + resetsPerConnection, `${count} requests were started`);
  });

  test('row 18: resets that the client forces (MadeYouReset), in each way there is', async () => {
    const forced: Record<string, (id: number) => Buffer> = {
      'a window that grows by nothing': (id) => frame(FRAME_TYPE.windowUpdate, 0, id, uint32(0)),
      'a window beyond 2^31': (id) => frame(FRAME_TYPE.windowUpdate, 0, id, uint32(0x7fff_ffff)),
      'DATA on a stream that is closed': (id) => frame(FRAME_TYPE.data, 0, id, Buffer.from('x')),
      'HEADERS on a stream that is closed': (id) =>
        frame(FRAME_TYPE.headers, FLAG.endHeaders | FLAG.endStream, id, headerBlock([['x', '1']])),
      'PRIORITY of a wrong length': (id) => frame(FRAME_TYPE.priority, 0, id, Buffer.alloc(4)),
    };
    world.attacked.answer = () => undefined;
    for (const [index, [name, violate]] of Object.entries(forced).entries()) {
      const client = await connect();
      await flood(client, 5_000, () => {
        const id = client.nextId();
        return Buffer.concat([
          frame(FRAME_TYPE.headers, FLAG.endHeaders | FLAG.endStream, id, headerBlock(head(`/forced-${index}`))),
          violate(id),
        ]);
      });
      await client.closed;
      const count = await started(`/forced-${index}`);
      assert.ok(count <= MAX_VIOLATIONS, `${name}: ${count} requests were started`);
    }
    world.attacked.answer = undefined;
  });

  test('row 19: CONTINUATION without an end', async () => {
    const fields = {
      long: headerBlock([['x-long', 'a'.repeat(4_000)]]),
      short: headerBlock([['a', '']]),
      none: Buffer.alloc(0),
    };
    for (const [name, field] of Object.entries(fields)) {
      const client = await connect();
      const grown = await growth(async () => {
        client.write(frame(FRAME_TYPE.headers, FLAG.endStream, client.nextId(), headerBlock(head('/endless'))));
        const count = await flood(client, 50_000, () => frame(FRAME_TYPE.continuation, 0, 1, field));
        assert.ok(count < 50_000, name);
        await client.closed;
      });
      assert.ok(grown < MAX_CONTINUATION_GROWTH_BYTES, `${name}: it grew by ${grown} bytes`);
    }
    assert.equal(await started('/endless'), 0);
  });

  test('row 20: header lists that unfold to more than they are', async () => {
    const grown = await growth(async () => {
      // One field of 4,000 bytes in the table, then a byte for each time it is meant.
      const bomb = Buffer.concat([
        headerBlock([...head('/list')]),
        headerBlock([['x-bomb', 'a'.repeat(4_000)]], { indexed: true }),
        ...Array.from({ length: 10_000 }, () => indexedField(62)),
      ]);
      for (let times = 0; times < 20; times++) {
        const client = await connect();
        const answer = await client.answer(client.open(bomb));
        assert.ok(answer.status === undefined || answer.status === 431, JSON.stringify(answer));
        client.socket.destroy();
      }
    });
    assert.ok(grown < MAX_GROWTH_BYTES, `it grew by ${grown} bytes`);
    const many = await connect();
    const refusals: [name: string, block: Buffer][] = [
      [
        '300 fields',
        headerBlock([...head('/list'), ...Array.from({ length: 300 }, (_, n): [string, string] => [`x-${n}`, '1'])]),
      ],
      [
        'a list above the limit',
        headerBlock([
          ...head(),
          ...Array.from({ length: 20 }, (_, n): [string, string] => [`x-${n}`, 'a'.repeat(4_000)]),
        ]),
      ],
      [
        'cookie crumbs',
        headerBlock([...head('/list'), ...Array.from({ length: 2_000 }, (): [string, string] => ['cookie', 'a'])]),
      ],
    ];
    for (const [name, block] of refusals) {
      const id = many.nextId();
      const parts = [block.subarray(0, 16_000)];
      for (let at = 16_000; at < block.length; at += 16_000) parts.push(block.subarray(at, at + 16_000));
      many.write(
        ...parts.map((part, index) =>
          frame(
            index === 0 ? FRAME_TYPE.headers : FRAME_TYPE.continuation,
            (index === 0 ? FLAG.endStream : 0) | (index === parts.length - 1 ? FLAG.endHeaders : 0),
            id,
            part,
          ),
        ),
      );
      const answer = await many.answer(id);
      assert.ok(answer.status === undefined || answer.status === 431, `${name}: ${JSON.stringify(answer)}`);
    }
    many.socket.destroy();
    // A table that the server never offered, and one that changes its size without an end.
    for (const block of [
      Buffer.concat([tableSizeUpdate(1 << 20), headerBlock(head('/list'))]),
      Buffer.concat([
        ...Array.from({ length: 10_000 }, (_, n) => tableSizeUpdate(n % 2 === 0 ? 0 : 4_096)),
        headerBlock(head('/list')),
      ]),
      Buffer.concat([headerBlock(head('/list')), indexedField(4_000)]),
      Buffer.concat([headerBlock(head('/list')), Buffer.alloc(20, 0xff)]),
    ]) {
      const client = await connect();
      const answer = await client.answer(client.open(block));
      assert.equal(answer.status, undefined);
      client.socket.destroy();
    }
    assert.equal(await started('/list'), 0);
  });

  test('row 21: PING, SETTINGS and PRIORITY without an end', async () => {
    const kinds: Record<string, (client: RawHttp2, count: number) => Buffer> = {
      PING: () => frame(FRAME_TYPE.ping, 0, 0, Buffer.alloc(8)),
      SETTINGS: () => frame(FRAME_TYPE.settings, 0, 0),
      'SETTINGS with values': (_client, count) =>
        frame(
          FRAME_TYPE.settings,
          0,
          0,
          Buffer.concat(Array.from({ length: 200 }, () => setting(4, 65_535 + (count % 2)))),
        ),
      'SETTINGS acknowledged unasked': () => frame(FRAME_TYPE.settings, FLAG.ack, 0),
      'PING acknowledged unasked': () => frame(FRAME_TYPE.ping, FLAG.ack, 0, Buffer.alloc(8)),
      PRIORITY: (_client, count) => frame(FRAME_TYPE.priority, 0, 2 * (count % 1_000) + 1, Buffer.alloc(5)),
      'unknown frames': () => frame(0xfe, 0, 0, Buffer.alloc(16)),
      'a window without an end': () => frame(FRAME_TYPE.windowUpdate, 0, 0, uint32(1 << 24)),
    };
    for (const [name, make] of Object.entries(kinds)) {
      const client = await connect({ windows: false });
      // Reads nothing: what is acknowledged would wait in the gateway.
      if (/^(?:PING|SETTINGS)/.test(name)) client.socket.pause();
      const grown = await growth(async () => {
        for (let count = 0; count < 30_000 && client.socket.writable; count++) {
          client.write(make(client, count));
          if (client.socket.writableLength > BACKLOG_BYTES) break;
          if (count % 64 === 0) await tick();
        }
        await world.checkQuiet();
      });
      client.socket.destroy();
      assert.ok(grown < MAX_GROWTH_BYTES, `${name}: it grew by ${grown} bytes`);
    }
  });

  test('row 21: DATA of nothing, of a byte, and bodies that stand still', async () => {
    const { attacked } = world;
    const empty = await connect();
    const id = empty.open(headerBlock(head('/empty', 'POST')), { endStream: false });
    await flood(empty, 20_000, () => frame(FRAME_TYPE.data, 0, id));
    const tiny = await connect();
    const other = tiny.open(headerBlock(head('/tiny', 'POST')), { endStream: false });
    const grown = await growth(async () => {
      await flood(tiny, 20_000, () => frame(FRAME_TYPE.data, 0, other, Buffer.from('x')));
      tiny.write(frame(FRAME_TYPE.data, FLAG.endStream, other));
      const answer = await tiny.answer(other);
      // Served with every byte, or refused.
      if (answer.status === 200) assert.equal(attacked.requests.at(-1)?.body.length, 20_000);
    });
    assert.ok(grown < MAX_GROWTH_BYTES, `it grew by ${grown} bytes`);
    empty.socket.destroy();
    tiny.socket.destroy();
    // A window that stays shut, and a body that does not come: both are freed.
    attacked.answer = (_request, socket) =>
      void socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${4 << 20}\r\n\r\n${'x'.repeat(4 << 20)}`);
    const shut = await connect({ windows: false });
    const stalled = shut.open(headerBlock(head('/stalled')));
    const mute = await connect();
    const silent = mute.open(headerBlock(head('/silent', 'POST')), { endStream: false });
    const [first, second] = await Promise.all([shut.answer(stalled), mute.answer(silent)]);
    assert.deepEqual([first.ended, first.reset !== undefined], [false, true]);
    assert.equal(second.status, 408);
    attacked.answer = undefined;
    shut.socket.destroy();
    mute.socket.destroy();
  });

  test('frames that break the protocol end the connection, and nothing else', async () => {
    const bytes: Buffer[] = [
      frame(FRAME_TYPE.data, 0, 0, Buffer.from('x')),
      frame(FRAME_TYPE.headers, FLAG.endHeaders, 0, headerBlock(head())),
      frame(FRAME_TYPE.headers, FLAG.endHeaders, 2, headerBlock(head())),
      frame(FRAME_TYPE.pushPromise, FLAG.endHeaders, 1, Buffer.concat([uint32(2), headerBlock(head())])),
      frame(FRAME_TYPE.continuation, FLAG.endHeaders, 1, headerBlock(head())),
      frame(FRAME_TYPE.rstStream, 0, 5, uint32(0)),
      frame(FRAME_TYPE.windowUpdate, 0, 0, uint32(0)),
      frame(FRAME_TYPE.windowUpdate, 0, 0, uint32(0x7fff_ffff)),
      frame(FRAME_TYPE.settings, 0, 0, Buffer.alloc(5)),
      frame(FRAME_TYPE.settings, 0, 0, setting(4, 0x8000_0000)),
      frame(FRAME_TYPE.settings, 0, 0, setting(5, 1)),
      frame(FRAME_TYPE.ping, 0, 0, Buffer.alloc(7)),
      frame(
        FRAME_TYPE.headers,
        FLAG.endHeaders | FLAG.padded,
        1,
        Buffer.concat([Buffer.from([255]), headerBlock(head())]),
      ),
      Buffer.concat([
        frame(FRAME_TYPE.headers, 0, 1, headerBlock(head())),
        frame(FRAME_TYPE.ping, 0, 0, Buffer.alloc(8)),
      ]),
      Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
    ];
    for (const each of bytes) {
      const client = await connect();
      client.write(each);
      await client.closed;
      assert.notEqual(client.goaway, 0, each.toString('hex'));
    }
    assert.equal(await started('/'), 0);
  });
});
