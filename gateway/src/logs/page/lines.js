/** The lines that the viewer holds: in blocks, so that what is far away costs nothing, and so that old ones can go. */
import { parseLine, PLAIN } from './ansi.js';

/** Lines of a block: what is made and thrown away at once while scrolling; a millisecond's work. */
export const BLOCK_LINES = 100;
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

/** `note`: a line of the viewer's own, such as a gap. */
const makeLine = (raw, style) => {
  const cut = raw.length > MAX_LINE_CHARACTERS;
  const parsed = parseLine(cut ? raw.slice(0, MAX_LINE_CHARACTERS) : raw, style);
  const { text, runs } = parsed;
  const more = cut ? raw.length - MAX_LINE_CHARACTERS : 0;
  return { line: { text, runs, cells: cellsOf(text), more, note: false }, style: parsed.style };
};

export const createLines = () => {
  let blocks = [];
  let style = PLAIN;
  let count = 0;
  let characters = 0;
  /** Number of the first line that is still there; lines are counted from the first that ever came. */
  let first = 0;
  let widest = 0;

  const push = (line) => {
    let block = blocks.at(-1);
    if (!block || block.lines.length >= BLOCK_LINES) {
      block = { first: first + count, lines: [], version: 0 };
      blocks.push(block);
    }
    block.lines.push(line);
    block.version += 1;
    count += 1;
    characters += line.text.length;
    if (line.cells > widest) widest = line.cells;
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
    add(raw) {
      const made = makeLine(raw, style);
      style = made.style;
      push(made.line);
    },
    addNote(text) {
      style = PLAIN;
      push({ text, runs: undefined, cells: text.length, more: 0, note: true });
    },
    at(number) {
      const index = Math.floor((number - (blocks[0]?.first ?? 0)) / BLOCK_LINES);
      const block = blocks[index];
      return block?.lines[number - block.first];
    },
    /** Takes away the oldest blocks beyond the limits, and gives them. */
    trim() {
      let removed = 0;
      while (blocks.length - removed > 1 && (count > MAX_LINES || characters > MAX_CHARACTERS)) {
        const block = blocks[removed++];
        count -= block.lines.length;
        first += block.lines.length;
        for (const { text } of block.lines) characters -= text.length;
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
        if (block.first + block.lines.length <= from || block.first >= to) continue;
        block.lines.forEach(({ text }, index) => {
          const number = block.first + index;
          if (number >= from && number < to) parts.push(text);
        });
      }
      return parts.map((text) => `${text}\n`).join('');
    },
  };
};
