/** Many readers, slow readers, and readers that go on somewhere else: nothing lost, nothing repeated, nothing kept. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFileSync, mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { type LogReader, type LogWorld, parseEvents, startLogWorld } from '../support/logs.ts';
import type { LegPair } from '../support/legs.ts';
import { until } from '../support/runner.ts';

const EVENTS = { accept: 'text/event-stream' };
const MIB = 1 << 20;
const worlds: LogWorld[] = [];
const directories: string[] = [];

const makeDirectory = (): string => {
  const directory = mkdtempSync(join(tmpdir(), 'logs-test-'));
  directories.push(directory);
  return directory;
};
const startWorld = async (directory = makeDirectory()): Promise<LogWorld & { readonly file: string }> => {
  const file = join(directory, 'env.log');
  const world = await startLogWorld(() => ({ file }), { directory });
  worlds.push(world);
  return { ...world, file };
};
const stopWorld = async (world: LogWorld): Promise<void> => {
  worlds.splice(
    worlds.findIndex(({ server }) => server === world.server),
    1,
  );
  await world.close();
};

afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

const numbered = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, index) => `line ${from + index}\n`).join('');
const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
/** What buffers of this process hold, bytes, garbage left out. */
const heldBytes = (): number => {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().arrayBuffers;
};

/** The least of some readings: buffers that were collected are given back beside the program, a moment later. */
const settledBytes = async (): Promise<number> => {
  let least = Infinity;
  for (let reading = 0; reading < 10; reading++) {
    least = Math.min(least, heldBytes());
    await nextTurn();
  }
  return least;
};

describe('200 followers of one log', () => {
  const FOLLOWERS = 200;

  it('cost one read of what there is, and one of what comes', async () => {
    const world = await startWorld();
    const first = numbered(0, 20_000);
    writeFileSync(world.file, first);
    const readers = await Promise.all(
      Array.from({ length: FOLLOWERS }, (_, index) => world.read(index % 2 === 0 ? {} : { headers: EVENTS })),
    );
    const last = readers.at(-1) as LogReader;
    await Promise.all(readers.map((reader) => reader.contains('line 19999\n')));
    const stats = world.server.stats('demo');
    assert.equal(stats?.followers, FOLLOWERS);
    assert.equal(stats.bytesRead, first.length, 'each byte was read once');
    assert.equal(stats.reads, Math.ceil(first.length / (64 << 10)));

    for (let line = 20_000; line < 20_010; line++) {
      appendFileSync(world.file, numbered(line, line + 1));
      await last.contains(`line ${line}\n`);
    }
    await Promise.all(readers.map((reader) => reader.contains('line 20009\n')));
    const all = numbered(0, 20_010);
    const after = world.server.stats('demo');
    assert.equal(after?.bytesRead, all.length);
    assert.ok((after?.reads ?? 0) - stats.reads <= 20, `${after?.reads} reads for 10 lines`);
    for (const [index, reader] of readers.entries()) {
      if (index % 2 === 0) assert.equal(reader.text(), all);
      else assert.equal(parseEvents(reader.text()).length, 20_010);
    }
  });

  it('leave nothing behind when they go', async () => {
    const world = await startWorld();
    writeFileSync(world.file, 'one\n');
    const readers = await Promise.all(Array.from({ length: FOLLOWERS }, () => world.read()));
    for (const reader of readers) reader.close();
    await until(() => world.server.stats('demo')?.followers === 0 && world.dialer.stats().open === 0);
  });
});

/** The next `length` bytes of a response; what is not asked for is not read. */
const taken = async (response: IncomingMessage, length: number): Promise<Buffer> => {
  const chunks: Buffer[] = [];
  for (let missing = length; missing > 0;) {
    const chunk = response.read(Math.min(missing, Math.max(1, response.readableLength))) as Buffer | null;
    if (chunk) {
      chunks.push(chunk);
      missing -= chunk.length;
    } else {
      await once(response, 'readable', { signal: AbortSignal.timeout(15_000) });
    }
  }
  return Buffer.concat(chunks);
};

describe('a follower that does not read', () => {
  /** Of 1 MB: 20 fill the cache of 16 MiB. */
  const ROUNDS = 40;

  it('grows no memory, holds nobody up, and gets every byte of a file later', async () => {
    const world = await startWorld();
    writeFileSync(world.file, '');
    // Its body is not read: it takes what the credit of a stream and the buffers on the way hold.
    const slow = await world.ask();
    const fast = await world.ask();
    const block = Buffer.from(`${'x'.repeat(99)}\n`.repeat(10_000));
    let before = 0;
    for (let round = 1; round <= ROUNDS; round++) {
      appendFileSync(world.file, block);
      await taken(fast, block.length);
      // The cache is full, and the credit of the slow stream is used up.
      if (round === ROUNDS / 2) before = await settledBytes();
    }
    const grown = (await settledBytes()) - before;
    assert.ok(grown < 8 * MIB, `${grown} bytes more are held after ${(ROUNDS / 2) * block.length} more of log`);
    const bytes = await taken(slow, ROUNDS * block.length);
    assert.equal(hash(bytes), hash(readFileSync(world.file)));
    slow.destroy();
    fast.destroy();
  });

  it('is told how many lines were in a file that is gone before it came to them', async () => {
    const world = await startWorld();
    const count = 400_000;
    writeFileSync(world.file, numbered(0, count));
    const [slowEvents, slowText] = [await world.ask({ headers: EVENTS }), await world.ask()];
    // One that keeps pace knows when each file was seen.
    const watcher = await world.read({ path: '/logs?tail=0' });
    for (let round = 0; round < 3; round++) {
      renameSync(world.file, `${world.file}.1`);
      writeFileSync(world.file, `file ${round}\n`);
      await watcher.contains(`file ${round}\n`);
    }
    const read = async (response: typeof slowEvents): Promise<string> => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      await until(() => text.includes('file 2'));
      response.destroy();
      return text;
    };
    const events = parseEvents(await read(slowEvents));
    const skipped = events.filter(({ event }) => event === 'skipped');
    assert.equal(skipped.length, 1);
    const told = JSON.parse(skipped[0]?.data ?? '') as { lines: number; bytes: number; offset: number };
    const lines = events.filter(({ event }) => event === 'message').map(({ data }) => data);
    const got = lines.filter((line) => line.startsWith('line '));
    assert.ok(told.lines > 1_000, 'it was slow');
    assert.equal(got.length + told.lines, count);
    assert.deepEqual(lines.slice(-3), ['file 0', 'file 1', 'file 2']);
    assert.equal(told.offset, numbered(0, count).length);
    assert.equal(told.bytes, numbered(got.length, count).length);

    const text = await read(slowText);
    const marker = /^\[… (\d+) lines skipped …\] Log-Offset: (\d+)$/m.exec(text);
    assert.equal(text.split('\n').filter((line) => line.startsWith('line ')).length + Number(marker?.[1]), count);
    assert.equal(Number(marker?.[2]), told.offset);
    watcher.close();
  });

  it('is told that something is missing when the file was emptied, where nobody can count', async () => {
    const world = await startWorld();
    writeFileSync(world.file, numbered(0, 400_000));
    const slow = await world.ask({ headers: EVENTS });
    const watcher = await world.read({ path: '/logs?tail=0' });
    truncateSync(world.file, 0);
    appendFileSync(world.file, 'new\n');
    await watcher.contains('new\n');
    let text = '';
    slow.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    await until(() => text.includes('data: new\n'));
    const events = parseEvents(text);
    const [skipped, reset, line] = events.slice(-3);
    assert.equal(skipped?.event, 'skipped');
    const told = JSON.parse(skipped.data) as { lines: null; bytes: number };
    assert.equal(told.lines, null);
    assert.equal(told.bytes, numbered(events.length - 3, 400_000).length);
    assert.equal(reset?.event, 'reset');
    assert.equal(line?.data, 'new');
    slow.destroy();
    watcher.close();
  });
});

/** Reads on and on as a client does: after each end from `since` or the last id, over the leg that is there then. */
const followOver = async (
  world: LogWorld,
  leg: () => LegPair,
  kind: 'text' | 'events',
  isComplete: (bytes: Buffer) => boolean,
  /** Something has come over `leg`. */
  onData: (leg: LegPair) => void = () => undefined,
): Promise<{ readonly bytes: Buffer; readonly responses: readonly string[]; readonly cuts: number }> => {
  const lines: Buffer[] = [];
  const responses: string[] = [];
  let cuts = 0;
  let position: number | undefined;
  for (;;) {
    const current = leg();
    const since = position === undefined ? '' : `?since=${position}`;
    const reader = await world
      .read(
        kind === 'text'
          ? { path: `/logs${since}`, leg: current }
          : {
              leg: current,
              headers: { ...EVENTS, ...(position === undefined ? {} : { 'last-event-id': String(position) }) },
            },
      )
      .catch(() => undefined);
    // The leg went before the answer.
    if (!reader) continue;
    reader.onData(() => onData(current));
    const all = (): Buffer => {
      if (kind === 'text') return Buffer.concat([...lines, reader.body()]);
      const text = parseEvents(reader.text()).map(({ data }) => `${data}\n`);
      return Buffer.concat([...lines, Buffer.from(text.join(''))]);
    };
    let isOver = false;
    reader.ended.then(
      (text) => {
        responses.push(text);
        isOver = true;
      },
      () => {
        cuts += 1;
        isOver = true;
      },
    );
    await until(() => isOver || isComplete(all()));
    const bytes = all();
    if (isComplete(bytes)) {
      reader.close();
      return { bytes, responses, cuts };
    }
    if (kind === 'text') {
      assert.equal(reader.offset, position ?? 0, 'it goes on exactly where it was asked to');
      position = reader.offset + reader.body().length;
    } else {
      position = Number(parseEvents(reader.text()).at(-1)?.id ?? position ?? 0);
    }
    lines.splice(0, lines.length, bytes);
  }
};

describe('a follower that goes on', () => {
  for (const kind of ['text', 'events'] as const) {
    it(`over 12 legs that are drained under it, as ${kind}: every line once, every response whole lines`, async () => {
      const world = await startWorld();
      writeFileSync(world.file, '');
      let leg = world.leg;
      const isComplete = (bytes: Buffer): boolean => bytes.includes('the end\n');
      const followed = followOver(world, () => leg, kind, isComplete);
      for (let line = 0, round = 0; round < 12; round++) {
        for (let burst = 0; burst < 5; burst++, line += 40) {
          appendFileSync(world.file, numbered(line, line + 40));
          // Unfinished when the leg goes.
          appendFileSync(world.file, `half ${line} `);
          await new Promise((resolve) => {
            setImmediate(resolve);
          });
          appendFileSync(world.file, 'of it, ä\n');
        }
        const old = leg;
        leg = await world.newLeg();
        world.server.endLeg(old.runner);
        await until(() => old.runner.stats().openStreams === 0);
        await old.runner.close('replaced');
        if (round === 6) renameSync(world.file, `${world.file}.1`);
      }
      appendFileSync(world.file, 'the end\n');
      const { bytes, responses, cuts } = await followed;
      const written = Buffer.concat([readFileSync(`${world.file}.1`), readFileSync(world.file)]);
      assert.equal(bytes.toString(), written.toString());
      assert.equal(cuts, 0);
      assert.ok(responses.length >= 8, `${responses.length} responses`);
      for (const text of responses) assert.ok(text === '' || text.endsWith('\n'), 'it ends at the end of a line');
    });

    it(`after legs that are lost in the middle of something, as ${kind}`, async () => {
      const world = await startWorld();
      writeFileSync(world.file, `${numbered(0, 50_000)}the end\n`);
      const legs = await Promise.all(Array.from({ length: 6 }, () => world.newLeg()));
      let used = 0;
      let chunks = 0;
      const { bytes, cuts } = await followOver(
        world,
        () => legs[used] as LegPair,
        kind,
        (all) => all.subarray(-8).equals(Buffer.from('the end\n')),
        (leg) => {
          chunks += 1;
          // With much more under way: the last one alone stays.
          if (chunks % 3 !== 0 || used === legs.length - 1 || leg !== legs[used]) return;
          used += 1;
          leg.gateway.abort('lost');
        },
      );
      assert.equal(hash(bytes), hash(readFileSync(world.file)));
      assert.equal(cuts, legs.length - 1);
    });
  }

  it('gets a long line to its end before the response ends, and at its own pace', async () => {
    const world = await startWorld();
    const line = `${'x'.repeat(32 * MIB)}\n`;
    writeFileSync(world.file, `${line}next\n`);
    const response = await world.ask();
    await until(() => response.readableLength > 0);
    const before = await settledBytes();
    world.server.endLeg(world.leg.runner);
    let seen = -1;
    await until(() => {
      const { bytesRead = 0 } = world.server.stats('demo') ?? {};
      const isStill = bytesRead === seen;
      seen = bytesRead;
      return isStill;
    });
    assert.ok((await settledBytes()) - before < 8 * MIB, 'the rest of the line is not collected');
    assert.ok((await taken(response, line.length)).equals(Buffer.from(line)));
    const [rest] = (await once(response.resume(), 'end')) as unknown[];
    assert.equal(rest, undefined);
  });

  it('never takes a part for the whole: what does not follow comes whole from a leg that is drained, or is cut', async () => {
    const world = await startWorld();
    const content = numbered(0, 200_000);
    writeFileSync(world.file, content);
    const [drained, removed] = [
      await world.ask({ path: '/logs?follow=false' }),
      await world.ask({ path: '/logs?follow=false' }),
    ];
    world.server.endLeg(world.leg.runner);
    const bytes = await taken(drained, content.length);
    assert.equal(bytes.toString(), content);
    assert.equal(drained.read(), null);
    await world.server.close();
    await assert.rejects(async () => {
      for await (const _ of removed);
    });
  });

  it('when the process of the client drains, and another one goes on with the same log', async () => {
    const directory = makeDirectory();
    const first = await startWorld(directory);
    writeFileSync(first.file, numbered(0, 100));
    const reader = await first.read();
    const events = await first.read({ headers: EVENTS });
    await reader.contains('line 99\n');
    await events.contains('line 99\n');
    first.server.drain();
    const text = await reader.ended;
    await events.ended;
    await stopWorld(first);

    appendFileSync(first.file, numbered(100, 200));
    const second = await startWorld(directory);
    const position = reader.offset + reader.body().length;
    assert.equal(text + (await second.all(`/logs?follow=false&since=${position}`)), numbered(0, 200));
    const lastId = parseEvents(events.text()).at(-1)?.id ?? '';
    const next = await second.all('/logs?follow=false', { headers: { ...EVENTS, 'last-event-id': lastId } });
    assert.deepEqual(
      parseEvents(next).map(({ data }) => `${data}\n`),
      numbered(100, 200).match(/.*\n/g),
    );
  });

  it('after a restart, over a rotation that nobody saw', async () => {
    const directory = makeDirectory();
    const first = await startWorld(directory);
    writeFileSync(first.file, numbered(0, 100));
    const position = Buffer.byteLength(await first.all('/logs?follow=false'));
    await stopWorld(first);
    appendFileSync(first.file, numbered(100, 150));
    renameSync(first.file, `${first.file}.1`);
    writeFileSync(first.file, numbered(150, 200));

    const second = await startWorld(directory);
    assert.equal(await second.all(`/logs?follow=false&since=${position}`), numbered(100, 200));
    await stopWorld(second);
    const third = await startWorld(directory);
    const end = numbered(0, 180).length;
    assert.equal(await third.all(`/logs?follow=false&since=${end}`), numbered(180, 200), 'the offsets stay');
  });

  it('after a restart, with a log that is another one: all of it, and never in the middle', async () => {
    for (const change of ['emptied', 'replaced', 'replaced by a longer one'] as const) {
      const directory = makeDirectory();
      const first = await startWorld(directory);
      writeFileSync(first.file, numbered(0, 100));
      const position = Buffer.byteLength(await first.all('/logs?follow=false'));
      await stopWorld(first);
      const content = change === 'replaced by a longer one' ? `new ${numbered(0, 1_000)}` : 'new\n';
      if (change !== 'emptied') rmSync(first.file);
      writeFileSync(first.file, content);

      const second = await startWorld(directory);
      const reader = await second.read({ path: `/logs?follow=false&since=${position}` });
      assert.equal(await reader.ended, content, change);
      assert.ok(reader.offset > position, change);
      const events = await second.read({
        path: '/logs?follow=false',
        headers: { ...EVENTS, 'last-event-id': String(position) },
      });
      const kinds = parseEvents(await events.ended).map(({ event }) => event);
      assert.notEqual(kinds[0], 'message', `${change}: told before the first line`);
      assert.equal(kinds.filter((kind) => kind === 'message').length, content.split('\n').length - 1);
      await stopWorld(second);
    }
  });

  it('at an offset that the log never had: from its beginning, and it is told', async () => {
    const world = await startWorld();
    writeFileSync(world.file, 'one\n');
    const reader = await world.read({ path: '/logs?follow=false&since=1000' });
    assert.equal(await reader.ended, 'one\n');
    assert.equal(reader.offset, 0);
    const events = await world.all('/logs?follow=false&since=1000', { headers: EVENTS });
    assert.deepEqual(
      parseEvents(events).map(({ event, data }) => [event, data]),
      [
        ['reset', '{"offset":0}'],
        ['message', 'one'],
      ],
    );
  });
});
