import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createBulkTurns } from '../../shared/src/protocol/bulk-turns.ts';
import { createManualClock } from '../support/manual-clock.ts';

describe('turns of bulk', () => {
  it('go on at once while small streams are quiet', async () => {
    const clock = createManualClock();
    const turns = createBulkTurns(clock);
    await clock.advance(60_000);
    assert.equal(turns.standBack(), undefined);
    turns.small();
    await clock.advance(3);
    assert.equal(turns.standBack(), undefined);
  });

  it('stand back while small streams are busy, for no longer than bulk has had', async () => {
    const clock = createManualClock();
    const turns = createBulkTurns(clock);
    await clock.advance(2);
    turns.small();
    let isBack = false;
    const waiting = turns.standBack()?.then(() => (isBack = true));
    assert.ok(waiting, 'bulk goes on');
    assert.equal(turns.standBack() === undefined, false, 'another lane goes on');
    await clock.advance(1);
    turns.small();
    assert.equal(isBack, false);
    await clock.advance(1);
    await waiting;
    turns.small();
    assert.equal(turns.standBack(), undefined, 'it stands back again before it has had any time');
  });

  it('end the pause early when small streams fall silent', async () => {
    const clock = createManualClock();
    const turns = createBulkTurns(clock);
    await clock.advance(60_000);
    turns.small();
    const waiting = turns.standBack();
    assert.ok(waiting, 'bulk goes on');
    await clock.advance(3);
    await waiting;
  });

  it('leave bulk half of the time, however busy small streams are', async () => {
    const clock = createManualClock();
    const turns = createBulkTurns(clock);
    let had = 0;
    for (let ms = 0; ms < 1_000; ms++) {
      turns.small();
      const waiting = turns.standBack();
      if (!waiting) had += 1;
      await clock.advance(1);
    }
    assert.ok(had >= 450 && had <= 600, `bulk had ${had} of 1,000 ms`);
  });

  it('take one piece at a time, of whichever lane', async () => {
    const turns = createBulkTurns();
    const order: string[] = [];
    const pieces = ['a', 'b', 'c'].map((name) => turns.nextPiece().then(() => order.push(name)));
    let loops = 0;
    const count = (): void => {
      loops += 1;
      if (order.length < 3) setImmediate(count);
    };
    setImmediate(count);
    await Promise.all(pieces);
    assert.deepEqual(order, ['a', 'b', 'c']);
    assert.ok(loops >= 5, `three pieces in ${loops} turns of the loop`);
  });
});
