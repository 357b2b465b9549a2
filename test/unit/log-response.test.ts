import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ClientResponse } from '../../gateway/src/proxy/client-response.ts';
import { createLogResponse, MAX_HELD_LINE_BYTES } from '../../gateway/src/proxy/log-response.ts';

const LOG_HEAD = ['Content-Type', 'text/plain; charset=utf-8', 'Log-Offset', '0'];

/** A response that keeps what is written, and what a log response makes of it. */
const setUp = (head: string[] = LOG_HEAD, options: { target?: string; fileName?: string; status?: number } = {}) => {
  const written: string[] = [];
  let headers: string[] = [];
  let isEnded = false;
  let takesMore = true;
  const inner: ClientResponse = {
    begun: () => true,
    continue: () => undefined,
    information: () => undefined,
    head: (_status, _reason, lines) => void (headers = lines),
    flushHead: () => undefined,
    write(chunk) {
      written.push(Buffer.from(chunk).toString('latin1'));
      return takesMore;
    },
    onDrain: () => undefined,
    end: () => void (isEnded = true),
  };
  const response = createLogResponse(inner, { target: options.target ?? '/logs', fileName: options.fileName });
  response.head(options.status ?? 200, '', [...head]);
  return {
    write: (text: string) => response.write(Buffer.from(text, 'latin1')),
    end: () => response.end([], { requestComplete: true }),
    endAtLine: () => response.endAtLine(),
    written: () => written.join(''),
    headers: () => headers,
    isEnded: () => isEnded,
    block: () => void (takesMore = false),
  };
};

describe('the response of a log server', () => {
  it('passes in whole lines, and all of it in the end', () => {
    const log = setUp();
    log.write('one\ntw');
    assert.equal(log.written(), 'one\n');
    log.write('o\n');
    log.write('thr');
    log.write('ee');
    assert.equal(log.written(), 'one\ntwo\n');
    log.end();
    assert.equal(log.written(), 'one\ntwo\nthree');
    assert.ok(log.isEnded());
  });

  it('ends behind the last whole line when its way is lost, so that its bytes count to where the next one begins', () => {
    const log = setUp();
    log.write('one\ntw');
    assert.ok(log.endAtLine());
    assert.equal(log.written(), 'one\n');
    assert.ok(log.isEnded());
    const empty = setUp();
    empty.write('on');
    assert.ok(empty.endAtLine());
    assert.equal(empty.written(), '');
  });

  it('holds no more than a limit, and puts no end into a line of which a part is out', () => {
    const log = setUp();
    log.write('x'.repeat(MAX_HELD_LINE_BYTES));
    assert.equal(log.written(), '');
    log.write('y');
    assert.equal(log.written().length, MAX_HELD_LINE_BYTES + 1);
    assert.ok(!log.endAtLine());
    assert.ok(!log.isEnded());
    log.write('z\nnext');
    assert.ok(log.endAtLine());
    assert.ok(log.written().endsWith('yz\n'));
  });

  it('says when the client takes no more', () => {
    const log = setUp();
    assert.equal(log.write('one\n'), true);
    log.block();
    assert.equal(log.write('two\n'), false);
    assert.equal(log.write('par'), true, 'what is held waits for nobody');
  });

  it('is cut where an end would mean that the log has ended', () => {
    for (const target of ['/logs?follow=false', '/logs?tail=1&follow=0']) {
      const log = setUp(LOG_HEAD, { target });
      log.write('one\n');
      assert.ok(!log.endAtLine(), target);
    }
    assert.ok(setUp(LOG_HEAD, { target: '/logs?follow=true' }).endAtLine());
  });

  it('is left alone when it is not that of the built-in log server', () => {
    for (const head of [
      ['Content-Type', 'text/plain'],
      ['Content-Type', 'text/event-stream', 'Log-Offset', '0'],
      [...LOG_HEAD, 'Content-Length', '3'],
    ]) {
      const log = setUp(head);
      log.write('par');
      assert.equal(log.written(), 'par', head.join());
      assert.ok(!log.endAtLine());
    }
    const failed = setUp(LOG_HEAD, { status: 502 });
    failed.write('par');
    assert.equal(failed.written(), 'par');
  });

  it('is a file where one was asked for, and only when it is the log', () => {
    assert.deepEqual(setUp(LOG_HEAD, { fileName: 'demo.log' }).headers().slice(-2), [
      'Content-Disposition',
      'attachment; filename="demo.log"',
    ]);
    assert.deepEqual(setUp(LOG_HEAD, { fileName: 'demo.log', status: 404 }).headers(), LOG_HEAD);
  });
});
