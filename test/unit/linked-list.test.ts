import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { LinkedList, type Place } from '../../gateway/src/linked-list.ts';

describe('a linked list', () => {
  it('holds what a Map does, in the same order', () => {
    const step = fc.oneof(fc.constant('add' as const), fc.nat(20));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const list = new LinkedList<number>();
        const model = new Map<number, number>();
        const places: Place<number>[] = [];
        for (const each of steps) {
          if (each === 'add') {
            model.set(places.length, places.length);
            places.push(list.add(places.length));
          } else {
            const place = places[each];
            if (place) assert.equal(list.remove(place), model.delete(each));
          }
          assert.deepEqual(list.values(), [...model.values()]);
          assert.deepEqual([list.size, list.first], [model.size, [...model.values()][0]]);
        }
      }),
    );
  });

  it('keeps nothing by a place that is gone', () => {
    const list = new LinkedList<string>();
    const [first, second, third] = ['a', 'b', 'c'].map((value) => list.add(value));
    assert.ok(first && second && third);
    list.remove(second);
    assert.deepEqual([second.before, second.behind], [undefined, undefined]);
    assert.deepEqual([first.behind, third.before], [third, first]);
  });
});
