/** Finds the lines that have a text, a slice of time at a time, and goes from one to the next. */

import { BLOCK_LINES } from './lines.js';

/** A slice of searching, ms: the page stays at hand. */
const SLICE_MS = 8;
/** From the last key to the search, ms. */
const TYPING_MS = 120;

export const createSearch = ({ lines, view, onChange }) => {
  let pattern;
  let found = [];
  /** The next line to look at. */
  let at = 0;
  /** Index in `found`; -1 while none was gone to. */
  let current = -1;
  let timer;

  const has = (line) => {
    pattern.lastIndex = 0;
    return !line.note && pattern.test(line.text);
  };
  const tell = () =>
    onChange({ count: found.length, current, isDone: at >= lines.end, isActive: pattern !== undefined });

  const slice = () => {
    timer = undefined;
    if (!pattern) return;
    const until = performance.now() + SLICE_MS;
    at = Math.max(at, lines.first);
    while (at < lines.end && performance.now() < until) {
      const block = lines.blocks[Math.floor((at - lines.first) / BLOCK_LINES)];
      lines.parse(block).forEach((line, index) => {
        if (block.first + index >= at && has(line)) found.push(block.first + index);
      });
      at = block.first + block.count;
    }
    tell();
    if (at < lines.end) timer = setTimeout(slice, 0);
  };
  const go = (index) => {
    if (found.length === 0) return;
    current = (index + found.length) % found.length;
    view.refresh(found[current]);
    view.reveal(found[current]);
    tell();
  };

  return {
    /** Where `text` has what is searched. */
    ranges(text) {
      if (!pattern) return [];
      return Array.from(text.matchAll(pattern), ({ index, 0: { length } }) => ({ start: index, end: index + length }));
    },
    set(query) {
      clearTimeout(timer);
      pattern = query === '' ? undefined : new RegExp(query.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'), 'gi');
      found = [];
      at = lines.first;
      current = -1;
      view.refresh();
      tell();
      if (pattern) timer = setTimeout(slice, TYPING_MS);
    },
    /** Lines came, or the oldest went. */
    grown() {
      if (!pattern) return;
      let gone = 0;
      while (gone < found.length && found[gone] < lines.first) gone++;
      if (gone > 0) {
        found.splice(0, gone);
        current = Math.max(-1, current - gone);
      }
      timer ??= setTimeout(slice, 0);
    },
    reset() {
      found = [];
      at = 0;
      current = -1;
      this.grown();
    },
    /** The first time the newest one: what just happened is what people look for. */
    previous: () => go(current === -1 ? found.length - 1 : current - 1),
    next: () => go(current === -1 ? found.length - 1 : current + 1),
  };
};
