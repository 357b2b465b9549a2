/** The built-in log server on files: what is read, in which form, and what rotation makes of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { HEARTBEAT_MS } from '../../tunnel-client/src/log-server/log-format.ts';
import { MAX_PIECE_BYTES } from '../../tunnel-client/src/log-server/log-source.ts';
import { type LogEvent, type LogReader, type LogWorld, parseEvents, startLogWorld } from '../support/logs.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

const EVENTS = { accept: 'text/event-stream' };
const worlds: LogWorld[] = [];
const directories: string[] = [];

const startWorld = async (
  content: string | undefined,
  options: Parameters<typeof startLogWorld>[1] = {},
): Promise<LogWorld & { readonly file: string }> => {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'logs-test-'));
  if (options.directory === undefined) directories.push(directory);
  const file = join(directory, 'env.log');
  if (content !== undefined) writeFileSync(file, content);
  const world = await startLogWorld(() => ({ file }), { ...options, directory });
  worlds.push(world);
  return { ...world, file };
};

afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

const events = (reader: LogReader): LogEvent[] => parseEvents(reader.text());
const data = (reader: LogReader): string[] =>
  events(reader)
    .filter(({ event }) => event === 'message')
    .map((event) => event.data);
const numbered = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, index) => `line ${from + index}\n`).join('');

describe('a log file as text', () => {
  it('comes as a whole, with its offset, and follows by default', async () => {
    const world = await startWorld('one\ntwo\n');
    const reader = await world.read();
    assert.equal(reader.status, 200);
    assert.equal(reader.headers['content-type'], 'text/plain; charset=utf-8');
    assert.equal(reader.headers['cache-control'], 'no-store');
    assert.equal(reader.offset, 0);
    await reader.contains('two\n');
    appendFileSync(world.file, 'three\n');
    await reader.contains('three\n');
    assert.equal(reader.text(), 'one\ntwo\nthree\n');
  });

  it('ends with what there is without follow, an unfinished line included', async () => {
    const world = await startWorld('one\ntwo\nthr');
    assert.equal(await world.all('/logs?follow=false'), 'one\ntwo\nthr');
    assert.equal(await world.all('/logs?follow=0&tail=2'), 'two\nthr');
  });

  it('begins with the last lines that tail asks for', async () => {
    const world = await startWorld(numbered(0, 50_000));
    assert.equal(await world.all('/logs?follow=false&tail=3'), numbered(49_997, 50_000));
    assert.equal(await world.all('/logs?follow=false&tail=20000'), numbered(30_000, 50_000));
    assert.equal(await world.all('/logs?follow=false&tail=60000'), numbered(0, 50_000));
    const none = await world.read({ path: '/logs?tail=0' });
    assert.equal(none.offset, numbered(0, 50_000).length);
    appendFileSync(world.file, 'new\n');
    await none.contains('new\n');
    assert.equal(none.text(), 'new\n');
  });

  it('goes on at any byte that since names, also inside of a line or a character', async () => {
    const content = 'ä1\nö2\n';
    const world = await startWorld(content);
    const bytes = Buffer.from(content);
    for (let since = 0; since <= bytes.length; since++) {
      const reader = await world.read({ path: `/logs?follow=false&since=${since}` });
      await reader.ended;
      assert.equal(reader.offset, since);
      assert.deepEqual(reader.body(), bytes.subarray(since));
    }
  });

  it('holds a line back until it is complete, so that a response always ends at the end of one', async () => {
    const world = await startWorld('one\ntw');
    const reader = await world.read();
    await reader.contains('one\n');
    appendFileSync(world.file, 'o, thr');
    const other = await world.read({ path: '/logs?tail=1' });
    world.server.drain();
    assert.equal(await reader.ended, 'one\n');
    assert.equal(await other.ended, '');
    assert.equal(other.offset, 4);
  });

  it('answers HEAD with the offset and nothing else', async () => {
    const world = await startWorld('one\ntwo\n');
    const reader = await world.read({ method: 'HEAD', path: '/logs?tail=1' });
    assert.equal(await reader.ended, '');
    assert.equal(reader.offset, 4);
  });

  it('refuses what it does not know', async () => {
    const world = await startWorld('one\n');
    const refused = async (path: string, method = 'GET'): Promise<[number, string]> => {
      const reader = await world.read({ path, method });
      const body = JSON.parse(await reader.ended) as { error: { code: string } };
      return [reader.status, body.error.code];
    };
    assert.deepEqual(await refused('/'), [404, 'not_found']);
    assert.deepEqual(await refused('/logs/'), [404, 'not_found']);
    assert.deepEqual(await refused('/logs/../../etc/passwd'), [404, 'not_found']);
    assert.deepEqual(await refused('/logs', 'POST'), [405, 'method_not_allowed']);
    for (const query of ['tail=-1', 'tail=x', 'since=1.5', 'since=99999999999999999', 'follow=maybe']) {
      assert.deepEqual(await refused(`/logs?${query}`), [400, 'bad_request'], query);
    }
    const reader = await world.read({ path: '/logs', method: 'DELETE' });
    assert.equal(reader.headers.allow, 'GET, HEAD');
  });
});

describe('a log file as events', () => {
  it('has the offset behind each line as its id, and goes on from one', async () => {
    const world = await startWorld('one\ntwö\n');
    const reader = await world.read({ headers: EVENTS });
    assert.equal(reader.headers['content-type'], 'text/event-stream; charset=utf-8');
    await reader.contains('two'.slice(0, 2));
    await until(() => events(reader).length === 2);
    assert.deepEqual(events(reader), [
      { event: 'message', data: 'one', id: '4' },
      { event: 'message', data: 'twö', id: '9' },
    ]);
    reader.close();
    appendFileSync(world.file, 'three\n');
    // Above since and tail, which stand in the address that an EventSource asks for again.
    const next = await world.read({ path: '/logs?tail=1&since=0', headers: { ...EVENTS, 'last-event-id': '9' } });
    await next.contains('three');
    assert.deepEqual(events(next), [{ event: 'message', data: 'three', id: '15' }]);
    // No id that the log server gave: as if there was none.
    const odd = await world.read({ path: '/logs?tail=1', headers: { ...EVENTS, 'last-event-id': 'x' } });
    await odd.contains('three');
    assert.deepEqual(data(odd), ['three']);
  });

  it('tells where it begins before there is a line', async () => {
    const world = await startWorld('one\n');
    const reader = await world.read({ path: '/logs?tail=0', headers: EVENTS });
    await reader.contains('id: 4\n\n');
    assert.deepEqual(events(reader), []);
  });

  it('keeps carriage returns, empty lines, colons and bytes that are no UTF-8 from breaking events', async () => {
    const world = await startWorld(undefined);
    writeFileSync(
      world.file,
      Buffer.concat([Buffer.from('crlf\r\n\n 10%\r 50%\r100%\r\n: no comment\nid: 7\n'), Buffer.from([0xff, 0x0a])]),
    );
    const reader = await world.read({ path: '/logs?follow=false', headers: EVENTS });
    await reader.ended;
    const texts = events(reader).map((event) => event.data);
    assert.deepEqual(texts, ['crlf', '', ' 10%\n 50%\n100%', ': no comment', 'id: 7', '\ufffd']);
    assert.ok(reader.body().includes(Buffer.from([0xff])));
  });

  it('sends a comment every 15 s while nothing happens', async () => {
    const clock = createManualClock();
    const world = await startWorld('one\n', { clock });
    const reader = await world.read({ headers: EVENTS });
    await reader.contains('one');
    const beats = (): number => reader.text().split(':\n\n').length - 1;
    assert.equal(beats(), 0);
    await clock.advance(HEARTBEAT_MS);
    await until(() => beats() === 1);
    await clock.advance(HEARTBEAT_MS - 1);
    await settle();
    assert.equal(beats(), 1);
    await clock.advance(1);
    await until(() => beats() === 2);
  });
});

describe('characters of several bytes', () => {
  /** Throws when `bytes` end inside of a character, or are no UTF-8 at all. */
  const decode = (bytes: Buffer): string => new TextDecoder('utf-8', { fatal: true }).decode(bytes);

  it('are never split, however they are written', async () => {
    const world = await startWorld('');
    const reader = await world.read({ headers: EVENTS });
    const text = await world.read();
    const line = 'aä€😀';
    for (const byte of Buffer.from(`${line}\n`.repeat(20))) {
      appendFileSync(world.file, Buffer.from([byte]));
      // What has come so far is whole at every moment.
      decode(text.body());
      decode(reader.body());
      await settle(1);
    }
    await until(() => data(reader).length === 20);
    assert.deepEqual(new Set(data(reader)), new Set([line]));
    await until(() => text.text() === `${line}\n`.repeat(20));
  });

  it('are never split where a line is cut because it is too long', async () => {
    const world = await startWorld('');
    // Each offset of a character to the border of a piece.
    const lines = ['', 'a', 'ab'].map((start) => `${start}${'€😀'.repeat(MAX_PIECE_BYTES / 4)}`);
    writeFileSync(world.file, `${lines.join('\n')}\n`);
    const reader = await world.read({ path: '/logs?follow=false', headers: EVENTS });
    await reader.ended;
    decode(reader.body());
    const pieces = data(reader);
    assert.ok(pieces.length > 3);
    assert.equal(pieces.join(''), lines.join(''));
    for (const piece of pieces) assert.ok(Buffer.byteLength(piece) <= MAX_PIECE_BYTES);
    assert.equal(await world.all('/logs?follow=false'), `${lines.join('\n')}\n`);
  });

  it('are held back by a snapshot that would end inside of one', async () => {
    const world = await startWorld(undefined);
    writeFileSync(world.file, Buffer.from('one\nä').subarray(0, 5));
    assert.equal(await world.all('/logs?follow=false'), 'one\n');
  });
});

describe('a file that is replaced', () => {
  it('goes on over a rotation, with what was still written to the old file', async () => {
    const world = await startWorld('one\n');
    const text = await world.read();
    const reader = await world.read({ headers: EVENTS });
    await text.contains('one\n');
    renameSync(world.file, `${world.file}.1`);
    writeFileSync(world.file, '');
    // The file is looked at while its writer has not opened the new one yet.
    await world.all('/logs?follow=false&tail=1');
    appendFileSync(`${world.file}.1`, 'late\n');
    await text.contains('late\n');
    appendFileSync(world.file, 'two\n');
    await text.contains('two\n');
    assert.equal(text.text(), 'one\nlate\ntwo\n');
    await until(() => data(reader).length === 3);
    assert.deepEqual(
      events(reader).map(({ event, id }) => [event, id]),
      [
        ['message', '4'],
        ['message', '9'],
        ['message', '13'],
      ],
    );
    // What was rotated away can still be gone on from.
    assert.equal(await world.all('/logs?follow=false&since=4'), 'late\ntwo\n');
    assert.equal(await world.all('/logs?follow=false&tail=2'), 'late\ntwo\n');
  });

  it('ends a line that the old file left unfinished', async () => {
    const world = await startWorld('one');
    const reader = await world.read();
    renameSync(world.file, `${world.file}.1`);
    writeFileSync(world.file, 'two\n');
    await reader.contains('two\n');
    assert.equal(reader.text(), 'one\ntwo\n');
    assert.equal(await world.all('/logs?follow=false&since=4'), 'two\n');
  });

  it('starts anew when it is emptied, and says so', async () => {
    const world = await startWorld('one\ntwo\n');
    const text = await world.read();
    const reader = await world.read({ headers: EVENTS });
    await until(() => data(reader).length === 2);
    await text.contains('two\n');
    copyFileSync(world.file, `${world.file}.1`);
    truncateSync(world.file, 0);
    await until(() => events(reader).some(({ event }) => event === 'reset'));
    appendFileSync(world.file, 'three\n');
    await text.contains('three\n');
    assert.equal(text.text(), 'one\ntwo\nthree\n');
    await until(() => data(reader).length === 3);
    assert.deepEqual(events(reader).slice(2), [
      { event: 'reset', data: '{"offset":8}', id: '8' },
      { event: 'message', data: 'three', id: '14' },
    ]);
    assert.equal(await world.all('/logs?follow=false&since=8'), 'three\n');
    assert.equal(await world.all('/logs?follow=false'), 'three\n');
  });

  it('is noticed when it was emptied and has more than before at the next look', async () => {
    const world = await startWorld('old 1\nold 2\n');
    const reader = await world.read({ headers: EVENTS });
    await until(() => data(reader).length === 2);
    writeFileSync(world.file, 'new 1\nnew 2\nnew 3\nnew 4\n');
    await reader.contains('new 4');
    const { length } = 'old 1\nold 2\n';
    assert.deepEqual(data(reader), ['old 1', 'old 2', 'new 1', 'new 2', 'new 3', 'new 4']);
    assert.equal(events(reader)[2]?.event, 'reset');
    assert.equal(events(reader).at(-1)?.id, String(length + 24));
  });

  it('starts anew when it is deleted and made again', async () => {
    const world = await startWorld('one\n');
    const reader = await world.read({ headers: EVENTS });
    await until(() => data(reader).length === 1);
    unlinkSync(world.file);
    await settle();
    writeFileSync(world.file, 'two\n');
    await until(() => data(reader).length === 2);
    assert.deepEqual(
      events(reader).map(({ event, data: text, id }) => [event, text, id]),
      [
        ['message', 'one', '4'],
        ['reset', '{"offset":4}', '4'],
        ['message', 'two', '8'],
      ],
    );
  });

  it('may appear later, with its directory', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'logs-test-'));
    directories.push(directory);
    const file = join(directory, 'later', 'env.log');
    const world = await startLogWorld(() => ({ file }), { directory });
    worlds.push(world);
    assert.equal(await world.all('/logs?follow=false'), '');
    const reader = await world.read();
    assert.equal(reader.offset, 0);
    mkdirSync(join(directory, 'later'));
    writeFileSync(file, 'here\n');
    await reader.contains('here\n');
  });

  it('is found behind a symbolic link that is turned to another one', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'logs-test-'));
    directories.push(directory);
    const link = join(directory, 'current.log');
    writeFileSync(join(directory, 'a'), 'one\n');
    symlinkSync('a', link);
    const world = await startLogWorld(() => ({ file: link }), { directory });
    worlds.push(world);
    const reader = await world.read();
    await reader.contains('one\n');
    writeFileSync(join(directory, 'b'), 'two\n');
    symlinkSync('b', `${link}.new`);
    renameSync(`${link}.new`, link);
    await reader.contains('two\n');
    assert.equal(reader.text(), 'one\ntwo\n');
  });

  it('many times loses and repeats nothing', async () => {
    const world = await startWorld('');
    const reader = await world.read();
    let written = '';
    for (let round = 0; round < 12; round++) {
      const lines = numbered(round * 100, round * 100 + 100);
      written += lines;
      appendFileSync(world.file, lines);
      await reader.contains(`line ${round * 100 + 99}\n`);
      renameSync(world.file, `${world.file}.${round % 3}`);
    }
    assert.equal(reader.text(), written);
  });
});

describe('what is no file to read', () => {
  const refusal = async (make: (file: string) => void): Promise<{ status: number; body: string }> => {
    const world = await startWorld(undefined);
    make(world.file);
    const reader = await world.read();
    return { status: reader.status, body: await reader.ended };
  };

  it('is answered with 502, which clients try again, and never waited for', async () => {
    const directory = await refusal((file) => mkdirSync(file));
    assert.equal(directory.status, 502);
    assert.match(directory.body, /"log_unreadable"/);
    const pipe = await refusal((file) => void execFileSync('mkfifo', [file]));
    assert.equal(pipe.status, 502);
    assert.match(pipe.body, /ENOTFILE/);
  });

  it('is read as soon as it can be', async () => {
    const world = await startWorld(undefined);
    mkdirSync(world.file);
    assert.equal((await world.read()).status, 502);
    rmSync(world.file, { recursive: true });
    writeFileSync(world.file, 'one\n');
    assert.equal(await world.all('/logs?follow=false'), 'one\n');
  });
});

describe('the log of an environment', () => {
  it('ends for its readers when it is taken away or becomes another one', async () => {
    const world = await startWorld('one\n');
    const other = `${world.file}.other`;
    writeFileSync(other, 'other\n');
    const reader = await world.read();
    await reader.contains('one\n');
    world.server.configure('demo', { file: world.file });
    world.server.configure('demo', { file: other });
    assert.equal(await reader.ended, 'one\n');
    assert.equal(await world.all('/logs?follow=false'), 'other\n');
    world.server.configure('demo', undefined);
    assert.equal(world.server.has('demo'), false);
  });

  it('has room for 1,024 readers, and tells the next one to wait', async () => {
    const world = await startWorld('one\n');
    const readers = await Promise.all(Array.from({ length: 1_024 }, () => world.read({ path: '/logs?tail=0' })));
    const refused = await world.read();
    assert.equal(refused.status, 503);
    assert.equal(refused.headers['retry-after'], '5');
    readers[0]?.close();
    await until(() => world.server.stats('demo')?.followers === 1_023);
    assert.equal((await world.read()).status, 200);
  });
});
