/** The parts of the log server that count bytes: where a character, a line and what is kept begin and end. */
import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createOutputRing, readLines } from '../../tunnel-client/src/log-server/command-output.ts';
import { EVENT_FORMAT } from '../../tunnel-client/src/log-server/log-format.ts';
import { parseLogRequest } from '../../tunnel-client/src/log-server/log-request.ts';
import {
  BLOCK_BYTES,
  countNewlines,
  createChangeSignal,
  MAX_PIECE_BYTES,
  sendable,
  wholeCharacters,
} from '../../tunnel-client/src/log-server/log-source.ts';
import { parseEvents } from '../support/logs.ts';
import { settle } from '../support/manual-clock.ts';

describe('whole characters', () => {
  it('are what a decoder that stops early has decoded', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.nat(), (text, end) => {
        const bytes = Buffer.from(text);
        const part = bytes.subarray(0, end % (bytes.length + 1));
        const decoded = new TextDecoder('utf-8', { ignoreBOM: true }).decode(part, { stream: true });
        assert.equal(wholeCharacters(part), Buffer.byteLength(decoded));
      }),
    );
  });

  it('lack at most three bytes of anything', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        const whole = wholeCharacters(bytes);
        assert.ok(whole <= bytes.length && whole >= bytes.length - 3);
      }),
    );
    assert.equal(wholeCharacters(Buffer.from([0x80, 0x80, 0x80, 0x80])), 4);
  });
});

describe('what may be sent', () => {
  it('is whole lines, all of what has ended, and of a line that is too long a whole piece', () => {
    assert.equal(sendable(Buffer.from('one\ntwo'), false), 4);
    assert.equal(sendable(Buffer.from('one'), false), 0);
    assert.equal(sendable(Buffer.from('one'), true), 3);
    const long = Buffer.from('€'.repeat(MAX_PIECE_BYTES)).subarray(0, MAX_PIECE_BYTES);
    assert.equal(sendable(long, false), MAX_PIECE_BYTES - (MAX_PIECE_BYTES % 3));
    assert.equal(sendable(long.subarray(1), false), 0);
  });
});

describe('the ring of what a command has printed', () => {
  it('gives every byte that it keeps, and knows the number of each line', () => {
    const chunk = fc.record({ lines: fc.nat({ max: 3_000 }), length: fc.integer({ min: 1, max: 90 }) });
    fc.assert(
      fc.property(fc.array(chunk, { maxLength: 12 }), fc.nat(), fc.nat(), (chunks, at, tail) => {
        const ring = createOutputRing(4);
        let all = Buffer.alloc(0);
        for (const { lines, length } of chunks) {
          const bytes = Buffer.from(`${'x'.repeat(length - 1)}\n`.repeat(lines));
          ring.append(bytes);
          all = Buffer.concat([all, bytes]);
        }
        assert.equal(ring.end(), all.length);
        assert.ok(ring.end() - ring.start() <= 4 * BLOCK_BYTES);
        assert.ok(ring.start() === 0 || ring.end() - ring.start() > 3 * BLOCK_BYTES);
        const offset = ring.start() + (at % (ring.end() - ring.start() + 1));
        const expected = all.subarray(offset, offset + BLOCK_BYTES);
        assert.ok(ring.read(offset, BLOCK_BYTES).equals(expected));
        assert.equal(ring.linesBefore(offset), countNewlines(all.subarray(0, offset)));
        const kept = countNewlines(all.subarray(ring.start()));
        const lines = kept === 0 ? 0 : tail % kept;
        assert.equal(countNewlines(all.subarray(ring.tail(lines))), lines);
        assert.ok(ring.tail(lines) === ring.start() || all[ring.tail(lines) - 1] === 10);
        assert.equal(ring.tail(kept + 1), ring.start());
      }),
      { numRuns: 50 },
    );
  });

  it('gets whole lines of a pipe, however they come', async () => {
    const text = 'ä one\n\nthree €\nlast 😀';
    const bytes = Buffer.from(text);
    for (let size = 1; size <= bytes.length; size++) {
      const pipe = new PassThrough();
      const got: Buffer[] = [];
      const lines = readLines(pipe, (part) => got.push(Buffer.from(part)));
      for (let from = 0; from < bytes.length; from += size) pipe.write(bytes.subarray(from, from + size));
      await settle();
      for (const part of got) assert.equal(part.at(-1), 10);
      lines.flush();
      assert.equal(Buffer.concat(got).toString(), text);
    }
  });

  it('does not wait for the end of a line that is longer than a block', async () => {
    const pipe = new PassThrough({ highWaterMark: 1 << 20 });
    const got: Buffer[] = [];
    const lines = readLines(pipe, (part) => got.push(part));
    pipe.write(Buffer.from(`a${'€'.repeat(BLOCK_BYTES)}`).subarray(0, BLOCK_BYTES + 1));
    await settle();
    assert.equal(got.length, 1);
    assert.ok(!got[0]?.toString().includes('\ufffd'), 'it is cut between characters');
    lines.flush();
    assert.equal(Buffer.concat(got).length, BLOCK_BYTES + 1);
  });
});

describe('events', () => {
  it('carry any text so that it comes out as it went in', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'binary' })), (texts) => {
        const lines = texts.map((text) => text.replaceAll(/[\r\n\ufeff\ud800-\udfff]/gu, ''));
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
        const events = parseEvents(EVENT_FORMAT.lines(bytes, 100).toString());
        assert.deepEqual(
          events.map(({ data }) => data),
          lines,
        );
        if (lines.length > 0) assert.equal(events.at(-1)?.id, String(100 + bytes.length));
      }),
    );
  });
});

describe('the question for a log', () => {
  const parse = (url: string, headers: Record<string, string> = {}) =>
    parseLogRequest({ method: 'GET', url, headers } as unknown as Parameters<typeof parseLogRequest>[0]);

  it('is text, follows and begins at the beginning when nothing is said', () => {
    assert.deepEqual(parse('/logs'), { format: 'text', follow: true, start: { kind: 'all' } });
    assert.deepEqual(parse('/logs?'), { format: 'text', follow: true, start: { kind: 'all' } });
  });

  it('goes on from the last event before anything else, then from since, then tail', () => {
    const from = (url: string, id?: string) => {
      const parsed = parse(url, id === undefined ? {} : { 'last-event-id': id });
      return 'start' in parsed ? parsed.start : parsed;
    };
    assert.deepEqual(from('/logs?tail=5&since=7', '9'), { kind: 'since', offset: 9 });
    assert.deepEqual(from('/logs?tail=5&since=7', 'x'), { kind: 'since', offset: 7 });
    assert.deepEqual(from('/logs?tail=5&since=7'), { kind: 'since', offset: 7 });
    assert.deepEqual(from('/logs?tail=5'), { kind: 'tail', lines: 5 });
    assert.deepEqual(from('/logs?since=0', ''), { kind: 'since', offset: 0 });
  });

  it('asks for events where Accept names them, with any weight but 0', () => {
    const format = (accept: string) => {
      const parsed = parse('/logs', { accept });
      return 'format' in parsed ? parsed.format : parsed;
    };
    assert.equal(format('text/event-stream'), 'events');
    assert.equal(format('text/plain;q=0.5, Text/Event-Stream ; q=0.1'), 'events');
    assert.equal(format('text/event-stream;q=0, */*'), 'text');
    assert.equal(format('*/*'), 'text');
  });
});

describe('a change signal', () => {
  it('wakes everybody once, and nobody who has seen the change', async () => {
    const change = createChangeSignal();
    const end = new AbortController();
    let woken = 0;
    const wait = (seen: number): void => void change.changed(seen, end.signal).then(() => (woken += 1));
    wait(change.version());
    wait(change.version());
    await settle();
    assert.equal(woken, 0);
    change.raise();
    await settle();
    assert.equal(woken, 2);
    wait(0);
    await settle();
    assert.equal(woken, 3, 'a change that came before is not missed');
    wait(change.version());
    end.abort();
    await settle();
    assert.equal(woken, 4);
  });
});
