/**
 * What is under way, oldest first. In place of a `Set` or `Map` wherever entries come and go with requests: when V8 makes a
 * new table for one of those, the old table refers to the new one, so once a table has become old, each that follows is
 * taken for alive with all that it held, until the next full collection. So requests outlived two collections of young
 * objects, and were copied by both.
 */

/** A place in a list. */
export interface Place<T> {
  readonly value: T;
  before: Place<T> | undefined;
  behind: Place<T> | undefined;
  listed: boolean;
}

export class LinkedList<T> {
  size = 0;
  #first: Place<T> | undefined;
  #last: Place<T> | undefined;

  add(value: T): Place<T> {
    const place: Place<T> = { value, before: this.#last, behind: undefined, listed: true };
    if (this.#last) this.#last.behind = place;
    else this.#first = place;
    this.#last = place;
    this.size += 1;
    return place;
  }

  /** False: it is not there any more. */
  remove(place: Place<T>): boolean {
    if (!place.listed) return false;
    const { before, behind } = place;
    if (before) before.behind = behind;
    else this.#first = behind;
    if (behind) behind.before = before;
    else this.#last = before;
    // A place that is gone keeps nothing alive.
    place.before = undefined;
    place.behind = undefined;
    place.listed = false;
    this.size -= 1;
    return true;
  }

  /** Those that are there now; the list may change meanwhile. */
  values(): T[] {
    const values: T[] = [];
    for (let place = this.#first; place; place = place.behind) values.push(place.value);
    return values;
  }

  get first(): T | undefined {
    return this.#first?.value;
  }
}
