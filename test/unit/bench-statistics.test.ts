import assert from 'node:assert/strict';
import { test } from 'node:test';
import { median, quantile, ratioOf, spread } from '../bench/peers/statistics.ts';

test('median and quantiles lie between the nearest figures', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(quantile([0, 10], 0.99), 9.9);
  assert.ok(Number.isNaN(median([])));
});

test('spread is the whole range as a part of the median', () => {
  assert.equal(spread([90, 100, 110]), 0.2);
});

test('ratios are taken round by round, so that a slow round does not count twice', () => {
  assert.deepEqual(ratioOf([100, 50, 120], [200, 100, 200]), { median: 0.5, min: 0.5, max: 0.6 });
  assert.deepEqual(ratioOf([undefined, 50], [200, 100]), { median: 0.5, min: 0.5, max: 0.5 });
  assert.equal(ratioOf([1], []), undefined);
});
