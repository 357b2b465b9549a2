/** The lines that the viewer holds: in blocks, so that what is far away costs nothing, and so that old ones can go. */
import { parseLine, PLAIN } from './ansi.js';

/** Lines of a block: what is made and thrown away at once while scrolling; less than a millisecond's work. */
export const BLOCK_LINES = 50;
/** Lines that are kept; 100,000 of a usual log take 30 MB. Beyond: the oldest go. */
export const MAX_LINES = 200_000;
/** Characters that are kept. Beyond: the oldest lines go. */
const MAX_CHARACTERS = 64 << 20;
/** Characters of a line that are shown and searched; a longer one is cut, and says so. The download has all of it. */
const MAX_LINE_CHARACTERS = 20_000;

/** East Asian wide characters and most emoji take two cells; joined and combining ones are counted as if they took one. */
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6]|[\ud83c-\ud83e][\udc00-\udfff]/g;
const SIMPLE = /^[\x20-\x7e]*$/;
const TAB = 8;

const cellsOf = (text) => {
  if (SIMPLE.test(text)) return text.length;
  let cells = 0;
  text.split('\t').forEach((part, index) => {
    if (index > 0) cells = (Math.floor(cells / TAB) + 1) * TAB;
    cells += part.length;
  });
  // A surrogate pair is already two.
  return cells + (text.match(WIDE) ?? []).filter((character) => character.length === 1).length;
};

const NOTHING = new Map();

/**
 * Blocks are `{ first, count, cells, version }` and what is below. A full block keeps its lines as one string: a hundred
 * thousand objects would be looked at by each garbage collection, in the middle of scrolling.
 */
export const createLines = () => {
  let blocks = [];
  /** In which the next line begins. */
  let style = PLAIN;
  let count = 0;
  let characters = 0;
  /** Number of the first line that is still there; lines are counted from the first that ever came. */
  let first = 0;
  let widest = 0;

  const openBlock = () => {
    const last = blocks.at(-1);
    if (last && last.count < BLOCK_LINES) return last;
    const block = {
      first: first + count,
      count: 0,
      version: 0,
      style,
      sources: [],
      source: undefined,
      isPlain: true,
      cells: new Uint32Array(BLOCK_LINES),
      notes: NOTHING,
      cut: NOTHING,
      characters: 0,
    };
    blocks.push(block);
    return block;
  };
  const push = (block, source, cells) => {
    block.sources.push(source);
    block.cells[block.count] = cells;
    block.count += 1;
    block.version += 1;
    block.characters += source.length;
    characters += source.length;
    count += 1;
    if (cells > widest) widest = cells;
    if (block.count < BLOCK_LINES) return;
    block.source = block.sources.join('\n');
    block.sources = undefined;
  };
  const sourcesOf = (block) => block.sources ?? block.source.split('\n');

  /** `{ text, runs, more, note }` of each line; see parseLine. `more`: characters that were cut off. */
  const parse = (block) => {
    let current = block.style;
    return sourcesOf(block).map((source, index) => {
      if (block.notes.has(index)) {
        current = PLAIN;
        return { text: source, runs: undefined, more: 0, note: true };
      }
      const parsed = parseLine(source, current);
      current = parsed.style;
      return { text: parsed.text, runs: parsed.runs, more: block.cut.get(index) ?? 0, note: false };
    });
  };

  return {
    get blocks() {
      return blocks;
    },
    get count() {
      return count;
    },
    get first() {
      return first;
    },
    get end() {
      return first + count;
    },
    /** Cells of the widest line that came. */
    get widest() {
      return widest;
    },
    parse,
    add(raw) {
      const block = openBlock();
      const source = raw.length > MAX_LINE_CHARACTERS ? raw.slice(0, MAX_LINE_CHARACTERS) : raw;
      if (source !== raw) {
        if (block.cut === NOTHING) block.cut = new Map();
        block.cut.set(block.count, raw.length - source.length);
      }
      const parsed = parseLine(source, style);
      style = parsed.style;
      if (parsed.text !== source || parsed.runs) block.isPlain = false;
      push(block, source, cellsOf(parsed.text));
    },
    /** A line of the viewer's own, such as a gap. */
    addNote(text) {
      style = PLAIN;
      const block = openBlock();
      if (block.notes === NOTHING) block.notes = new Map();
      block.notes.set(block.count, true);
      push(block, text, text.length);
    },
    textAt(number) {
      const block = blocks[Math.floor((number - first) / BLOCK_LINES)];
      return block ? (parse(block)[number - block.first]?.text ?? '') : '';
    },
    /** Takes away the oldest blocks beyond the limits, and gives them. */
    trim() {
      let removed = 0;
      while (blocks.length - removed > 1 && (count > MAX_LINES || characters > MAX_CHARACTERS)) {
        const block = blocks[removed++];
        count -= block.count;
        first += block.count;
        characters -= block.characters;
      }
      return removed === 0 ? [] : blocks.splice(0, removed);
    },
    clear() {
      blocks = [];
      style = PLAIN;
      first = 0;
      count = 0;
      characters = 0;
      widest = 0;
    },
    /** The text of lines `from` to before `to`, each with its newline. */
    text(from = first, to = first + count) {
      const parts = [];
      for (const block of blocks) {
        if (block.first + block.count <= from || block.first >= to) continue;
        const texts = block.isPlain ? sourcesOf(block) : parse(block).map(({ text }) => text);
        parts.push(...texts.slice(Math.max(0, from - block.first), to - block.first));
      }
      return parts.map((text) => `${text}\n`).join('');
    },
  };
};
